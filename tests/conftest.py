"""Fixtures that every test may use. Redis is real everywhere: the embedded one, or what the environment names."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from jobs.broker import MessageMaker, make_celery
from jobs.redis_clients import worker_client
from jobs.settings import Settings
from jobs.store import JobStore
from tests import processes


def pytest_configure() -> None:
    """Ctrl-C counts: whoever was begun in the background ignores it, and so would all that the tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _named_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where ``TEST_REDIS_SERVER`` names a server's binary (make test-system), ``PROMPTQ_REDIS_URL`` is one of it.

    Each of xdist's processes has its own: tests change its settings.
    """
    binary = os.environ.get("TEST_REDIS_SERVER")
    if not binary:
        yield
        return
    with processes.redis_server(tmp_path_factory.mktemp("named"), Path(binary)) as url:
        os.environ["PROMPTQ_REDIS_URL"] = url
        yield
        del os.environ["PROMPTQ_REDIS_URL"]


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server for the whole session, database 1."""
    given = os.environ.get("PROMPTQ_REDIS_URL")
    if given:
        yield given.rstrip("/").removesuffix("/0") + "/1"
        return
    with processes.redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url.removesuffix("/0") + "/1"


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of an empty database."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
        yield client


@pytest.fixture(scope="session")
def messages() -> MessageMaker:
    """Writes Celery messages."""
    return MessageMaker(make_celery(Settings()))


@pytest.fixture
def store(redis_client: redis.Redis, redis_url: str, messages: MessageMaker) -> Iterator[JobStore]:
    """A store on an empty database."""
    client = worker_client(Settings(redis_url=redis_url))
    yield JobStore(client, messages, result_ttl=3600)
    client.close()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[processes.Stack]:
    """The whole stack with quick retries, shared by all integration tests: tell your jobs apart by their prompts."""
    folder: Path = tmp_path_factory.mktemp("stack")
    settings = {"PROMPTQ_RETRY_BASE": "0.05", "PROMPTQ_RETRY_MAX": "0.2", "PROMPTQ_MAX_ATTEMPTS": "3"}
    with processes.stack(folder, "--concurrency", "50", "--simulator-latency", "0.05", **settings) as running:
        yield running
