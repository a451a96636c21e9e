"""The embedded server, started for real."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from cli.stack import valkey
from cli.stack.guard import Guard
from cli.stack.ports import Ports
from cli.stack.processes import Part
from cli.stack.ready import redis_answers
from cli.stack.signals import StopRequests
from cli.stack.supervisor import Supervisor


@contextmanager
def server(directory: Path, logs: Path) -> Iterator[tuple[redis.Redis, int]]:
    with Ports() as ports:
        port = ports.take("127.0.0.1", 0, option="--redis-port")
    url = f"redis://127.0.0.1:{port}/0"
    command = valkey.command(valkey.find_server(), port)
    part = Part("redis", command, os.environ, redis_answers(url), cwd=directory)
    with (
        StopRequests() as requests,
        Guard() as guard,
        Supervisor(guard=guard, logs=logs, requests=requests, stages=[["redis"]], grace=10) as supervisor,
    ):
        supervisor.start([part], timeout=20)
        with redis.Redis.from_url(url, decode_responses=True) as client:
            yield client, supervisor.children["redis"].pid


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    data, logs = tmp_path / "with space's", tmp_path / "logs"
    data.mkdir()
    logs.mkdir()
    return data, logs


def test_it_runs_the_scripts_that_the_queue_needs(folders: tuple[Path, Path]) -> None:
    """It is a Redis 7 or newer, whose scripts may carry flags; it refuses rather than forgets, and binds loopback."""
    with server(*folders) as (client, _):
        assert client.eval("#!lua flags=allow-oom\nreturn 7", 0) == 7
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_what_it_holds_survives_a_stop_and_a_kill(folders: tuple[Path, Path]) -> None:
    """An orderly stop and a kill -9 of the server both leave what was written, in its own directory."""
    with server(*folders) as (client, _):
        client.set("first", "1")
    with server(*folders) as (client, pid):
        assert client.get("first") == "1"
        client.set("second", "2")
        os.kill(pid, 9)
    with server(*folders) as (client, _):
        assert client.mget("first", "second") == ["1", "2"]
    assert (folders[0] / "appendonlydir").is_dir()
