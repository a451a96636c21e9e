"""The runner, from a claim to the job's end, on a real store with a fake LLM."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent
import pytest
import redis

from jobs import queues
from jobs.errors import LLMError, LLMRateLimited, LLMRejected, LLMUnavailable, StoreUnavailable
from jobs.model import Endpoint, Job, JobStatus
from jobs.store import JobStore
from tests.unit.making import BODY, DONE, check_invariants, claim, create, job, lose_lease
from worker.calls import AbortReason, Calls
from worker.heartbeat import Heartbeat
from worker.llm import Answer
from worker.retries import RetryPolicy
from worker.runner import Runner
from worker.streaming import Event

GOOD = Answer(b'{"choices": [1]}', JobStatus.COMPLETED, {"total_tokens": 2}, None, "req_1")


@dataclass
class FakeLLM:
    """Answers from a list: an answer, an error to raise, or something to do before the answer."""

    script: list[Answer | LLMError | Callable[[], Any]]
    bodies: list[bytes] = field(default_factory=list)
    ended: int = 0
    #: What a streamed call tells before its step.
    tells: list[Event] = field(default_factory=list)

    def call(self, endpoint: Endpoint, body: bytes) -> Answer:
        self.bodies.append(body)
        step = self.script.pop(0)
        try:
            if callable(step):
                step()
                return GOOD
            if isinstance(step, LLMError):
                raise step
            return step
        finally:
            self.ended += 1

    def stream(self, endpoint: Endpoint, body: bytes, tell: Callable[[Event], None]) -> Answer:
        for event in self.tells:
            tell(event)
        return self.call(endpoint, body)


def make_runner(store: JobStore, llm: FakeLLM, *, in_slot: float = 1.0, timeout: float = 5, **options: Any) -> Runner:
    policy = RetryPolicy(max_attempts=3, base=0.001, longest=0.001, retry_after_longest=600, in_slot=in_slot)
    known: dict[str, Any] = {"calls": Calls(), "lease_seconds": 30, "call_timeout": timeout, "sleep": gevent.sleep}
    return Runner(store=store, llm=llm, retries=policy, worker="w1", **(known | options))


def run(store: JobStore, *script: Any, job_id: str | None = None, **options: Any) -> tuple[Job, FakeLLM]:
    """Run a new job to wherever the script brings it."""
    llm, job_id = FakeLLM(list(script)), job_id or create(store)
    runner = make_runner(store, llm, **options)
    runner.run(job_id)
    assert len(runner.calls) == 0
    return job(store, job_id), llm


def test_a_worker_that_stops_begins_no_further_call(store: JobStore) -> None:
    """A call that fails while the worker drains is repeated elsewhere: the job is scheduled, whatever the delay."""
    calls = Calls()

    def stop_and_fail() -> None:
        calls.closed = True
        raise LLMUnavailable("busy")

    waiting, llm = run(store, stop_and_fail, calls=calls)
    assert (waiting.status, len(llm.bodies)) == (JobStatus.QUEUED, 1)
    assert waiting.retry_at is not None


def hang() -> None:
    gevent.sleep(30)


def test_an_answer_ends_the_job(store: JobStore) -> None:
    """The LLM gets the body as it is, once, and its answer is stored byte for byte with its usage."""
    ended, llm = run(store, GOOD)
    assert (ended.status, ended.result, ended.usage) == (JobStatus.COMPLETED, GOOD.body, GOOD.usage)
    assert llm.bodies == [BODY]
    assert ended.attempts == ()


def test_a_failed_response_keeps_its_answer(store: JobStore) -> None:
    """A response that failed on the LLM's side fails the job, with its error and its body."""
    ended, _ = run(store, Answer(b"{}", JobStatus.FAILED, None, {"message": "broke", "code": "server_error"}, None))
    assert (ended.status, ended.result) == (JobStatus.FAILED, b"{}")
    assert ended.error is not None
    assert ended.error["message"] == "broke"


def test_a_final_error_fails_at_once(store: JobStore) -> None:
    """An error that is not worth a retry fails the job after one call, with the LLM's own status and error."""
    upstream: dict[str, object] = {"message": "no", "code": "content_policy_violation"}
    ended, llm = run(store, LLMRejected("no", upstream_status=400, upstream_error=upstream))
    assert (ended.status, len(llm.bodies)) == (JobStatus.FAILED, 1)
    assert ended.error is not None
    assert (ended.error["code"], ended.error["upstream_error"]) == ("llm_rejected", upstream)


def test_short_retries_stay_in_the_slot(store: JobStore) -> None:
    """A retry that is due soon happens in the same run, and each failed attempt is recorded."""
    ended, llm = run(store, LLMUnavailable("x", upstream_status=500), LLMUnavailable("x"), GOOD)
    assert (ended.status, ended.attempt, len(llm.bodies)) == (JobStatus.COMPLETED, 3, 3)
    assert [(entry["attempt"], entry["upstream_status"]) for entry in ended.attempts] == [(1, 500), (2, None)]


def test_the_last_attempt_fails_the_job(store: JobStore, redis_client: redis.Redis) -> None:
    """After the last attempt the job fails with the last error, all its attempts on record."""
    ended, llm = run(store, *(LLMUnavailable("x", upstream_status=503) for _ in range(3)))
    assert (ended.status, ended.attempt, len(llm.bodies)) == (JobStatus.FAILED, 3, 3)
    assert [entry["attempt"] for entry in ended.attempts] == [1, 2, 3]
    assert ended.error is not None
    assert ended.error["code"] == "llm_unavailable"
    check_invariants(redis_client)


def test_a_long_retry_frees_the_slot(store: JobStore, redis_client: redis.Redis) -> None:
    """A retry that the LLM wants later is scheduled for then; its slot and the backlog are free meanwhile."""
    waiting, _ = run(store, LLMRateLimited("slow down", upstream_status=429, retry_after=60))
    assert (waiting.status, waiting.attempt) == (JobStatus.QUEUED, 1)
    assert waiting.retry_at == pytest.approx(waiting.created_at + 60, abs=3)
    assert len(waiting.attempts) == 1
    redis_client.zadd(queues.SCHEDULED, {waiting.id: 1})
    assert store.upkeep.promote_due() == 1
    ended, _ = run(store, GOOD, job_id=waiting.id)
    assert (ended.status, ended.attempt) == (JobStatus.COMPLETED, 2)


def test_a_call_that_takes_too_long_is_ended(store: JobStore) -> None:
    """A call beyond its timeout is ended and tried again like any retryable error."""
    ended, llm = run(store, hang, GOOD, timeout=0.05)
    assert (ended.status, llm.ended) == (JobStatus.COMPLETED, 2)
    assert ended.attempts[0]["error_code"] == "llm_timeout"


def test_a_job_may_limit_its_own_attempts(store: JobStore) -> None:
    """An attempt beyond the job's own limit is ended and repeated, however long other calls may take."""
    ended, llm = run(store, hang, GOOD, job_id=create(store, attempt_timeout=0.05))
    assert (ended.status, llm.ended) == (JobStatus.COMPLETED, 2)
    assert ended.attempts[0]["error_code"] == "llm_timeout"


def test_the_deadline_ends_the_call(store: JobStore) -> None:
    """A call that reaches the job's deadline is ended, and the job fails as overdue without another try."""
    ended, llm = run(store, hang, hang, hang, job_id=create(store, deadline_seconds=0.15))
    assert (ended.status, llm.ended) == (JobStatus.FAILED, len(llm.bodies))
    assert ended.error is not None
    assert ended.error["code"] == "deadline_exceeded"


@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_an_abort_ends_the_call(store: JobStore, redis_client: redis.Redis, how: str) -> None:
    """A cancelled or deleted job's call is ended by the next heartbeat, and nothing is stored of it."""
    calls, job_id = Calls(), create(store)

    def end_it() -> None:
        getattr(store, how)(job_id, "ann")
        gevent.spawn(Heartbeat(store, calls, lease_seconds=30).beat)
        hang()

    llm = FakeLLM([end_it])
    make_runner(store, llm, calls=calls).run(job_id)
    assert llm.ended == 1
    records = check_invariants(redis_client)
    assert [record[b"status"] for record in records.values()] == ([b"cancelled"] if how == "cancel" else [])


def test_shutdown_hands_the_job_back(store: JobStore, redis_client: redis.Redis) -> None:
    """A call that is cut off by the worker's stop goes back to the queue with no attempt counted."""
    calls, job_id = Calls(), create(store)

    def stop() -> None:
        gevent.spawn(calls.abort, job_id, AbortReason.SHUTDOWN)
        hang()

    now, llm = run(store, stop, job_id=job_id, calls=calls)
    assert (now.status, now.attempt, now.strikes, llm.ended) == (JobStatus.QUEUED, 0, 0, 1)
    check_invariants(redis_client)


def test_shutdown_in_a_pause_hands_the_job_back(store: JobStore) -> None:
    """A job that waits in its slot for a retry goes back at once; the attempt that was made stays counted."""
    calls, job_id = Calls(), create(store)
    gevent.spawn_later(0.1, calls.abort, job_id, AbortReason.SHUTDOWN)
    now, _ = run(store, LLMRateLimited("x", retry_after=20), job_id=job_id, calls=calls, in_slot=60)
    assert (now.status, now.attempt, len(now.attempts)) == (JobStatus.QUEUED, 1, 1)


def test_an_answer_that_is_there_is_not_thrown_away(store: JobStore) -> None:
    """A stop in the moment in which the answer came does not discard it: it was paid for."""
    calls, job_id = Calls(), create(store)
    step = [lambda: gevent.get_hub().loop.run_callback(calls.abort, job_id, AbortReason.SHUTDOWN)]
    now, _ = run(store, *step, job_id=job_id, calls=calls)
    assert now.status is JobStatus.COMPLETED


def test_a_stopped_worker_takes_nothing(store: JobStore) -> None:
    """A worker that stops does not look at a job, and says so."""
    calls, job_id = Calls(), create(store)
    calls.closed = True
    llm = FakeLLM([])
    assert make_runner(store, llm, calls=calls).run(job_id) is None
    assert job(store, job_id).status is JobStatus.QUEUED


def test_a_redelivery_calls_nobody(store: JobStore) -> None:
    """A second delivery of a job that runs, has ended or is gone makes no call."""
    held = claim(store, create(store))
    llm = FakeLLM([])
    for _ in range(2):
        make_runner(store, llm).run(held.job.id)
        store.complete(held, DONE)
    make_runner(store, llm).run("job_gone")
    assert llm.bodies == []


def test_a_fenced_result_is_discarded(store: JobStore, redis_client: redis.Redis) -> None:
    """The result of a worker whose job another has claimed is thrown away."""
    job_id = create(store)

    def lose_it() -> None:
        lose_lease(redis_client, job_id)
        store.upkeep.recover_lost()
        claim(store, job_id, "other")

    now, _ = run(store, lose_it, job_id=job_id)
    assert (now.status, now.result) == (JobStatus.IN_PROGRESS, None)


def test_a_result_waits_for_redis(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result is kept and stored when Redis answers again; the LLM is not asked twice."""
    complete, troubles = store.complete, [1, 2]

    def sometimes(*args: Any, **kwargs: Any) -> Any:
        if troubles:
            troubles.pop()
            raise StoreUnavailable("away")
        return complete(*args, **kwargs)

    monkeypatch.setattr(store, "complete", sometimes)
    ended, llm = run(store, GOOD, sleep=lambda _: None)
    assert (ended.status, len(llm.bodies), troubles) == (JobStatus.COMPLETED, 1, [])


def test_a_slip_of_ours_is_not_paid_for_again(store: JobStore) -> None:
    """An error that nobody foresaw ends the job as failed, after one call."""

    def slip() -> None:
        raise TypeError("unforeseen")

    ended, llm = run(store, slip)
    assert (ended.status, len(llm.bodies)) == (JobStatus.FAILED, 1)
    assert ended.error is not None
    assert ended.error["code"] == "internal_error"


def test_clocks_need_not_agree(store: JobStore) -> None:
    """A worker whose clock is far ahead of Redis's gives a job all the time that its deadline leaves."""
    ahead = time.time() + 3600
    ended, _ = run(store, GOOD, job_id=create(store, deadline_seconds=60), clock=lambda: ahead)
    assert ended.status is JobStatus.COMPLETED


TOLD = [Event(b'{"choices":[]}', {"choices": []}, delta=True)] * 3


def run_streamed(store: JobStore, *script: Any, **options: Any) -> tuple[Job, list[int], FakeLLM]:
    """Run a new streamed job; answer it, the numbers in its stream, and the LLM."""
    llm, job_id = FakeLLM(list(script), tells=TOLD), create(store, stream=True)
    make_runner(store, llm, **options).run(job_id)
    entries = store.streams.read(job_id, "ann", after=-1).entries
    return job(store, job_id), [entry.number for entry in entries], llm


def test_a_streamed_call_is_in_the_stream_before_its_job_ends(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sees the job's end finds all that was told."""
    complete, found = store.complete, []

    def look(claim: Any, *args: Any, **kwargs: Any) -> Any:
        found.append(len(store.streams.read(claim.job.id, "ann", after=-1).entries))
        return complete(claim, *args, **kwargs)

    monkeypatch.setattr(store, "complete", look)
    ended, numbers, _ = run_streamed(store, GOOD)
    assert (ended.status, ended.result, numbers, found) == (JobStatus.COMPLETED, GOOD.body, [0, 1, 2], [3])


def test_a_streamed_attempt_that_fails_is_replaced(store: JobStore) -> None:
    """The stream holds what the last attempt has told, above what the others had."""

    def fail_later() -> None:
        gevent.sleep(0.05)
        raise LLMUnavailable("cut")

    ended, numbers, llm = run_streamed(store, fail_later, fail_later, GOOD)
    assert (ended.status, len(llm.bodies), len(ended.attempts)) == (JobStatus.COMPLETED, 3, 2)
    assert numbers == [8, 9, 10]


def test_a_streamed_call_that_hangs_is_ended(store: JobStore) -> None:
    """Its limit is that of any call."""
    ended, _, llm = run_streamed(store, hang, hang, hang, timeout=0.1)
    assert (ended.status, llm.ended) == (JobStatus.FAILED, 3)
    assert ended.error is not None
    assert ended.error["code"] == "llm_timeout"


def test_a_stream_that_cannot_be_written_costs_no_answer(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw ends the stream and not the call, which was paid for."""

    def refuse(*_: Any) -> Any:
        raise redis.ResponseError("WRONGTYPE")

    monkeypatch.setattr(store.streams, "append", refuse)
    ended, numbers, llm = run_streamed(store, GOOD)
    assert (ended.status, numbers, len(llm.bodies)) == (JobStatus.COMPLETED, [], 1)


def test_a_job_that_is_gone_is_not_streamed(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its claim and its call another may have taken it: no call is made."""
    begin = store.streams.begin

    def cancel_first(claim: Any) -> Any:
        store.cancel(claim.job.id, "ann")
        return begin(claim)

    monkeypatch.setattr(store.streams, "begin", cancel_first)
    ended, _, llm = run_streamed(store)
    assert (ended.status, llm.bodies) == (JobStatus.CANCELLED, [])
