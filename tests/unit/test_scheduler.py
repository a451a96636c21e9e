"""The scheduler: what is due is done, once, and nothing is done to those that are only slow."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import redis

from jobs import queues
from jobs.model import JobStatus
from jobs.store import JobStore
from tests.unit.making import DONE, claim, create, forget_expired, job, keys, lose_lease, make_due, running
from worker.scheduler import Scheduler


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def scheduler(store: JobStore, clock: Clock) -> Scheduler:
    return Scheduler(upkeep=store.upkeep, outbox=store.outbox, lease_seconds=30, grace=10, clock=clock)


def messages_of(client: redis.Redis, job_id: str, queue: str = "default") -> int:
    found = client.lrange(queues.celery_queue(queue), 0, -1)
    return sum(f'"id": "{job_id}"'.encode() in message for message in found)


def silent_for(client: redis.Redis, seconds: float) -> None:
    """Set the last tick of any scheduler back."""
    last = client.get(queues.TICK)
    assert last is not None
    client.set(queues.TICK, int(last) - round(seconds * 1000))


def everything_due(store: JobStore, client: redis.Redis) -> dict[str, str]:
    lost, retry, overdue, expired = running(store), running(store), running(store, deadline_seconds=60), running(store)
    store.retry(retry, attempt=1, attempts=[], delay=60, keep_slot=False)
    store.complete(expired, DONE)
    lose_lease(client, lost.job.id)
    make_due(client, queues.SCHEDULED, retry.job.id)
    make_due(client, queues.DEADLINES, overdue.job.id)
    forget_expired(client, expired.job.id)
    return {"lost": lost.job.id, "retry": retry.job.id, "overdue": overdue.job.id}


def test_a_tick_does_all_that_is_due(store: JobStore, redis_client: redis.Redis) -> None:
    """One tick recovers lost leases, promotes due retries, ends the overdue and purges the expired."""
    due = everything_due(store, redis_client)
    scheduler(store, Clock()).tick()
    assert job(store, due["lost"]).strikes == 1
    assert job(store, due["retry"]).retry_at is None
    assert job(store, due["overdue"]).status is JobStatus.FAILED
    assert store.upkeep.queue_state("default")[:2] == (2, 2)
    assert not any(key.startswith("promptq:index:ann:job:completed") for key in keys(redis_client))


def test_two_at_once_do_it_once(store: JobStore, redis_client: redis.Redis) -> None:
    """Schedulers that tick at the same moment do each thing once between them."""
    due = everything_due(store, redis_client)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: scheduler(store, Clock()).tick(), range(8)))
    assert job(store, due["lost"]).strikes == 1
    assert store.upkeep.queue_state("default")[:2] == (2, 2)


def test_after_a_gap_leases_have_time(store: JobStore, redis_client: redis.Redis) -> None:
    """After Redis was away nothing is recovered for one lease, in which the workers renew; then it is."""
    clock = Clock()
    ticker = scheduler(store, clock)
    ticker.tick()
    held = running(store)
    lose_lease(redis_client, held.job.id)
    silent_for(redis_client, 20)
    for _ in range(3):
        ticker.tick()
        # Another that has just been started keeps to it.
        scheduler(store, Clock()).tick()
        assert job(store, held.job.id).status is JobStatus.IN_PROGRESS
    assert 29_000 < redis_client.pttl(queues.HOLD) <= 30_000
    redis_client.delete(queues.HOLD)
    ticker.tick()
    assert job(store, held.job.id).status is JobStatus.QUEUED


def test_a_slow_scheduler_recovers_all_the_same(store: JobStore, redis_client: redis.Redis) -> None:
    """A scheduler that always ticks at half a lease is slow, not cut off: a lost job comes back within a few leases."""
    clock = Clock()
    ticker = scheduler(store, clock)
    ticker.tick()
    held = running(store)
    lose_lease(redis_client, held.job.id)
    for _ in range(8):
        clock.now += 15
        silent_for(redis_client, 15)
        ticker.tick()
    assert job(store, held.job.id).status is JobStatus.QUEUED


def test_an_emptied_list_is_repaired(store: JobStore, redis_client: redis.Redis) -> None:
    """Jobs that wait while their list stays empty get their messages again after the grace, one each."""
    clock = Clock()
    ticker = scheduler(store, clock)
    ids = [create(store) for _ in range(3)]
    redis_client.delete(queues.celery_queue("default"))
    ticker.tick()
    clock.now += 9
    ticker.tick()
    assert store.upkeep.queue_state("default")[:2] == (3, 0)
    for _ in range(5):
        clock.now += 11
        ticker.tick()
        assert [messages_of(redis_client, job_id) for job_id in ids] == [1, 1, 1]


def test_a_message_that_was_passed_over_is_repaired(store: JobStore, redis_client: redis.Redis) -> None:
    """A job that waits although later ones were claimed a grace ago gets its message again, once."""
    clock = Clock()
    ticker = scheduler(store, clock)
    lost, taken, waiting = (create(store) for _ in range(3))
    redis_client.rpop(queues.celery_queue("default"))
    claim(store, taken)
    for _ in range(4):
        ticker.tick()
        clock.now += 11
    assert [messages_of(redis_client, job_id) for job_id in (lost, waiting)] == [1, 1]
    claim(store, lost)
    clock.now += 11
    ticker.tick()
    assert messages_of(redis_client, waiting) == 1


def test_nothing_lost_nothing_sent(store: JobStore, redis_client: redis.Redis) -> None:
    """While nothing is lost no message is sent twice, however long jobs wait, are claimed or handed back."""
    clock = Clock()
    ticker = scheduler(store, clock)
    ids = [create(store) for _ in range(40)]
    for number, job_id in enumerate(ids[:30]):
        assert messages_of(redis_client, job_id) == 1
        taken = redis_client.rpop(queues.celery_queue("default"))
        assert taken is not None
        assert job_id.encode() in taken
        held = claim(store, job_id)
        if number % 5 == 4:
            store.hand_back(held)
            assert redis_client.rpop(queues.celery_queue("default"))
            claim(store, job_id, "again")
        clock.now += 6
        ticker.tick()
    assert store.upkeep.queue_state("default")[:2] == (10, 10)
    assert [messages_of(redis_client, job_id) for job_id in ids[30:]] == [1] * 10
