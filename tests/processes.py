"""Real processes for tests: a Redis server, and the whole stack as ``promptq up`` starts it."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import redis

from cli.stack import valkey

T = TypeVar("T")


def eventually(read: Callable[[], T], until: Callable[[T], object] = bool, *, within: float = 10.0) -> T:
    """Read until the reading is right and answer it; fails with the last reading after ``within`` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = read()
        if until(value):
            return value
        assert time.monotonic() < deadline, f"after {within:g} s still {value!r}"
        time.sleep(0.02)


def _own_ports() -> Iterator[int]:
    """Ports that no other of xdist's processes gives away, nor ``promptq up``, nor the kernel to who connects."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = list(range(10_000 + 1000 * (number % 10), 11_000 + 1000 * (number % 10)))
    random.SystemRandom().shuffle(own)
    return itertools.cycle(own)


_PORTS = _own_ports()


def free_port() -> int:
    """A port that was free a moment ago, and is not given again soon."""
    for port in itertools.islice(_PORTS, 1000):
        with socket.socket() as probe:
            # As servers do; without it a port is taken for a minute after its last connection.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                probe.listen()
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
    raise AssertionError("no port is free")


def end(process: subprocess.Popen[Any], *, within: float = 20.0) -> int:
    """Stop a process with SIGTERM and answer its exit code; SIGKILL if it does not go."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(within)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
    return process.returncode


@contextlib.contextmanager
def redis_server(folder: Path, server: Path | None = None) -> Iterator[str]:
    """The embedded server, or another, in a folder of its own; yields its URL."""
    port = free_port()
    process = start_redis(folder, port, server)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        end(process)


def start_redis(folder: Path, port: int, server: Path | None = None) -> subprocess.Popen[bytes]:
    """The embedded server, or another, on this port, with the data that the folder holds, once it answers."""
    folder.mkdir(parents=True, exist_ok=True)
    command = valkey.command(server or valkey.find_server(), port)
    with (folder / "redis.log").open("a") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    with redis.Redis.from_url(f"redis://127.0.0.1:{port}/0") as client:
        eventually(lambda: _answers(client))
    return process


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[Mapping[str, str]]:
    """An S3 server with the bucket ``promptq``; yields the settings for a prefix in it."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "s3.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        eventually(lambda: _made_bucket(url), within=60)
        yield {
            "PROMPTQ_STORAGE": "s3://promptq/some/prefix",
            "PROMPTQ_S3_ENDPOINT": url,
            "PROMPTQ_S3_REGION": "us-east-1",
            "PROMPTQ_S3_ACCESS_KEY_ID": "key",
            "PROMPTQ_S3_SECRET_ACCESS_KEY": "secret",
        }
    finally:
        end(process)


def _made_bucket(url: str) -> bool:
    try:
        return httpx2.put(f"{url}/promptq", timeout=20).status_code == 200
    except httpx2.TransportError:
        return False


@dataclass(frozen=True)
class Stack:
    """A running stack, as its ready file describes it."""

    api: str
    llm: str
    redis: str
    api_key: str
    flower: str | None
    #: ``user:password``
    flower_login: str | None
    processes: Mapping[str, int]
    #: Where each process that exports metrics does.
    metrics: Sequence[str]
    up: subprocess.Popen[str]
    folder: Path

    def stats(self) -> dict[str, Any]:
        """What the simulator counted."""
        return httpx2.get(self.llm.removesuffix("/v1") + "/stats").raise_for_status().json()  # type: ignore[no-any-return]

    def client(self, **options: Any) -> httpx2.Client:
        """A plain HTTP client with the key."""
        headers = {"Authorization": f"Bearer {self.api_key}", **options.pop("headers", {})}
        return httpx2.Client(base_url=self.api, headers=headers, timeout=options.pop("timeout", 60), **options)

    def logs(self) -> str:
        """Everything that the parts have logged."""
        return "".join(log.read_text() for log in sorted((self.folder / "data" / "logs").glob("*.log")))


def _begin(command: Sequence[str], env: Mapping[str, str], folder: Path, ready: Path) -> subprocess.Popen[str]:
    """``promptq up``, once it is ready. Two that begin at once may choose the same port: then it is begun again."""
    for _ in range(3):
        with (folder / "up.log").open("w") as log:
            up = subprocess.Popen(command, env=env, stdout=log, stderr=log, text=True)
        try:
            eventually(lambda up=up: ready.exists() or up.poll() is not None, within=90)  # type: ignore[misc]
        except BaseException:
            end(up, within=40)
            raise
        if up.poll() is None:
            return up
        told = [(folder / "up.log").read_text(), *(log.read_text() for log in (folder / "data" / "logs").glob("*.log"))]
        if not any("ddress already in use" in text for text in told):
            break
    raise AssertionError(told[0])


@contextlib.contextmanager
def stack(folder: Path, *arguments: str, **settings: str) -> Iterator[Stack]:
    """``promptq up`` on the simulator, with these settings (``PROMPTQ_…`` in capitals) and free ports."""
    ready = folder / "ready.json"
    folder.mkdir(parents=True, exist_ok=True)
    outside = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    command = [
        *(sys.executable, "-m", "cli", "up", "--simulator", "--port", "0", "--flower-port", "0"),
        *("--data-dir", str(folder / "data"), "--ready-file", str(ready), *arguments),
    ]
    up = _begin(command, outside | settings, folder, ready)
    try:
        told = json.loads(ready.read_text())
        yield Stack(
            api=told["api"],
            llm=told["llm"],
            redis=told["redis"],
            api_key=told["api_key"],
            flower=told.get("flower"),
            flower_login=told.get("flower_login"),
            processes=told["processes"],
            metrics=told["metrics"],
            up=up,
            folder=folder,
        )
    finally:
        end(up, within=40)
