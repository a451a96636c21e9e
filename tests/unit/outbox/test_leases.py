"""Deliveries are leased, settled, lost and taken back."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from jobs import queues
from jobs.store import JobStore
from tests.unit.making import (
    check_outbox,
    endpoint,
    event,
    forget_deliveries,
    lease,
    lease_one,
    members,
    settle,
)
from tests.unit.outbox.steps import BACKLOG, FAILED_STATUS, PENDING, SUCCEEDED, lose, only, retry_due


def test_a_lease_has_all_that_is_sent(store: JobStore) -> None:
    """Who leases a delivery gets its URL, event and secrets, and nobody else gets it meanwhile."""
    hook = endpoint(store)
    job_id = event(store)
    leased = lease_one(store)
    assert lease(store) == []
    assert (leased.url, leased.host, leased.round, leased.tries) == (hook.url, "hooks.example", 0, ())
    assert (leased.slow, leased.test) == (False, False)
    told = json.loads(leased.body)
    assert told == {
        "id": leased.event_id,
        "object": "event",
        "created_at": int(only(store).created_at),
        "type": "response.completed",
        "data": {"id": job_id},
    }


def test_a_success_ends_a_delivery(store: JobStore, redis_client: redis.Redis) -> None:
    """A delivery that went well has its try on record, is not sent again, and expires."""
    endpoint(store)
    event(store)
    leased = lease_one(store)
    assert settle(store, leased) == "done"
    ended = only(store)
    assert (ended.status, ended.due_at, len(ended.tries), ended.ended) == (SUCCEEDED, None, 1, True)
    assert ended.ended_at is not None
    assert lease(store) == []
    assert 0 < redis_client.pttl(queues.delivery_key(leased.id)) <= 3600_000
    assert members(redis_client, BACKLOG) == set()


def test_a_retry_is_scheduled_out_of_the_backlog(store: JobStore, redis_client: redis.Redis) -> None:
    """A delivery that waits for its next try keeps no worker alive; when that is due, it is in the backlog again."""
    endpoint(store)
    event(store)
    first = lease_one(store)
    assert members(redis_client, BACKLOG) == {first.id}
    assert settle(store, first, "retry", delay=1800) == "done"
    waiting = only(store)
    assert (waiting.status, len(waiting.tries), waiting.ended_at) == (PENDING, 1, None)
    assert waiting.due_at == pytest.approx(waiting.created_at + 1800, abs=5)
    assert members(redis_client, BACKLOG) == set()
    assert (store.outbox.move_due(), lease(store)) == ((0, 0), [])
    retry_due(store, redis_client, first.id)
    assert members(redis_client, BACKLOG) == {first.id}
    second = lease_one(store)
    assert (second.id, second.event_id, second.body) == (first.id, first.event_id, first.body)
    assert (second.round, len(second.tries)) == (1, 1)
    assert second.claim_id != first.claim_id


def test_the_last_try_fails_a_delivery(store: JobStore) -> None:
    """A delivery without another try has failed, and says nothing but its tries of why."""
    endpoint(store)
    event(store)
    assert settle(store, lease_one(store), "failed") == "done"
    ended = only(store)
    assert (ended.status, ended.error, len(ended.tries)) == (FAILED_STATUS, None, 1)


def test_what_is_given_back_was_not_tried(store: JobStore, redis_client: redis.Redis) -> None:
    """A delivery that its worker gives back is due at once, with no try counted."""
    endpoint(store)
    event(store)
    leased = lease_one(store)
    assert settle(store, leased, "release") == "done"
    assert members(redis_client, BACKLOG) == {leased.id}
    again = lease_one(store)
    assert (again.round, again.tries) == (0, ())
    assert settle(store, leased, "succeeded") == "fenced"


@pytest.mark.parametrize("verdict", ["succeeded", "retry", "failed", "gone", "release"])
def test_a_settling_can_be_replayed(store: JobStore, redis_client: redis.Redis, verdict: Any) -> None:
    """What is sent again after a lost reply changes nothing."""
    hook = endpoint(store)
    event(store)
    event(store)
    leased, other = lease(store)
    settle(store, leased, verdict)
    before = redis_client.hgetall(queues.delivery_key(leased.id)), store.webhooks.get(hook.id, "ann")
    check_outbox(redis_client)
    assert settle(store, leased, verdict) in ("fenced", "ended")
    assert (redis_client.hgetall(queues.delivery_key(leased.id)), store.webhooks.get(hook.id, "ann")) == before
    assert redis_client.hget(queues.WEBHOOK_RUNNING, other.host) == b"1"


def test_a_lost_worker_gives_back_what_it_had(store: JobStore, redis_client: redis.Redis) -> None:
    """A delivery whose lease runs out is sent by another; the first one's word counts no more after that."""
    endpoint(store)
    event(store)
    old = lease_one(store)
    assert store.outbox.move_due() == (0, 0), "its lease holds"
    lose(store, redis_client, old.id)
    new = lease_one(store)
    assert (new.id, new.body, new.event_id) == (old.id, old.body, old.event_id)
    assert settle(store, old, "failed") == "fenced"
    assert settle(store, new) == "done"
    assert settle(store, old, "failed") == "ended"
    assert only(store).status == SUCCEEDED


@pytest.mark.parametrize("verdict", ["succeeded", "retry", "failed", "gone", "release"])
def test_a_late_word_counts_while_nobody_else_has_it(store: JobStore, redis_client: redis.Redis, verdict: Any) -> None:
    """What a slow worker says after its lease ran out is taken, as long as nobody has the delivery anew."""
    endpoint(store)
    event(store)
    leased = lease_one(store)
    lose(store, redis_client, leased.id)
    assert settle(store, leased, verdict) == "done"
    check_outbox(redis_client)
    status = {"succeeded": SUCCEEDED, "failed": FAILED_STATUS, "gone": FAILED_STATUS}.get(verdict, PENDING)
    assert only(store).status == status
    assert len(lease(store)) == (verdict == "release")


@pytest.mark.parametrize("verdict", ["succeeded", "retry", "failed", "gone", "release"])
@pytest.mark.parametrize("ended_by", ["move_due", "lease"])
def test_a_late_word_changes_no_end(store: JobStore, redis_client: redis.Redis, verdict: Any, ended_by: str) -> None:
    """A delivery that has ended without its worker, since its endpoint is gone, stays as it ended."""
    hook = endpoint(store)
    event(store)
    leased = lease_one(store)
    if ended_by == "lease":
        lose(store, redis_client, leased.id)
        store.webhooks.delete(hook.id, "ann")
        assert lease(store) == []
    else:
        store.webhooks.delete(hook.id, "ann")
        lose(store, redis_client, leased.id)
    assert only(store).error == "endpoint_deleted"
    assert settle(store, leased, verdict) == "ended"
    assert (only(store).status, only(store).error) == (FAILED_STATUS, "endpoint_deleted")
    check_outbox(redis_client)


def test_an_expired_delivery_is_gone(store: JobStore, redis_client: redis.Redis) -> None:
    """A word on a delivery whose record is gone writes nothing."""
    endpoint(store)
    event(store)
    leased = lease_one(store)
    settle(store, leased)
    forget_deliveries(redis_client, leased.id)
    assert settle(store, leased) == "gone"
    assert not redis_client.exists(queues.delivery_key(leased.id))
    assert store.upkeep.purge_expired() == 2


def test_workers_are_told_of_what_is_due(store: JobStore, redis_client: redis.Redis) -> None:
    """When something is due and nothing was before, or a host is free again, a word goes out."""
    endpoint(store)
    with redis_client.pubsub(ignore_subscribe_messages=True) as told:

        def words() -> int:
            heard = 0
            while told.get_message(timeout=0.05):
                heard += 1
            return heard

        told.subscribe(queues.WEBHOOKS_CHANNEL)
        told.get_message(timeout=1)
        event(store)
        assert words() == 1
        event(store)
        assert words() == 0, "they go on by themselves"
        (first,) = lease(store, per_host=1)
        assert lease(store, per_host=1) == []
        assert words() == 0
        settle(store, first, "retry")
        assert words() == 1, "the other one can be sent now"
        (second,) = lease(store, per_host=1)
        settle(store, second)
        assert lease(store) == []
        retry_due(store, redis_client, first.id)
        assert words() == 1
