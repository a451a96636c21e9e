"""Each end of a job is an event, once, in the same step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from jobs import queues
from jobs.model import RESPONSES, JobStatus, Outcome
from jobs.scripts import MAX_STRIKES
from jobs.store import JobStore
from jobs.webhooks import EVENT_TYPES
from tests.unit.making import (
    DONE,
    FAILED,
    OWN_URL,
    check_outbox,
    claim,
    create,
    deliveries,
    endpoint,
    event,
    job,
    lease,
    lease_one,
    lose_lease,
    make_due,
    members,
    running,
    settle,
)
from tests.unit.outbox.steps import BACKLOG, PENDING, SUCCEEDED, only


def end_completed(store: JobStore, _: redis.Redis, **new: Any) -> str:
    held = running(store, **new)
    assert store.complete(held, DONE) == "done"
    return held.job.id


def end_failed(store: JobStore, _: redis.Redis, **new: Any) -> str:
    held = running(store, **new)
    assert store.complete(held, FAILED) == "done"
    return held.job.id


def end_incomplete(store: JobStore, _: redis.Redis, **new: Any) -> str:
    held = running(store, **new)
    assert store.complete(held, Outcome(JobStatus.INCOMPLETE, b"{}")) == "done"
    return held.job.id


def end_late(store: JobStore, client: redis.Redis, **new: Any) -> str:
    held = running(store, **new)
    lose_lease(client, held.job.id)
    assert store.upkeep.recover_lost() == 1
    assert store.complete(held, DONE) == "done"
    return held.job.id


def cancel_waiting(store: JobStore, _: redis.Redis, **new: Any) -> str:
    job_id = create(store, **new)
    assert store.cancel(job_id, "ann")
    return job_id


def cancel_running(store: JobStore, _: redis.Redis, **new: Any) -> str:
    held = running(store, **new)
    assert store.cancel(held.job.id, "ann")
    return held.job.id


def cancel_scheduled(store: JobStore, _: redis.Redis, **new: Any) -> str:
    held = running(store, **new)
    assert store.retry(held, attempt=1, attempts=[], delay=60, keep_slot=False) == "done"
    assert store.cancel(held.job.id, "ann")
    return held.job.id


def expire_waiting(store: JobStore, client: redis.Redis, **new: Any) -> str:
    job_id = create(store, deadline_seconds=60, **new)
    make_due(client, queues.DEADLINES, job_id)
    assert store.upkeep.expire_due() == 1
    return job_id


def expire_at_claim(store: JobStore, client: redis.Redis, **new: Any) -> str:
    job_id = create(store, deadline_seconds=60, **new)
    client.hset(queues.job_key(job_id), "deadline", 1)
    assert store.claim(job_id, "c1", lease_seconds=30, worker="w") == "expired"
    return job_id


def crash(store: JobStore, client: redis.Redis, **new: Any) -> str:
    job_id = create(store, **new)
    for number in range(MAX_STRIKES):
        claim(store, job_id, f"c{number}")
        lose_lease(client, job_id)
        assert store.upkeep.recover_lost() == 1
    return job_id


WAYS: list[tuple[Callable[..., str], str]] = [
    (end_completed, "response.completed"),
    (end_failed, "response.failed"),
    (end_incomplete, "response.incomplete"),
    (end_late, "response.completed"),
    (cancel_waiting, "response.cancelled"),
    (cancel_running, "response.cancelled"),
    (cancel_scheduled, "response.cancelled"),
    (expire_waiting, "response.failed"),
    (expire_at_claim, "response.failed"),
    (crash, "response.failed"),
]


@pytest.mark.parametrize("kind", ["/v1/chat/completions", RESPONSES])
@pytest.mark.parametrize(("end", "event_type"), WAYS)
def test_each_end_is_an_event(
    store: JobStore, redis_client: redis.Redis, end: Callable[..., str], event_type: str, kind: str
) -> None:
    """Whichever way a job ends, its endpoints and its own URL are told, once each, with ids made of the job's own."""
    hooks = [endpoint(store), endpoint(store, "https://second.example/"), endpoint(store, types=[event_type])]
    others = [one for one in EVENT_TYPES if one != event_type]
    endpoint(store, types=others)
    endpoint(store, owner="bob")
    job_id = end(store, redis_client, endpoint=kind, **OWN_URL)
    number = job_id.partition("_")[2]
    found = deliveries(store)
    targets = {f"whd_{number}_job": None} | {f"whd_{number}_{hook.id[-12:]}": hook.id for hook in hooks}
    assert {one.id: one.endpoint_id for one in found} == targets
    assert all(queues.DELIVERY_ID_PATTERN.fullmatch(one.id) for one in found)
    for one in found:
        assert (one.event_id, one.event_type, one.object_id) == (f"evt_{number}", event_type, job_id)
        assert (one.status, one.tries, one.error, one.test, one.ended_at) == (PENDING, (), None, False, None)
        assert one.created_at == one.due_at == job(store, job_id).finished_at
    assert deliveries(store, "bob") == []
    assert members(redis_client, BACKLOG) == set(targets)


def test_an_event_is_in_the_same_step(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """No moment is between a job's end and its event: one step of Redis writes both."""
    endpoint(store)
    held = running(store)
    sent: list[Any] = []
    execute = redis.Redis.execute_command

    def noted(client: redis.Redis, *words: Any, **options: Any) -> Any:
        sent.append(words[0])
        return execute(client, *words, **options)

    with monkeypatch.context() as patch:
        patch.setattr(redis.Redis, "execute_command", noted)
        store.complete(held, DONE)
    assert sent == ["EVALSHA"]
    assert only(store).object_id == held.job.id


def test_one_end_is_one_event(store: JobStore) -> None:
    """A completion that is sent again, a second cancel or a late result tells nobody anew, also after the delivery."""
    endpoint(store)
    held = running(store)
    for _ in range(2):
        assert store.complete(held, DONE) == "done"
        store.cancel(held.job.id, "ann")
        for leased in lease(store):
            settle(store, leased)
    assert only(store).status == SUCCEEDED
    assert len(only(store).tries) == 1


@pytest.mark.parametrize("state", ["queued", "running", "scheduled"])
def test_a_deleted_job_is_no_event(store: JobStore, state: str) -> None:
    """Who deletes a job that has not ended is told nothing of it, and its late result neither."""
    endpoint(store)
    held = running(store, **OWN_URL) if state != "queued" else None
    job_id = held.job.id if held else create(store, **OWN_URL)
    if held and state == "scheduled":
        store.retry(held, attempt=1, attempts=[], delay=60, keep_slot=False)
    store.delete(job_id, "ann")
    if held:
        assert store.complete(held, DONE) == "gone"
    assert deliveries(store) == []


def test_a_refused_completion_is_no_event(store: JobStore, redis_client: redis.Redis) -> None:
    """What a replaced worker brings ends nothing, and is told to nobody."""
    endpoint(store)
    old = running(store)
    lose_lease(redis_client, old.job.id)
    store.upkeep.recover_lost()
    new = claim(store, old.job.id, "c2")
    assert store.complete(old, FAILED) == "fenced"
    assert deliveries(store) == []
    store.complete(new, DONE)
    assert only(store).event_type == "response.completed"


@pytest.mark.parametrize("way", ["retry", "hand_back", "recover"])
def test_what_goes_on_is_no_event(store: JobStore, redis_client: redis.Redis, way: str) -> None:
    """A job that goes back to its queue has not ended."""
    endpoint(store)
    held = running(store, **OWN_URL)
    if way == "retry":
        store.retry(held, attempt=1, attempts=[], delay=60, keep_slot=False)
    elif way == "hand_back":
        store.hand_back(held)
    else:
        lose_lease(redis_client, held.job.id)
        store.upkeep.recover_lost()
    assert deliveries(store) == []


def test_a_deleted_job_is_still_told_of_if_it_had_ended(store: JobStore) -> None:
    """Deleting a job does not take back the events of its end."""
    endpoint(store)
    job_id = event(store, **OWN_URL)
    store.delete(job_id, "ann")
    assert {leased.url for leased in lease(store)} == {"https://hooks.example/in", OWN_URL["webhook_url"]}


def test_nobody_is_told_where_nobody_asked(store: JobStore, redis_client: redis.Redis) -> None:
    """Without an endpoint or a URL of its own, a job's end leaves nothing in the outbox."""
    event(store)
    assert check_outbox(redis_client) == {}
    assert lease(store) == []


def test_a_retried_dead_letter_keeps_its_url(store: JobStore, redis_client: redis.Redis) -> None:
    """The job that repeats a failed one tells the same URL of its own end, under an id of its own."""
    dead = end_failed(store, redis_client, **OWN_URL)
    accepted = store.resubmit(dead, "ann")
    assert accepted.made is not None
    assert accepted.made.webhook_url == job(store, accepted.job_id).webhook_url == OWN_URL["webhook_url"]
    store.complete(claim(store, accepted.job_id, "c2"), DONE)
    second, first = deliveries(store)
    assert (first.object_id, first.event_type) == (dead, "response.failed")
    assert (second.object_id, second.event_type) == (accepted.job_id, "response.completed")
    assert first.event_id != second.event_id
    assert [leased.url for leased in lease(store)] == [OWN_URL["webhook_url"]] * 2


def test_a_full_redis_still_takes_events(store: JobStore, redis_client: redis.Redis) -> None:
    """A job's end and its events, their leases and how they went are kept also when Redis is full."""
    endpoint(store)
    held = running(store)
    redis_client.config_set("maxmemory", 1)
    try:
        assert store.complete(held, DONE) == "done"
        leased = lease_one(store)
        assert settle(store, leased, "retry", delay=0) == "done"
        assert store.outbox.move_due() == (1, 0)
        assert settle(store, lease_one(store)) == "done"
    finally:
        redis_client.config_set("maxmemory", 0)
    assert only(store).status == SUCCEEDED
