"""Dead letters, and the jobs that repeat them."""

from __future__ import annotations

import pytest
import redis

from jobs.errors import NotFound, NotRetryable
from jobs.model import JobStatus
from jobs.store import JobStore
from tests.unit.making import BODY, DONE, FAILED, check_invariants, create, forget_expired, job, running


def failed(store: JobStore, **changes: object) -> str:
    """A job that has failed."""
    claim = running(store, **changes)
    assert store.complete(claim, FAILED) == "done"
    return claim.job.id


def listed(store: JobStore, owner: str = "ann", **asked: object) -> list[str]:
    """Ids of the owner's dead letters."""
    return [found.id for found in store.dead_letters(owner, **asked).jobs]  # type: ignore[arg-type]


def test_what_fails_is_a_dead_letter_and_nothing_else_is(store: JobStore) -> None:
    """Failed jobs are listed newest first, by queue if asked; completed, cancelled and waiting ones are not."""
    first, second = failed(store), failed(store, queue="bulk")
    store.complete(running(store), DONE)
    store.cancel(create(store), "ann")
    create(store)
    assert listed(store) == [second, first]
    assert listed(store, queue_names=["bulk"]) == [second]
    assert listed(store, after=second) == [first]
    assert listed(store, "bob") == []


def test_a_retry_is_a_new_job_of_the_same_request(store: JobStore, redis_client: redis.Redis) -> None:
    """It has all that the caller gave, a deadline as long as the first one's, and both name each other."""
    given = {"queue": "bulk", "metadata": {"order": "1"}, "deadline_seconds": 60.0, "attempt_timeout": 5.0}
    dead = failed(store, idempotency_key="k", **given)
    accepted = store.resubmit(dead, "ann")
    assert accepted.made is not None
    assert accepted.position == 1
    new, old = job(store, accepted.job_id), job(store, dead)
    assert (new.retried_from, old.retried_as) == (dead, new.id)
    assert (new.request, new.metadata, new.attempt_timeout) == (BODY, {"order": "1"}, 5.0)
    assert (new.queue, new.model, new.endpoint, new.status, new.attempt) == ("bulk", "sim", old.endpoint, "queued", 0)
    assert new.deadline_at == pytest.approx(new.created_at + 60)
    assert listed(store) == []
    assert old.status is JobStatus.FAILED
    check_invariants(redis_client)


def test_a_second_retry_gives_the_same_job(store: JobStore) -> None:
    """Whoever repeats a retry, since its answer was lost or the list was old, pays for nothing twice."""
    dead = failed(store)
    first = store.resubmit(dead, "ann")
    again = store.resubmit(dead, "ann")
    assert (again.job_id, again.made) == (first.job_id, None)
    store.delete(first.job_id, "ann")
    assert store.resubmit(dead, "ann").made is not None


def test_only_what_failed_or_was_cancelled_is_retried(store: JobStore) -> None:
    """A job that waits, runs or has its answer is not begun beside itself; another owner's does not exist."""
    waiting, cancelled, dead = create(store), create(store), failed(store)
    store.cancel(cancelled, "ann")
    completed = running(store)
    store.complete(completed, DONE)
    for job_id in (waiting, running(store).job.id, completed.job.id):
        with pytest.raises(NotRetryable):
            store.resubmit(job_id, "ann")
    assert store.resubmit(cancelled, "ann").made is not None
    with pytest.raises(NotFound):
        store.resubmit(dead, "bob")


def test_a_retry_that_fails_is_a_dead_letter_again(store: JobStore) -> None:
    """The list then holds the newer of the two."""
    dead = failed(store)
    new = store.resubmit(dead, "ann").job_id
    claimed = store.claim(new, "c2", lease_seconds=30, worker="w")
    assert not isinstance(claimed, str)
    store.complete(claimed, FAILED)
    assert listed(store) == [new]


def test_dead_letters_go_with_their_jobs(store: JobStore, redis_client: redis.Redis) -> None:
    """What is deleted or has expired is no longer listed, and leaves nothing behind."""
    deleted, expired = failed(store), failed(store, owner="failed")
    store.delete(deleted, "ann")
    forget_expired(redis_client, expired)
    assert store.upkeep.purge_expired() == 1
    assert redis_client.keys("promptq:index:*") == []
