"""Claims and leases: who may run a job, and for how long."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from jobs import queues
from jobs.model import Claim, JobStatus
from jobs.store import JobStore
from tests.unit.making import (
    DONE,
    check_invariants,
    claim,
    create,
    forget_expired,
    job,
    lose_lease,
    make_due,
    members,
    running,
)


def verdict(store: JobStore, job_id: str, claim_id: str = "c2") -> object:
    return store.claim(job_id, claim_id, lease_seconds=30, worker="w2")


def test_a_claim_starts_the_job(store: JobStore, redis_client: redis.Redis) -> None:
    """A claim counts an attempt, notes the start, takes a lease and leaves the queue, but not the backlog."""
    job_id = create(store)
    claimed = claim(store, job_id)
    assert claimed.job.status is JobStatus.IN_PROGRESS
    assert claimed.job.attempt == 1
    assert claimed.job.started_at is not None
    assert claimed.job.request
    assert store.position(claimed.job) is None
    assert store.upkeep.queue_state("default")[0] == 0
    assert redis_client.zcard(queues.backlog_key("default")) == 1
    seconds, _ = redis_client.time()
    lease = redis_client.zscore(queues.LEASES, job_id)
    assert lease is not None
    assert lease / 1000 == pytest.approx(seconds + 30, abs=3)
    check_invariants(redis_client)


def test_one_of_many_wins(store: JobStore) -> None:
    """Of ten workers that claim one job at once, one gets it and nine are told that it is held."""
    job_id = create(store)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda number: verdict(store, job_id, f"c{number}"), range(10)))
    assert sum(isinstance(answer, Claim) for answer in answers) == 1
    assert answers.count("held") == 9
    assert job(store, job_id).attempt == 1


def test_the_same_claim_gets_the_same_answer(store: JobStore) -> None:
    """A claim that is sent again after a lost reply is answered alike, and counts no second attempt."""
    job_id = create(store)
    assert claim(store, job_id) == claim(store, job_id)


def test_why_a_job_cannot_be_claimed(store: JobStore, redis_client: redis.Redis) -> None:
    """A claim that fails says why: gone, held, ended, later or expired."""
    assert verdict(store, "job_none") == "gone"
    held = running(store)
    assert verdict(store, held.job.id) == "held"
    store.complete(held, DONE)
    assert verdict(store, held.job.id) == "ended"
    forget_expired(redis_client, held.job.id)
    assert verdict(store, held.job.id) == "gone"
    waits = running(store)
    store.retry(waits, attempt=1, attempts=[], delay=60, keep_slot=False)
    assert verdict(store, waits.job.id) == "later"


def test_a_claim_after_the_deadline_ends_the_job(store: JobStore, redis_client: redis.Redis) -> None:
    """A job whose deadline has passed is never run: the claim fails it."""
    job_id = create(store, deadline_seconds=60)
    redis_client.hset(queues.job_key(job_id), "deadline", 1)
    assert verdict(store, job_id) == "expired"
    ended = job(store, job_id)
    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert ended.error["code"] == "deadline_exceeded"
    assert (ended.attempt, ended.started_at) == (0, None)
    assert verdict(store, job_id) == "ended"
    check_invariants(redis_client)


def test_renewal_extends_leases_and_names_the_lost(store: JobStore, redis_client: redis.Redis) -> None:
    """A renewal extends the leases that are ours, and names the jobs that were cancelled, deleted or taken over."""
    ours, cancelled, deleted, taken, ended = (running(store, f"c{number}") for number in range(5))
    store.cancel(cancelled.job.id, "ann")
    store.delete(deleted.job.id, "ann")
    store.complete(ended, DONE)
    lose_lease(redis_client, taken.job.id)
    assert store.upkeep.recover_lost() == 1
    claim(store, taken.job.id, "other")
    before = redis_client.zscore(queues.LEASES, taken.job.id)
    lose_lease(redis_client, ours.job.id)
    claims = {held.job.id: held.claim_id for held in (ours, cancelled, deleted, taken, ended)}
    lost = store.renew(claims, lease_seconds=99)
    assert set(lost) == {held.job.id for held in (cancelled, deleted, taken, ended)}
    assert store.upkeep.recover_lost() == 0
    assert redis_client.zscore(queues.LEASES, taken.job.id) == before
    check_invariants(redis_client)


def test_nothing_to_renew(store: JobStore) -> None:
    """A renewal of nothing loses nothing."""
    assert store.renew({}, lease_seconds=30) == []


def test_recovery_returns_what_lost_its_lease(store: JobStore, redis_client: redis.Redis) -> None:
    """A job whose lease ran out waits again, with a strike and no attempt counted; one that is alive is left alone."""
    dead, alive = running(store, "c1", queue="bulk"), running(store, "c2")
    lose_lease(redis_client, dead.job.id)
    assert store.upkeep.recover_lost() == 1
    assert store.upkeep.recover_lost() == 0
    again = job(store, dead.job.id)
    assert (again.status, again.strikes, again.attempt) == (JobStatus.QUEUED, 1, 0)
    assert store.upkeep.queue_state("bulk")[:2] == (1, 1)
    assert job(store, alive.job.id).status is JobStatus.IN_PROGRESS
    check_invariants(redis_client)
    assert claim(store, dead.job.id, "c3").job.attempt == 1


def test_a_lease_without_a_record_is_cleared(store: JobStore, redis_client: redis.Redis) -> None:
    """A stale lease of a job that is gone does not stay."""
    redis_client.zadd(queues.LEASES, {"job_gone": 1})
    assert store.upkeep.recover_lost() == 0
    assert members(redis_client, queues.LEASES) == set()


def test_hand_back_goes_to_the_head(store: JobStore, redis_client: redis.Redis) -> None:
    """A job that is handed back is the next of its queue, without an attempt or a strike counted."""
    first = running(store)
    others = [create(store) for _ in range(2)]
    assert store.hand_back(first) == "done"
    again = job(store, first.job.id)
    assert (again.status, again.attempt, again.strikes) == (JobStatus.QUEUED, 0, 0)
    last = redis_client.lindex(queues.celery_queue("default"), -1)
    assert last is not None
    assert first.job.id.encode() in last
    assert store.hand_back(first) == "fenced"
    check_invariants(redis_client)
    assert store.position(again) == 1
    assert [store.position(job(store, other)) for other in others] == [2, 3]


def test_only_the_holder_hands_back(store: JobStore, redis_client: redis.Redis) -> None:
    """A hand-back by a claim that was replaced, or of a job that ended, changes nothing."""
    old = running(store)
    lose_lease(redis_client, old.job.id)
    store.upkeep.recover_lost()
    new = claim(store, old.job.id, "c2")
    assert store.hand_back(old) == "fenced"
    store.complete(new, DONE)
    assert store.hand_back(new) == "ended"
    store.delete(new.job.id, "ann")
    assert store.hand_back(new) == "gone"


def test_due_retries_are_promoted(store: JobStore, redis_client: redis.Redis) -> None:
    """A scheduled job is out of the backlog until it is due; then it waits again with a message, once."""
    held = running(store, queue="bulk")
    store.retry(held, attempt=1, attempts=[{"attempt": 1}], delay=60, keep_slot=False)
    waiting = job(store, held.job.id)
    assert waiting.status is JobStatus.QUEUED
    assert waiting.retry_at == pytest.approx(waiting.created_at + 60, abs=3)
    assert redis_client.zcard(queues.backlog_key("bulk")) == 0
    assert store.upkeep.promote_due() == 0
    check_invariants(redis_client)
    make_due(redis_client, queues.SCHEDULED, held.job.id)
    assert (store.upkeep.promote_due(), store.upkeep.promote_due()) == (1, 0)
    assert job(store, held.job.id).retry_at is None
    assert store.upkeep.queue_state("bulk")[:2] == (1, 1)
    check_invariants(redis_client)
    assert claim(store, held.job.id, "c2").job.attempt == 2


def test_renewing_takes_back_what_nobody_has_claimed_anew(store: JobStore, redis_client: redis.Redis) -> None:
    """A slow worker keeps a job that was recovered meanwhile: its call runs still, and no other is begun."""
    held = running(store)
    lose_lease(redis_client, held.job.id)
    assert store.upkeep.recover_lost() == 1
    assert store.renew({held.job.id: held.claim_id}, lease_seconds=30) == []
    found = job(store, held.job.id)
    assert (found.status, found.attempt, found.strikes) == (JobStatus.IN_PROGRESS, 1, 0)
    assert verdict(store, held.job.id) == "held"
    check_invariants(redis_client)


def test_renewing_does_not_take_back_what_was_handed_back(store: JobStore, redis_client: redis.Redis) -> None:
    """A renewal that was on its way while its worker gave the job back changes nothing."""
    held = running(store)
    assert store.hand_back(held) == "done"
    assert store.renew({held.job.id: held.claim_id}, lease_seconds=30) == [held.job.id]
    assert job(store, held.job.id).status is JobStatus.QUEUED
    check_invariants(redis_client)


def test_a_late_renewal_does_not_revive_what_was_given_up(store: JobStore, redis_client: redis.Redis) -> None:
    """A worker that has freed its slot for a later retry gets nothing back when that is due."""
    waiting = running(store)
    assert store.retry(waiting, attempt=1, attempts=[{}], delay=60, keep_slot=False) == "done"
    make_due(redis_client, queues.SCHEDULED, waiting.job.id)
    assert store.upkeep.promote_due() == 1
    assert store.renew({waiting.job.id: waiting.claim_id}, lease_seconds=30) == [waiting.job.id]
    check_invariants(redis_client)
