"""Redis clients with blocking, bounded pools and bounded waits, one kind for each use."""

from __future__ import annotations

import os
import time
from queue import Empty
from typing import Any, Final

from redis import BlockingConnectionPool, Redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.connection import parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from jobs.fair_stack import FairStack
from jobs.settings import Settings

#: How long (seconds) a connection that has answered is taken for alive.
_LATELY: Final = 0.1
#: How long an answer may wait for the disk besides.
DISK_SECONDS: Final = 1.0


class NotSent(RedisConnectionError):
    """Raised when no connection could be had, so that the command has certainly not run."""


class _Pool(BlockingConnectionPool):
    """A bounded pool whose callers wait in turn for a free connection, and that tells apart what was never sent."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, queue_class=FairStack)  # type: ignore[no-untyped-call]

    def get_connection(self, *_: Any, **__: Any) -> Any:
        """A connection that can be written to. Raises ``NotSent``.

        redis-py looks at each one's socket first, which costs as much as all the rest of a command. One that has
        answered a moment ago needs no look.
        """
        try:
            connection = self.pool.get(timeout=self.timeout)
        except Empty:
            raise NotSent("No connection is free.") from None
        if connection is not None and self.pid == os.getpid() and _answered_lately(connection):
            return connection
        self.pool.put_nowait(connection)
        try:
            return super().get_connection()  # type: ignore[no-untyped-call]
        except (RedisConnectionError, RedisTimeoutError) as error:
            raise NotSent(str(error)) from error


def _answered_lately(connection: Any) -> bool:
    # Each answer puts off the next health check.
    answered = connection.next_health_check - connection.health_check_interval
    return bool(connection.is_connected and time.monotonic() - answered < _LATELY)


class _MasterPool(SentinelConnectionPool, _Pool):
    """The same, of connections to whichever server the Sentinels call the master."""

    def owns_connection(self, connection: Any) -> bool:
        """Whether the connection may be used again: also one that is closed, since it asks for the master anew.

        redis-py would drop it and keep it in its list for good, one for each try while there is no master.
        """
        return connection._sock is None or bool(super().owns_connection(connection))  # type: ignore[no-untyped-call]


def api_client(settings: Settings) -> Redis:
    """A client that never tries twice and gives up within about two seconds, so that a 503 comes in time.

    With one try only, an error tells for sure whether a command may have run (see ``JobStore.create``). Where an answer
    waits for the disk, it may take a second more.
    """
    timeout = settings.redis_timeout + (DISK_SECONDS if settings.durability == "fsync" else 0)
    return _client(settings, timeout=timeout, pool_wait=1.0, retry=Retry(NoBackoff(), 0))


def worker_client(settings: Settings) -> Redis:
    """A client that rides out a short trouble: every step is safe to replay, so it is simply sent again."""
    retry = Retry(ExponentialBackoff(cap=1.0, base=0.05), 3, (RedisConnectionError, RedisTimeoutError))
    return _client(settings, timeout=5.0, pool_wait=30.0, retry=retry)


def listener_client(settings: Settings) -> Redis:
    """A client for one subscriber; its reader decides itself how long to wait."""
    return _client(settings, timeout=5.0, pool_wait=1.0, retry=Retry(NoBackoff(), 0))


def _client(settings: Settings, *, timeout: float, pool_wait: float, retry: Retry) -> Redis:
    connect_timeout = 0.5 if timeout < 5 else 2.0
    options: dict[str, Any] = {
        "max_connections": settings.redis_max_connections,
        "timeout": pool_wait,
        "socket_timeout": timeout,
        "socket_connect_timeout": min(timeout, connect_timeout),
        "socket_keepalive": True,
        "health_check_interval": 30,
        # No greeting: it would triple what a connection costs, in the very moment when many are needed at once.
        "protocol": 2,
        "driver_info": None,
        "retry": retry,
    }
    if not settings.redis_sentinels:
        return Redis.from_pool(_Pool.from_url(settings.redis_login_url, **options))
    given = parse_url(settings.redis_login_url)
    known = {name: given[name] for name in ("username", "password", "db") if name in given}
    sentinel = Sentinel(
        settings.redis_sentinels,
        sentinel_kwargs={
            **sentinel_login(settings),
            "socket_timeout": 0.5,
            "socket_connect_timeout": 0.5,
            "retry": Retry(NoBackoff(), 0),
        },
    )
    pool = _MasterPool(settings.redis_master, sentinel, **known, **options)  # type: ignore[no-untyped-call]
    return Redis.from_pool(pool)


def sentinel_login(settings: Settings) -> dict[str, str]:
    """What the Sentinels want of a client, for redis-py and for kombu."""
    login = {}
    if settings.redis_sentinel_username is not None:
        login["username"] = settings.redis_sentinel_username
    if settings.redis_sentinel_password is not None:
        login["password"] = settings.redis_sentinel_password.get_secret_value()
    return login
