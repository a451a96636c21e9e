"""How one tells that a part answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx2
import redis

Ready = Callable[[], bool]
_ONE_TRY = 2.0


def http_ok(url: str) -> Ready:
    """Ready when GET ``url`` answers 200."""

    def ready() -> bool:
        try:
            # No proxy of the environment is for loopback; and without TLS there is nothing to verify, while loading
            # the certificates takes 30 ms each time.
            return httpx2.get(url, timeout=_ONE_TRY, trust_env=False, verify=False).status_code == httpx2.codes.OK
        except httpx2.TransportError:
            return False

    return ready


def file_written(path: Path) -> Ready:
    """Ready when ``path`` exists and is not empty."""

    def ready() -> bool:
        return path.exists() and path.stat().st_size > 0

    return ready


def redis_answers(url: str) -> Ready:
    """Ready when the server at ``url`` answers PING, which it does not while it still loads its data."""

    def ready() -> bool:
        try:
            ping(url, timeout=_ONE_TRY)
        except (redis.ConnectionError, redis.TimeoutError):  # BusyLoadingError is a ConnectionError
            return False
        return True

    return ready


def ping(url: str, *, timeout: float) -> None:
    """PING the server at ``url`` once; raises ``redis.RedisError`` or, for a URL that is none, ``ValueError``."""
    client = redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=None)
    try:
        client.ping()
    finally:
        client.close()
