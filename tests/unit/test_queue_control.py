"""Queues that are paused and go on."""

from __future__ import annotations

import redis

from jobs import queues
from jobs.model import SCHEMA_VERSION
from jobs.store import JobStore
from tests.unit.making import DONE, check_invariants, claim, create, job, lose_lease, members, running

LIST, HELD = queues.celery_queue("default"), queues.held_messages_key("default")


def claim_or_why(store: JobStore, job_id: str) -> object:
    """The claim of a job, or why there is none."""
    return store.claim(job_id, "c", lease_seconds=30, worker="w")


def test_a_paused_queue_takes_jobs_and_starts_none(store: JobStore, redis_client: redis.Redis) -> None:
    """No worker finds a message of its jobs, and a claim is refused; other queues go on."""
    before = create(store)
    store.queues.pause("default")
    after = create(store)
    assert redis_client.llen(LIST) == 0
    assert [claim_or_why(store, job_id) for job_id in (before, after)] == ["paused", "paused"]
    claim(store, create(store, queue="bulk"))
    assert redis_client.llen(LIST) == 0
    check_invariants(redis_client)


def test_a_paused_queue_keeps_no_worker(store: JobStore, redis_client: redis.Redis) -> None:
    """Its waiting jobs leave the backlog that KEDA scales on; those that run stay in it until they end."""
    active = running(store)
    create(store)
    store.queues.pause("default")
    create(store)
    assert members(redis_client, queues.backlog_key("default")) == {active.job.id}
    state = store.queues.state("default")
    assert (state.paused, state.waiting, state.running) == (True, 2, 1)
    assert store.complete(active, DONE) == "done"
    assert redis_client.exists(queues.backlog_key("default")) == 0


def test_a_resumed_queue_goes_on_where_it_stood(store: JobStore, redis_client: redis.Redis) -> None:
    """Every job is told of again, in its order, and counts in the backlog since when it did before."""
    first, second = create(store), create(store)
    since = dict(redis_client.zrange(queues.backlog_key("default"), 0, -1, withscores=True))
    store.queues.pause("default")
    third = create(store)
    messages = redis_client.lrange(HELD, 0, -1)
    store.queues.resume("default")
    assert redis_client.lrange(LIST, 0, -1) == messages
    assert redis_client.zrange(queues.waiting_key("default"), 0, -1) == [i.encode() for i in (first, second, third)]
    counted = dict(redis_client.zrange(queues.backlog_key("default"), 0, -1, withscores=True))
    assert since.items() <= counted.items()
    assert not store.queues.state("default").paused
    claim(store, first)
    check_invariants(redis_client)


def test_pausing_and_resuming_twice_is_the_same_as_once(store: JobStore, redis_client: redis.Redis) -> None:
    """Nothing is lost by a repeated request."""
    create(store)
    for step in (store.queues.pause, store.queues.resume):
        step("default")
        step("default")
        check_invariants(redis_client)
    assert redis_client.llen(LIST) == 1


def test_what_comes_back_to_a_paused_queue_waits_in_it(store: JobStore, redis_client: redis.Redis) -> None:
    """What is handed back or recovered is held, too; a renewal that takes a job back counts it as running."""
    handed_back, lost = running(store, "c1"), running(store, "c2")
    store.queues.pause("default")
    store.hand_back(handed_back)
    lose_lease(redis_client, lost.job.id)
    store.upkeep.recover_lost()
    check_invariants(redis_client)
    assert redis_client.llen(HELD) == 2
    assert store.renew({lost.job.id: "c2"}, lease_seconds=30) == []
    check_invariants(redis_client)
    assert members(redis_client, queues.backlog_key("default")) == {lost.job.id}
    assert store.complete(lost, DONE) == "done"
    store.queues.resume("default")
    claim(store, handed_back.job.id, "c3")


def test_a_message_that_a_stopping_worker_gave_back_is_not_lost(store: JobStore, redis_client: redis.Redis) -> None:
    """kombu puts it into the list itself, pause or not; resuming keeps it."""
    job_id = create(store)
    taken = redis_client.rpop(LIST)
    assert isinstance(taken, bytes)
    store.queues.pause("default")
    create(store)
    redis_client.rpush(LIST, taken)
    store.queues.resume("default")
    assert redis_client.lindex(LIST, -1) == taken
    assert job(store, job_id).status == "queued"


def test_the_next_job_is_known_by_its_age(store: JobStore) -> None:
    """A queue says when its next job was made, and nothing when none waits."""
    assert store.queues.state("default").next_created_at is None
    job_id = create(store)
    assert store.queues.state("default").next_created_at == job(store, job_id).created_at
    assert [state.name for state in store.queues.states()] == list(queues.QUEUES)


def test_a_job_of_a_later_release_is_left_to_its_workers(store: JobStore, redis_client: redis.Redis) -> None:
    """A worker that cannot read a record does not claim it, so that it is not struck for it."""
    job_id = create(store)
    redis_client.hset(queues.job_key(job_id), "v", SCHEMA_VERSION + 1)
    assert claim_or_why(store, job_id) == "newer"
    check_invariants(redis_client)
