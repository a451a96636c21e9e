"""What the scheduler does for the outbox: the backlog, what is due, what has expired."""

from __future__ import annotations

import pytest
import redis

from jobs import queues
from jobs.store import JobStore
from tests.unit.making import (
    OWN_URL,
    deliveries,
    endpoint,
    event,
    forget_deliveries,
    keys,
    lease,
    lease_one,
    make_due,
    members,
    settle,
)
from tests.unit.outbox.steps import BACKLOG, COUNTERS, only


def test_the_backlog_is_what_is_due_or_on_its_way(store: JobStore, redis_client: redis.Redis) -> None:
    """Workers are kept for what can be sent or is being sent, and for nothing else."""
    for _ in range(5):
        event(store, **OWN_URL)
    sent, failed, waiting, on_its_way = lease(store, per_host=4)
    settle(store, sent)
    settle(store, failed, "failed")
    settle(store, waiting, "retry")
    (due,) = {one.id for one in deliveries(store)} - {one.id for one in (sent, failed, waiting, on_its_way)}
    assert members(redis_client, BACKLOG) == {due, on_its_way.id}
    assert redis_client.zcard(BACKLOG) == 2


def test_a_delivery_keeps_its_age_in_the_backlog(store: JobStore, redis_client: redis.Redis) -> None:
    """Being leased does not make a delivery younger."""
    event(store, **OWN_URL)
    redis_client.zadd(BACKLOG, {only(store).id: 5})
    lease_one(store)
    assert redis_client.zscore(BACKLOG, only(store).id) == 5


def test_what_is_due_is_moved_in_parts(store: JobStore, redis_client: redis.Redis) -> None:
    """A limit bounds what one step does, and the next goes on."""
    for _ in range(5):
        event(store, **OWN_URL)
    held = lease(store)
    for leased in held[:3]:
        settle(store, leased, "retry")
    make_due(redis_client, queues.WEBHOOK_SCHEDULED, *(one.id for one in held[:3]))
    make_due(redis_client, queues.WEBHOOK_LEASES, *(one.id for one in held[3:]))
    assert [store.outbox.move_due(limit=2) for _ in range(3)] == [(2, 2), (1, 0), (0, 0)]
    assert len(lease(store)) == 5


def test_a_record_that_is_gone_is_passed_over(store: JobStore, redis_client: redis.Redis) -> None:
    """An entry without a record holds nobody up, and is taken away."""
    event(store, **OWN_URL)
    redis_client.zadd(queues.WEBHOOK_SCHEDULED, {"whd_x": 1})
    redis_client.zadd(queues.WEBHOOK_LEASES, {"whd_y": 1})
    redis_client.zadd("promptq:webhook-due:own.example", {"whd_z": 1})
    assert store.outbox.move_due() == (1, 1)
    assert lease_one(store).id == only(store).id


def test_nothing_of_the_outbox_grows(store: JobStore, redis_client: redis.Redis) -> None:
    """When deliveries have outlived their time, no entry of them is left in any index."""
    endpoint(store)
    for _ in range(6):
        event(store, **OWN_URL)
    for number, leased in enumerate(lease(store)):
        settle(store, leased, ("succeeded", "failed", "gone")[number % 3])
    ended = [one.id for one in deliveries(store)]
    assert len(ended) == 12
    forget_deliveries(redis_client, *ended)
    purged = 0
    while found := store.upkeep.purge_expired(limit=7):
        purged += found
    assert purged == 24
    assert lease(store) == []
    # What was leased is kept for as long as a lost reply to it may be asked for again.
    for key in redis_client.scan_iter("promptq:webhook-taken:*"):
        assert 0 < redis_client.pttl(key) <= 30_000
        redis_client.delete(key)
    kept = {key for key in keys(redis_client) if "webhook" in key or "deliver" in key}
    hook = store.webhooks.list("ann")[0]
    assert kept == {queues.endpoint_key(hook.id), queues.endpoints_key("ann"), *COUNTERS}


def test_an_ended_delivery_is_purged_when_its_record_goes(store: JobStore, redis_client: redis.Redis) -> None:
    """What is written into the purge list is due when the record is, and not before."""
    event(store, **OWN_URL)
    settle(store, lease_one(store))
    goes = redis_client.execute_command("PEXPIRETIME", queues.delivery_key(only(store).id))
    entries = redis_client.zrange(queues.EXPIRING, 0, -1, withscores=True)
    dues = [due for member, due in entries if member.startswith(b"promptq:deliveries:")]
    assert dues == [pytest.approx(goes, abs=1000)] * 2
    assert store.upkeep.purge_expired() == 0
