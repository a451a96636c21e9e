"""Events that are made to try an endpoint."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from jobs import queues
from jobs.store import JobStore
from tests.unit.making import (
    FIVE_DAYS,
    endpoint,
    lease,
    lease_one,
    settle,
)
from tests.unit.outbox.steps import failing_for, only


def test_a_test_event_goes_to_one_endpoint(store: JobStore) -> None:
    """A made-up event is sent to the endpoint that is tested, whatever it subscribes to, and is marked."""
    hook = endpoint(store, types=["response.failed"])
    endpoint(store)
    delivery_id = store.outbox.post_test(hook.id, "ann", "response.completed")
    assert queues.DELIVERY_ID_PATTERN.fullmatch(delivery_id)
    assert (only(store).id, only(store).endpoint_id, only(store).test) == (delivery_id, hook.id, True)
    assert only(store).event_type == "response.completed"
    assert only(store).object_id.startswith("resp_")
    leased = lease_one(store)
    assert (leased.test, leased.url) == (True, hook.url)
    assert leased.sealed_secret is not None


def test_a_disabled_endpoint_can_be_tested(store: JobStore) -> None:
    """Before an endpoint is enabled again its owner can see whether it answers, and send the test again."""
    hook = endpoint(store)
    store.webhooks.update(hook.id, "ann", enabled=False)
    store.outbox.post_test(hook.id, "ann", "response.completed")
    settle(store, lease_one(store))
    store.outbox.redeliver(only(store).id, "ann")
    settle(store, lease_one(store))
    assert len(only(store).tries) == 2


@pytest.mark.parametrize("verdict", ["succeeded", "failed", "gone"])
def test_a_test_says_nothing_of_the_endpoint(store: JobStore, redis_client: redis.Redis, verdict: Any) -> None:
    """A test neither disables an endpoint nor forgives it; who waits for it is told how it ended."""
    hook = endpoint(store)
    failing_for(redis_client, hook, FIVE_DAYS * 2)
    before = store.webhooks.get(hook.id, "ann")
    delivery_id = store.outbox.post_test(hook.id, "ann", "response.completed")
    with redis_client.pubsub(ignore_subscribe_messages=True) as told:
        told.subscribe(queues.EVENTS_CHANNEL)
        told.get_message(timeout=1)
        settle(store, lease_one(store), verdict)
        message = told.get_message(timeout=1)
    assert message is not None
    status = "succeeded" if verdict == "succeeded" else "failed"
    assert message["data"].decode() == f"{delivery_id} {status}"
    assert store.webhooks.get(hook.id, "ann") == before


def test_a_test_event_is_posted_once(store: JobStore) -> None:
    """The step is safe to send again after a lost reply."""
    hook = endpoint(store)
    args = ["whd_" + "1" * 32 + "_" + hook.id[-12:], hook.id, "ann", "evt_1", "response.completed", "resp_1"]
    assert [store._scripts.probe(args=args) for _ in range(2)] == [1, 1]
    settle(store, lease_one(store))
    assert store._scripts.probe(args=args) == 1
    assert lease(store) == []
