"""A store with webhooks, and what must hold after each test of the outbox."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from jobs.broker import MessageMaker
from jobs.store import JobStore
from tests.unit.making import (
    check_invariants,
    webhook_store,
)


@pytest.fixture
def store(redis_client: redis.Redis, redis_url: str, messages: MessageMaker) -> Iterator[JobStore]:
    """A store that can keep webhook secrets, on an empty database."""
    with webhook_store(redis_url, messages) as made:
        yield made


@pytest.fixture(autouse=True)
def _consistent(redis_client: redis.Redis, store: JobStore) -> Iterator[None]:
    """Whatever a test does, every set is as the records say after it."""
    yield
    check_invariants(redis_client)
