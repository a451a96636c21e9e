"""Readings that belong together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import OutOfMemoryError

from jobs.redis_errors import redis_errors


def read_at_once(client: Redis, ask: Callable[[Pipeline], object]) -> list[Any]:
    """What Redis answers to the readings that ``ask`` queues, all at one moment. Raises ``StoreUnavailable``."""
    with redis_errors():
        try:
            return _read(client, ask, transaction=True)
        except OutOfMemoryError:
            # Before Redis 7.4 and Valkey 8 one that is full refuses whatever is queued in MULTI, readings too
            # (redis/redis#9926). Without it others come in between only where they are very many.
            return _read(client, ask, transaction=False)


def _read(client: Redis, ask: Callable[[Pipeline], object], *, transaction: bool) -> list[Any]:
    with client.pipeline(transaction=transaction) as pipe:
        ask(pipe)
        found: list[Any] = pipe.execute()
        return found
