"""Every way to end: one terminal state, one event, and nothing left behind."""

from __future__ import annotations

import pytest
import redis

from jobs import queues
from jobs.errors import NotFound
from jobs.model import JobStatus
from jobs.store import JobStore
from tests.unit.making import (
    DONE,
    check_invariants,
    claim,
    create,
    forget_expired,
    job,
    keys,
    lose_lease,
    make_due,
    members,
    running,
)

COUNTERS = {queues.PREFIX + "seq", queues.TICK, queues.ENDED, *(queues.claimed_key(queue) for queue in queues.QUEUES)}


def test_completion_stores_the_outcome(store: JobStore, redis_client: redis.Redis) -> None:
    """A completed job has its result byte for byte, its usage and when it finished; its record expires."""
    held = running(store)
    assert store.complete(held, DONE, attempts=[{"attempt": 1}]) == "done"
    ended = job(store, held.job.id)
    assert (ended.status, ended.result, ended.usage) == (JobStatus.COMPLETED, DONE.result, DONE.usage)
    assert ended.attempts == ({"attempt": 1},)
    assert ended.finished_at is not None
    assert 0 < redis_client.pttl(queues.job_key(held.job.id)) <= 3600_000
    check_invariants(redis_client)


def test_completion_can_be_replayed(store: JobStore) -> None:
    """A completion that is sent again after a lost reply is answered alike; another claim's is refused."""
    held = running(store)
    assert [store.complete(held, DONE) for _ in range(2)] == ["done", "done"]
    store.delete(held.job.id, "ann")
    assert store.complete(held, DONE) == "gone"


def test_a_late_result_is_taken(store: JobStore, redis_client: redis.Redis) -> None:
    """A result that comes after its lease ran out ends the job, as long as nobody has claimed it anew."""
    held = running(store)
    lose_lease(redis_client, held.job.id)
    store.upkeep.recover_lost()
    assert store.complete(held, DONE) == "done"
    assert job(store, held.job.id).status is JobStatus.COMPLETED
    assert store.claim(held.job.id, "c2", lease_seconds=30, worker="w") == "ended"
    check_invariants(redis_client)


def test_a_replaced_claim_is_fenced_off(store: JobStore, redis_client: redis.Redis) -> None:
    """After another claim, the first one's result and retries are refused, before the end and after it."""
    old = running(store)
    lose_lease(redis_client, old.job.id)
    store.upkeep.recover_lost()
    new = claim(store, old.job.id, "c2")
    assert store.complete(old, DONE) == "fenced"
    for keep in (True, False):
        assert store.retry(old, attempt=1, attempts=[], delay=1, keep_slot=keep) == "fenced"
    assert job(store, old.job.id).status is JobStatus.IN_PROGRESS
    assert store.complete(new, DONE) == "done"
    assert store.complete(old, DONE) == "ended"


def test_a_deleted_job_is_not_made_again(store: JobStore, redis_client: redis.Redis) -> None:
    """Completion, retry and renewal of a deleted job write nothing."""
    held = running(store)
    store.delete(held.job.id, "ann")
    assert store.complete(held, DONE) == "gone"
    assert store.retry(held, attempt=1, attempts=[], delay=1, keep_slot=False) == "gone"
    assert store.renew({held.job.id: held.claim_id}, lease_seconds=1) == [held.job.id]
    assert keys(redis_client) <= COUNTERS


def test_a_retry_in_the_slot_keeps_the_claim(store: JobStore, redis_client: redis.Redis) -> None:
    """A retry in the slot counts the next attempt once, however often it is sent, and the lease stays."""
    held = running(store)
    for _ in range(2):
        assert store.retry(held, attempt=1, attempts=[{"attempt": 1}], delay=0, keep_slot=True) == "done"
    now = job(store, held.job.id)
    assert (now.status, now.attempt, now.attempts) == (JobStatus.IN_PROGRESS, 2, ({"attempt": 1},))
    check_invariants(redis_client)


def test_a_retry_that_frees_its_slot_can_be_replayed(store: JobStore, redis_client: redis.Redis) -> None:
    """A retry for later that is sent again is answered alike; of a job that ended, it is refused."""
    held = running(store)
    for _ in range(2):
        assert store.retry(held, attempt=1, attempts=[{"attempt": 1}], delay=60, keep_slot=False) == "done"
    assert job(store, held.job.id).attempt == 1
    store.cancel(held.job.id, "ann")
    assert store.retry(held, attempt=1, attempts=[], delay=60, keep_slot=False) == "ended"
    check_invariants(redis_client)


@pytest.mark.parametrize("state", ["queued", "running", "scheduled"])
def test_cancel_ends_a_job(store: JobStore, redis_client: redis.Redis, state: str) -> None:
    """Cancelling ends a job at once, whatever it does; a running one's worker and all who wait are told."""
    held = running(store) if state != "queued" else None
    job_id = held.job.id if held else create(store)
    if held and state == "scheduled":
        store.retry(held, attempt=1, attempts=[], delay=60, keep_slot=False)
    with redis_client.pubsub(ignore_subscribe_messages=True) as told:
        told.subscribe(queues.EVENTS_CHANNEL, queues.ABORTS_CHANNEL)
        told.get_message(timeout=1)
        told.get_message(timeout=1)
        assert store.cancel(job_id, "ann") is True
        assert store.cancel(job_id, "ann") is False
        heard = []
        while message := told.get_message(timeout=0.1):
            heard.append((message["channel"].decode(), message["data"].decode()))
    wanted = [(queues.EVENTS_CHANNEL, f"{job_id} cancelled")]
    assert heard == wanted + [(queues.ABORTS_CHANNEL, job_id)] * (state == "running")
    ended = job(store, job_id)
    assert ended.status is JobStatus.CANCELLED
    if held:
        assert store.complete(held, DONE) == "ended"
    assert ended.retry_at is None, "it waits for no attempt any more"
    check_invariants(redis_client)


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_deadline_ends_a_job(store: JobStore, redis_client: redis.Redis, state: str) -> None:
    """A job that outlives its deadline fails, whether it waits or runs; one whose deadline is ahead does not."""
    job_id = create(store, deadline_seconds=60)
    other = create(store, deadline_seconds=60)
    if state == "running":
        claim(store, job_id)
    assert store.upkeep.expire_due() == 0
    make_due(redis_client, queues.DEADLINES, job_id)
    assert (store.upkeep.expire_due(), store.upkeep.expire_due()) == (1, 0)
    ended = job(store, job_id)
    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert ended.error["code"] == "deadline_exceeded"
    assert job(store, other).status is JobStatus.QUEUED
    check_invariants(redis_client)


@pytest.mark.parametrize("state", ["queued", "running", "scheduled", "ended"])
def test_delete_leaves_nothing(store: JobStore, redis_client: redis.Redis, state: str) -> None:
    """A deleted job leaves no key behind but the counters, whatever it did."""
    new = {"idempotency_key": "k", "deadline_seconds": 60, "metadata": {"a": "b"}}
    held = running(store, **new) if state != "queued" else None
    job_id = held.job.id if held else create(store, **new)
    if held and state == "scheduled":
        store.retry(held, attempt=1, attempts=[], delay=60, keep_slot=False)
    if held and state == "ended":
        store.complete(held, DONE)
    store.delete(job_id, "ann")
    assert keys(redis_client) <= COUNTERS
    with pytest.raises(NotFound):
        store.delete(job_id, "ann")


def test_nothing_grows(store: JobStore, redis_client: redis.Redis) -> None:
    """After many jobs have ended in every way and their time is over, only the counters are left."""
    ended = []
    for number in range(60):
        job_id = create(store, queue=queues.QUEUES[number % 3], idempotency_key=f"k{number}", deadline_seconds=60)
        if number % 2:
            held = claim(store, job_id)
        if number % 4 == 1:
            store.complete(held, DONE)
        elif number % 6 == 0:
            store.delete(job_id, "ann")
            continue
        else:
            store.cancel(job_id, "ann")
        ended.append(job_id)
    check_invariants(redis_client)
    assert all(redis_client.pttl(key) > 0 for key in keys(redis_client) if ":idem:" in key)
    for key in keys(redis_client):
        if ":idem:" in key:
            redis_client.delete(key)
    forget_expired(redis_client, *ended)
    purged = 0
    while found := store.upkeep.purge_expired(limit=7):
        purged += found
    assert purged == len(ended)
    assert keys(redis_client) <= COUNTERS


def test_records_expire_by_themselves(redis_client: redis.Redis, store: JobStore) -> None:
    """What is written into the purge list is due when the record is."""
    job_id = create(store)
    store.cancel(job_id, "ann")
    ((_, due),) = redis_client.zrange(queues.EXPIRING, 0, -1, withscores=True)
    assert redis_client.execute_command("PEXPIRETIME", queues.job_key(job_id)) == pytest.approx(due, abs=1000)
    assert store.upkeep.purge_expired() == 0


def test_stale_messages_go_when_nobody_waits(store: JobStore, redis_client: redis.Redis) -> None:
    """While no worker runs, the messages of cancelled jobs go as soon as no job waits any more."""
    ids = [create(store) for _ in range(5)]
    for job_id in ids:
        store.cancel(job_id, "ann")
    assert redis_client.llen(queues.celery_queue("default")) == 0
    assert members(redis_client, queues.waiting_key("default")) == set()
