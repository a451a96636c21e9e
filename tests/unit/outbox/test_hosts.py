"""Hosts take turns, and slow ones stand in a line of their own."""

from __future__ import annotations

from collections import Counter

import pytest
import redis

from jobs import queues
from jobs.store import JobStore
from jobs.webhooks import SLOW_SECONDS
from tests.unit.making import (
    OWN_URL,
    check_outbox,
    deliveries,
    event,
    lease,
    members,
    settle,
)
from tests.unit.outbox.steps import lose, taken, to_hosts


def test_hosts_take_turns(store: JobStore) -> None:
    """A host with a long line delays another by one delivery, not by its line."""
    to_hosts(store, "a.example")
    for _ in range(4):
        event(store, webhook_url="https://a.example/in", webhook_host="a.example")
    for host in ("b.example", "c.example"):
        event(store, webhook_url=f"https://{host}/in", webhook_host=host)
    assert sorted(taken(lease(store, fast=3))) == ["a.example", "b.example", "c.example"]
    assert taken(lease(store, fast=3)) == ["a.example"] * 3


def test_a_host_gets_its_oldest_first(store: JobStore, redis_client: redis.Redis) -> None:
    """Of one host's deliveries, that which has been due longest is sent first."""
    ids = []
    for number in range(3):
        event(store, **OWN_URL)
        ids.append(deliveries(store)[0].id)
        redis_client.zadd("promptq:webhook-due:own.example", {ids[-1]: 10 + number})
    assert [one.id for one in lease(store)] == ids


def test_no_more_at_once_than_a_host_may_have(store: JobStore) -> None:
    """The limit for one host holds over all workers together, and ends with the deliveries that used it up."""
    for _ in range(5):
        event(store, **OWN_URL)
    event(store, webhook_url="https://b.example/", webhook_host="b.example")
    first = lease(store, per_host=2)
    assert Counter(taken(first)) == {"own.example": 2, "b.example": 1}
    assert lease(store, per_host=2) == [], "another worker gets none of it"
    own = [one for one in first if one.host == "own.example"]
    settle(store, own[0])
    (third,) = lease(store, per_host=2)
    settle(store, own[1], "retry")
    settle(store, third, "release")
    assert len(lease(store, per_host=2)) == 2
    assert lease(store, per_host=2) == []


def test_a_lost_worker_frees_its_hosts(store: JobStore, redis_client: redis.Redis) -> None:
    """What a dead worker had on its way does not count against the host for ever."""
    for _ in range(3):
        event(store, **OWN_URL)
    held = lease(store, per_host=2)
    assert len(held) == 2
    lose(store, redis_client, *(one.id for one in held))
    assert len(lease(store, per_host=2)) == 2


def test_no_more_than_was_asked_for(store: JobStore) -> None:
    """A worker gets as many as it has slots, and none if it has none."""
    to_hosts(store, *(f"h{number}.example" for number in range(6)))
    assert lease(store, fast=0, slow=100) == []
    assert len(lease(store, fast=4, slow=100)) == 4
    assert len(lease(store, fast=4, slow=100)) == 2


def test_a_slow_host_is_in_a_line_of_its_own(store: JobStore, redis_client: redis.Redis) -> None:
    """After a slow answer a host gets slow slots alone, after a quick one it is among the others again."""
    for _ in range(3):
        event(store, **OWN_URL)
    (first,) = lease(store, fast=1)
    settle(store, first, "retry", slow=True)
    event(store, webhook_url="https://b.example/", webhook_host="b.example")
    assert taken(lease(store, fast=100, slow=0)) == ["b.example"]
    (second,) = lease(store, fast=0, slow=1)
    assert second.slow
    assert second.host == "own.example"
    settle(store, second, slow=False)
    assert members(redis_client, queues.WEBHOOK_SLOW) == set()
    (third,) = lease(store, fast=100, slow=0)
    assert not third.slow


def test_a_host_is_counted_as_slow_while_it_is_awaited(store: JobStore, redis_client: redis.Redis) -> None:
    """A host whose answer does not come is slow before it has come, for what is due to it already too."""
    for _ in range(2):
        event(store, **OWN_URL)
    lease(store, fast=1)
    store.outbox.note_slow("own.example")
    check_outbox(redis_client)
    assert lease(store, fast=100, slow=0) == []
    (found,) = lease(store, fast=0, slow=100)
    assert found.slow


def test_slowness_is_forgotten(store: JobStore, redis_client: redis.Redis) -> None:
    """A host that was slow a while ago is like any other when something is due to it again."""
    store.outbox.note_slow("own.example")
    until = redis_client.zscore(queues.WEBHOOK_SLOW, "own.example")
    assert until == pytest.approx((redis_client.time()[0] + SLOW_SECONDS) * 1000, abs=5000)
    redis_client.zadd(queues.WEBHOOK_SLOW, {"own.example": 1})
    event(store, **OWN_URL)
    (leased,) = lease(store, fast=1, slow=0)
    assert not leased.slow
    store.outbox.move_due()
    assert members(redis_client, queues.WEBHOOK_SLOW) == set(), "and takes no memory any more"


def test_what_was_due_to_a_host_that_was_slow(store: JobStore, redis_client: redis.Redis) -> None:
    """A host whose slowness is over does not stay behind hosts that hang, with what was due to it before."""
    event(store, **OWN_URL)
    store.outbox.note_slow("own.example")
    redis_client.zadd(queues.WEBHOOK_SLOW, {"own.example": 1})
    store.outbox.move_due()
    assert taken(lease(store, fast=1, slow=0)) == ["own.example"]
