"""Clients of Redis behind Sentinels; tests/faults/test_failover.py has the real ones."""

from __future__ import annotations

import contextlib

import pytest
import redis

from jobs.broker import make_celery
from jobs.errors import AcceptanceUnknown, StoreUnavailable
from jobs.redis_clients import api_client
from jobs.redis_errors import redis_errors
from jobs.settings import Settings
from tests import processes


def behind(ports: list[int], **settings: object) -> Settings:
    """Settings with Sentinels at these ports."""
    given = ",".join(f"127.0.0.1:{port}" for port in ports)
    return Settings(redis_sentinels=given, **settings)  # type: ignore[arg-type]


def test_sentinels_that_are_away_cost_no_memory() -> None:
    """While nobody names a master each request fails, and leaves nothing behind."""
    settings = behind([processes.free_port(), processes.free_port()], redis_max_connections=4)
    with contextlib.closing(api_client(settings)) as client:
        for _ in range(20):
            with pytest.raises(redis.ConnectionError):
                client.ping()
        assert len(client.connection_pool._connections) <= 4


def test_no_sentinel_is_waited_for_longer_than_a_caller_waits() -> None:
    """One whose machine is gone is given up after half a second, on connecting as on answering."""
    with contextlib.closing(api_client(behind([1]))) as client:
        (sentinel,) = client.connection_pool.sentinel_manager.sentinels
        about = sentinel.connection_pool.connection_kwargs
        assert (about["socket_timeout"], about["socket_connect_timeout"]) == (0.5, 0.5)


def test_store_and_broker_take_the_same_login_and_database() -> None:
    """User, password and database of the URL hold at the master, for redis-py as for kombu."""
    settings = behind([26379, 26380], redis_url="redis://me:p%40s@any/3", redis_master="main")
    with contextlib.closing(api_client(settings)) as client:
        about = client.connection_pool.connection_kwargs
        assert (about["username"], about["password"], about["db"]) == ("me", "p@s", 3)
    app = make_celery(settings)
    assert app.conf.broker_url == "sentinel://me:p%40s@127.0.0.1:26379/3;sentinel://me:p%40s@127.0.0.1:26380/3"
    assert app.conf.broker_transport_options["master_name"] == "main"


def test_a_master_that_became_a_replica_has_done_nothing() -> None:
    """redis-py tells so with a plain connection error; it is not mistaken for a lost reply."""

    def demoted() -> None:
        try:
            raise redis.ReadOnlyError("You can't write against a read only replica.")
        except redis.ReadOnlyError:
            raise redis.ConnectionError("The previous master is now a slave")  # noqa: B904  # as redis/sentinel.py does

    with pytest.raises(StoreUnavailable), redis_errors(lost_reply=AcceptanceUnknown):
        demoted()


@pytest.mark.parametrize(
    "wrong",
    [
        {"redis_url": "redis://:a;b@host/1"},
        {"redis_url": "redis://host?db=3"},
        {"redis_url": "rediss://host/0", "redis_sentinels": "a:1"},
        {"redis_url": "redis://host/0?timeout=1", "redis_sentinels": "a:1"},
        {"redis_sentinels": "host"},
        {"redis_sentinels": "host:0"},
    ],
)
def test_what_store_and_broker_would_read_differently_is_refused(wrong: dict[str, str]) -> None:
    """A bad address ends the process at its start, not its first job."""
    with pytest.raises(ValueError, match=r"PROMPTQ_REDIS|must"):
        Settings(**wrong)  # type: ignore[arg-type]
