"""What was sent, or given up, is sent again by hand."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from jobs.errors import NotDeliverable, NotFound
from jobs.store import JobStore
from jobs.webhook_urls import Allowed, parse
from tests.unit.making import (
    OWN_URL,
    check_outbox,
    endpoint,
    event,
    forget_deliveries,
    lease,
    lease_one,
    settle,
)
from tests.unit.outbox.steps import OTHER_URL, PENDING, SUCCEEDED, only


@pytest.mark.parametrize("verdict", ["succeeded", "failed", "retry"])
def test_what_was_sent_is_sent_again(store: JobStore, redis_client: redis.Redis, verdict: Any) -> None:
    """A delivery that went well, failed, or waits is due now: the same event, all tries before on record, each of its
    retries ahead of it again."""
    endpoint(store)
    event(store)
    first = lease_one(store)
    settle(store, first, verdict)
    store.outbox.redeliver(first.id, "ann")
    check_outbox(redis_client)
    waiting = only(store)
    assert (waiting.status, waiting.ended_at, len(waiting.tries)) == (PENDING, None, 1)
    again = lease_one(store)
    assert (again.event_id, again.body, again.round) == (first.event_id, first.body, 0)
    settle(store, again)
    assert (only(store).status, len(only(store).tries)) == (SUCCEEDED, 2)


@pytest.mark.parametrize("state", ["due", "delivering"])
def test_what_is_being_sent_is_not_sent_beside_itself(store: JobStore, state: str) -> None:
    """Sending again what is due or on its way changes nothing."""
    endpoint(store)
    event(store)
    leased = lease_one(store)
    if state == "due":
        settle(store, leased, "release")
    store.outbox.redeliver(leased.id, "ann")
    assert len(lease(store)) == (state == "due")


def test_what_failed_without_a_try_is_sent_again(store: JobStore) -> None:
    """A delivery that failed since its endpoint was disabled is sent when that is enabled again, not before."""
    hook = endpoint(store)
    event(store)
    store.webhooks.update(hook.id, "ann", enabled=False)
    assert lease(store) == []
    assert only(store).error == "endpoint_disabled"
    with pytest.raises(NotDeliverable, match="disabled"):
        store.outbox.redeliver(only(store).id, "ann")
    store.webhooks.update(hook.id, "ann", enabled=True)
    store.outbox.redeliver(only(store).id, "ann")
    assert only(store).error is None
    assert lease_one(store).round == 0


def test_what_is_sent_again_follows_its_endpoint(store: JobStore) -> None:
    """Sending again goes to where the endpoint is now."""
    hook = endpoint(store)
    event(store)
    event(store)
    first, second = lease(store)
    settle(store, first, "failed")
    settle(store, second, "retry")
    store.webhooks.update(hook.id, "ann", url=OTHER_URL, target=parse(OTHER_URL, Allowed()))
    for one in (first, second):
        store.outbox.redeliver(one.id, "ann")
    assert [(one.url, one.host) for one in lease(store)] == [(OTHER_URL, "other.example:8443")] * 2


def test_what_cannot_be_sent_again(store: JobStore, redis_client: redis.Redis) -> None:
    """A delivery of a deleted endpoint, of another owner, or one that is unknown or expired is not sent again."""
    hook = endpoint(store)
    event(store)
    leased = lease_one(store)
    settle(store, leased, "failed")
    with pytest.raises(NotFound):
        store.outbox.redeliver(leased.id, "bob")
    with pytest.raises(NotFound):
        store.outbox.redeliver("whd_" + "0" * 32 + "_job", "ann")
    store.webhooks.delete(hook.id, "ann")
    with pytest.raises(NotDeliverable, match="deleted"):
        store.outbox.redeliver(leased.id, "ann")
    check_outbox(redis_client)
    forget_deliveries(redis_client, leased.id)
    store.upkeep.purge_expired()
    with pytest.raises(NotFound):
        store.outbox.redeliver(leased.id, "ann")
    with pytest.raises(NotFound):
        store.outbox.get(leased.id, "ann")


def test_a_jobs_own_url_is_told_again(store: JobStore) -> None:
    """What went to a job's own URL is sent there again, also when the job is deleted."""
    job_id = event(store, **OWN_URL)
    settle(store, lease_one(store), "gone")
    store.delete(job_id, "ann")
    store.outbox.redeliver(only(store).id, "ann")
    assert lease_one(store).url == OWN_URL["webhook_url"]
