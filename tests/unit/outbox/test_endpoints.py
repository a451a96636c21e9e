"""Endpoints that fail, are disabled, moved or deleted, and what waits for them."""

from __future__ import annotations

import pytest
import redis

from jobs import queues
from jobs.store import JobStore
from jobs.webhook_urls import Allowed, parse
from jobs.webhooks import Leased
from tests.unit.making import (
    FIVE_DAYS,
    OWN_URL,
    deliveries,
    delivery,
    endpoint,
    event,
    lease,
    lease_one,
    settle,
)
from tests.unit.outbox.steps import FAILED_STATUS, OTHER_URL, SUCCEEDED, failing_for, lose, only, retry_due


def test_gone_disables_at_once(store: JobStore) -> None:
    """An endpoint that answers 410 is disabled, and what waits for it ends as failed."""
    hook = endpoint(store)
    event(store)
    event(store)
    first, second = lease(store)
    settle(store, second, "retry", delay=0)
    assert settle(store, first, "gone") == "done"
    now = store.webhooks.get(hook.id, "ann")
    assert now.disabled_reason == "gone"
    assert now.disabled_at is not None
    event(store)
    assert len(deliveries(store)) == 2, "it is told nothing new"
    assert store.outbox.move_due() == (1, 0)
    assert lease(store) == []
    waiting, gone = (delivery(store, one.id) for one in (second, first))
    assert (waiting.status, waiting.error, len(waiting.tries)) == (FAILED_STATUS, "endpoint_disabled", 1)
    assert (gone.status, gone.error) == (FAILED_STATUS, None)


def test_failures_over_days_disable(store: JobStore, redis_client: redis.Redis) -> None:
    """An endpoint is disabled, and says so, when all of its tries have failed for long enough; not before."""
    hook = endpoint(store)
    event(store)
    settle(store, lease_one(store), "retry")
    since = store.webhooks.get(hook.id, "ann").failing_since
    assert since == pytest.approx(redis_client.time()[0], abs=5)
    retry_due(store, redis_client, only(store).id)
    settle(store, lease_one(store), "retry")
    assert store.webhooks.get(hook.id, "ann").failing_since == since, "it is the first failure that counts"
    for seconds, reason in ((FIVE_DAYS - 60, None), (FIVE_DAYS + 60, "failing")):
        failing_for(redis_client, hook, seconds)
        retry_due(store, redis_client, only(store).id)
        settle(store, lease_one(store), "retry")
        assert store.webhooks.get(hook.id, "ann").disabled_reason == reason


def test_a_last_failure_counts_too(store: JobStore, redis_client: redis.Redis) -> None:
    """A delivery that has no tries left also tells that its endpoint fails."""
    hook = endpoint(store)
    event(store)
    failing_for(redis_client, hook, 100)
    settle(store, lease_one(store), "failed", disable_after=99)
    assert store.webhooks.get(hook.id, "ann").disabled_reason == "failing"


def test_a_success_forgives(store: JobStore, redis_client: redis.Redis) -> None:
    """One success, of any delivery, sets the clock of failures back."""
    hook = endpoint(store)
    event(store)
    event(store)
    failing_for(redis_client, hook, FIVE_DAYS * 2)
    first, second = lease(store)
    settle(store, first)
    assert store.webhooks.get(hook.id, "ann").failing_since is None
    settle(store, second, "retry")
    now = store.webhooks.get(hook.id, "ann")
    assert now.disabled_at is None
    assert now.failing_since == pytest.approx(redis_client.time()[0], abs=5)


def test_only_the_endpoint_that_fails_is_disabled(store: JobStore) -> None:
    """Other endpoints, of the same host as well, and jobs' own URLs go on."""
    bad, good = endpoint(store), endpoint(store)
    event(store, **OWN_URL)
    by_id = {leased.id.rpartition("_")[2]: leased for leased in lease(store)}
    settle(store, by_id[bad.id[-12:]], "gone")
    settle(store, by_id["job"], "gone")
    assert store.webhooks.get(good.id, "ann").disabled_at is None
    event(store, **OWN_URL)
    assert {leased.id.rpartition("_")[2] for leased in lease(store)} == {good.id[-12:], "job"}


def test_what_is_on_its_way_to_a_disabled_endpoint_may_arrive(store: JobStore) -> None:
    """A delivery that was sent before its endpoint was disabled ends as it went."""
    hook = endpoint(store)
    event(store)
    leased = lease_one(store)
    store.webhooks.update(hook.id, "ann", enabled=False)
    assert settle(store, leased) == "done"
    assert only(store).status == SUCCEEDED
    assert store.webhooks.get(hook.id, "ann").disabled_reason == "owner"


def test_enabled_again_what_still_waits_is_sent(store: JobStore, redis_client: redis.Redis) -> None:
    """What was scheduled before its endpoint was disabled and enabled again goes on."""
    hook = endpoint(store)
    event(store)
    leased = lease_one(store)
    settle(store, leased, "retry")
    store.webhooks.update(hook.id, "ann", enabled=False)
    store.webhooks.update(hook.id, "ann", enabled=True)
    retry_due(store, redis_client, leased.id)
    assert lease_one(store).id == leased.id


@pytest.mark.parametrize("state", ["due", "scheduled", "delivering"])
def test_what_waits_for_a_deleted_endpoint_fails(store: JobStore, redis_client: redis.Redis, state: str) -> None:
    """A delivery whose endpoint was deleted is not sent, but ends as failed and says why."""
    hook = endpoint(store)
    event(store)
    if state != "due":
        leased = lease_one(store)
        if state == "scheduled":
            settle(store, leased, "retry")
    store.webhooks.delete(hook.id, "ann")
    if state == "scheduled":
        retry_due(store, redis_client, leased.id)
    elif state == "delivering":
        lose(store, redis_client, leased.id)
    assert lease(store) == []
    ended = only(store)
    assert (ended.status, ended.error, ended.endpoint_id) == (FAILED_STATUS, "endpoint_deleted", hook.id)
    assert deliveries(store, endpoint=hook.id) == [ended]


def test_a_try_that_was_on_its_way_when_its_endpoint_was_deleted(store: JobStore, redis_client: redis.Redis) -> None:
    """It ends as it went, or, if it is to be sent again, as failed when that is due; the endpoint is not made anew."""
    hook = endpoint(store)
    event(store)
    event(store)
    good, bad = lease(store)
    store.webhooks.delete(hook.id, "ann")
    settle(store, good)
    settle(store, bad, "retry")
    retry_due(store, redis_client, bad.id)
    assert delivery(store, good.id).status == SUCCEEDED
    assert delivery(store, bad.id).error == "endpoint_deleted"
    assert not redis_client.exists(queues.endpoint_key(hook.id))


@pytest.mark.parametrize("state", ["due", "scheduled", "delivering"])
def test_what_waits_follows_its_endpoint(store: JobStore, redis_client: redis.Redis, state: str) -> None:
    """A delivery goes to the URL that its endpoint has when it is sent, and counts for the host there."""
    hook = endpoint(store)
    event(store)
    leased = lease_one(store)
    if state == "scheduled":
        settle(store, leased, "retry")
    elif state == "due":
        settle(store, leased, "release")
    store.webhooks.update(hook.id, "ann", url=OTHER_URL, target=parse(OTHER_URL, Allowed()))
    if state == "scheduled":
        retry_due(store, redis_client, leased.id)
    elif state == "delivering":
        lose(store, redis_client, leased.id)
    now = lease_one(store)
    assert now.url == OTHER_URL
    assert now.host == "other.example:8443"
    assert redis_client.hgetall(queues.WEBHOOK_RUNNING) == {b"other.example:8443": b"1"}


def test_what_was_leased_is_told_again_after_a_lost_reply(store: JobStore, redis_client: redis.Redis) -> None:
    """The same claim id gets the same deliveries, and takes no others beside them."""
    endpoint(store)
    for _ in range(5):
        event(store)
    args = ["claim", 2, 0, 10, 30_000, 1000]
    first, again = (store._scripts.deliver(args=args) for _ in range(2))
    assert len(first) == 2
    assert again == first
    assert redis_client.zcard(queues.WEBHOOK_LEASES) == 2
    held = dict(zip(first[0][::2], first[0][1::2], strict=True))
    assert settle(store, Leased.from_record("claim", held)) == "done"
    assert store._scripts.deliver(args=args) == first[1:]


def test_what_an_earlier_url_answered_says_nothing_of_the_endpoint(store: JobStore) -> None:
    """A 410 of the URL that the endpoint had when the try began does not disable it at its new one, where the event is
    sent next."""
    hook = endpoint(store)
    event(store)
    leased = lease_one(store)
    store.webhooks.update(hook.id, "ann", url=OTHER_URL, target=parse(OTHER_URL, Allowed()))
    assert settle(store, leased, "gone") == "done"
    now = store.webhooks.get(hook.id, "ann")
    assert (now.disabled_reason, now.failing_since) == (None, None)
    store.outbox.move_due()
    assert lease_one(store).url == OTHER_URL


def test_a_failure_after_a_long_silence_begins_a_new_row(store: JobStore, redis_client: redis.Redis) -> None:
    """An endpoint that failed once, had nothing to do for a week, and fails again has not failed for a week."""
    hook = endpoint(store)
    event(store)
    settle(store, lease_one(store), "failed", longest_gap=36 * 3600)
    week = 7 * 24 * 3600 * 1000
    for name in ("failing_since", "failed_last"):
        redis_client.hincrby(queues.endpoint_key(hook.id), name, -week)
    event(store)
    settle(store, lease_one(store), "retry", longest_gap=36 * 3600)
    now = store.webhooks.get(hook.id, "ann")
    assert now.disabled_at is None
    assert now.failing_since == pytest.approx(redis_client.time()[0], abs=5)
