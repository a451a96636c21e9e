"""What keeps Redis small, and faults from spreading."""

from __future__ import annotations

import pytest
import redis
from redis.exceptions import ResponseError

from api.app import create_app
from jobs import queues
from jobs.errors import StoreUnavailable
from jobs.model import JobStatus
from jobs.redis_errors import redis_errors
from jobs.settings import Settings
from jobs.store import JobStore
from tests.unit.making import check_invariants, claim, create, job, lose_lease
from worker.calls import Calls
from worker.heartbeat import Heartbeat
from worker.scheduler import Scheduler


def test_a_job_that_kills_its_worker_three_times_is_ended(store: JobStore, redis_client: redis.Redis) -> None:
    """Two lost leases give the job back with no attempt counted; the third ends it."""
    job_id = create(store)
    for strikes in (1, 2):
        claim(store, job_id, f"c{strikes}")
        lose_lease(redis_client, job_id)
        assert store.upkeep.recover_lost() == 1
        found = job(store, job_id)
        assert (found.status, found.strikes, found.attempt) == (JobStatus.QUEUED, strikes, 0)
    claim(store, job_id, "c3")
    lose_lease(redis_client, job_id)
    assert store.upkeep.recover_lost() == 1
    ended = job(store, job_id)
    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert ended.error["code"] == "worker_crashed"
    check_invariants(redis_client)


def test_a_list_of_stale_messages_is_compacted(store: JobStore, redis_client: redis.Redis) -> None:
    """Submitting and cancelling while one job waits leaves no messages behind but those of jobs that wait, in order."""
    first = create(store)
    for _ in range(1100):
        store.delete(create(store), "ann")
    last = create(store)
    assert redis_client.llen(queues.celery_queue("default")) == 1102
    assert store.upkeep.compact("default") == 1100
    messages = redis_client.lrange(queues.celery_queue("default"), 0, -1)
    assert [last.encode() in messages[0], first.encode() in messages[1], len(messages)] == [True, True, 2]
    assert store.upkeep.compact("default") == 0


def test_a_broken_record_holds_nobody_up(store: JobStore, redis_client: redis.Redis) -> None:
    """A job whose record makes a step fail does not keep the others from being recovered."""
    broken, good = create(store), create(store)
    for job_id in (broken, good):
        claim(store, job_id)
        lose_lease(redis_client, job_id)
    redis_client.hset(queues.job_key(broken), "attempt", "not a number")
    with pytest.raises(ResponseError):
        store.upkeep.recover_lost()
    assert job(store, good).status is JobStatus.QUEUED
    Scheduler(upkeep=store.upkeep, outbox=store.outbox, lease_seconds=30).tick()


def test_a_heartbeat_outlives_any_error() -> None:
    """An answer of Redis that nobody expected costs one beat, not all that follow."""

    class Tired(Exception):
        pass

    class Store:
        beats = 0

        def renew(self, *_: object, **__: object) -> list[str]:
            self.beats += 1
            raise ResponseError("something new")

    class Busy(Calls):
        def claims(self) -> dict[str, str]:
            return {"job_1": "c1"}

    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise Tired

    store = Store()
    with pytest.raises(Tired):
        Heartbeat(store, Busy(), lease_seconds=30).run(sleep)  # type: ignore[arg-type]
    assert (store.beats, slept) == (3, [10, 10, 10])


@pytest.mark.parametrize("code", ["BUSY", "MISCONF", "NOREPLICAS", "MASTERDOWN"])
def test_a_server_that_takes_nothing_now_is_unavailable(code: str) -> None:
    """An error code that means 'not now' is a 503, not a crash."""
    with pytest.raises(StoreUnavailable), redis_errors():
        raise ResponseError(f"{code} try again")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/jobs", {"prompt": "hi"}),
        ("/v1/responses", {"model": "sim", "input": "hi", "background": True}),
    ],
)
def test_a_job_that_was_made_is_never_denied(
    path: str, body: dict[str, object], redis_client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis going away right after the job was made does not turn its acceptance into a 503."""

    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr(JobStore, "get", away)
    monkeypatch.setattr(JobStore, "position", away)
    answer = create_app(Settings(redis_url=redis_url)).test_client().post(path, json=body)
    assert answer.status_code in (200, 202)
    assert answer.json is not None
    assert (answer.json["status"], answer.json["queue_position"]) == ("queued", 1)
    assert answer.headers["x-promptq-job-id"] == answer.json["id"]
    assert redis_client.exists(queues.job_key(answer.json["id"]))
