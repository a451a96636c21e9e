"""Run one job, from its claim to its end. Plain Python: it knows neither Celery nor Flask."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

import structlog

from jobs.conversation import llm_body
from jobs.errors import LLMError, PromptQError, StoreUnavailable
from jobs.model import Claim, Endpoint, JobStatus, Outcome
from jobs.scripts import EXPIRED_ERROR
from jobs.store import JobStore
from jobs.tracing import Tracing
from worker.calls import Aborted, AbortReason, Calls
from worker.llm import Answer
from worker.metrics import OK, WorkerMetrics
from worker.relay import Relay
from worker.retries import RetryPolicy
from worker.streaming import Event

T = TypeVar("T")

#: How long a result is held while Redis is away. It was paid for, so this is long.
_PATIENCE: Final = 3600.0

_log = structlog.get_logger("promptq.worker")


class LLM(Protocol):
    """What a runner needs of an LLM."""

    def call(self, endpoint: Endpoint, body: bytes) -> Answer:
        """Answer the body, or raise an ``LLMError``."""

    def stream(self, endpoint: Endpoint, body: bytes, tell: Callable[[Event], None]) -> Answer:
        """The same of a streamed call, with each event told as it comes."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How one delivery of a job went, in a word that Flower may show; ``code`` is that of a failed job's error."""

    how: str
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Runs jobs by id; one call of ``run`` occupies one slot of the worker."""

    store: JobStore
    llm: LLM
    calls: Calls
    retries: RetryPolicy
    worker: str
    lease_seconds: float
    call_timeout: float
    #: Size of a stream (bytes) beyond which pieces of a text are put together.
    stream_max_bytes: int = 256 * 1024
    #: Runs a job by itself that must not have neighbours; None where this process has nothing else to run.
    alone: Callable[[str], Ran | None] | None = None
    metrics: WorkerMetrics = field(default_factory=WorkerMetrics)
    tracing: Tracing = field(default_factory=Tracing)
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def run(self, job_id: str) -> Ran | None:
        """Claim the job and bring it to its end, to a later retry, or back to the queue; nothing if it is not ours.

        None: the worker stops and did not look at the job, so that another must be told of it.
        """
        if self.calls.closed:
            return None
        with structlog.contextvars.bound_contextvars(job_id=job_id):
            claim_id = uuid.uuid4().hex
            claim = self._patiently(
                lambda: self.store.claim(
                    job_id,
                    claim_id,
                    lease_seconds=self.lease_seconds,
                    worker=self.worker,
                    alone=self.alone is None,
                ),
                # The job still waits, and the scheduler finds that its message is gone.
                patience=self.lease_seconds,
            )
            if claim == "alone" and self.alone is not None:
                _log.warning("job.runs_alone")
                return self.alone(job_id)
            if not isinstance(claim, Claim):
                _log.info("job.not_claimed", reason=claim)
                return Ran(claim)
            with structlog.contextvars.bound_contextvars(owner=claim.job.owner):
                self.metrics.claimed(claim)
                self.calls.enter(claim)
                try:
                    return self._run(claim)
                finally:
                    self.calls.leave(claim)

    def _run(self, claim: Claim) -> Ran:
        attempts = [dict(earlier) for earlier in claim.job.attempts]
        attempt = claim.job.attempt
        own_limit = math.inf if claim.job.attempt_timeout is None else claim.job.attempt_timeout
        # Counted down by our own clock: no two machines have to agree on the time.
        ends = math.inf if claim.time_left is None else self.monotonic() + claim.time_left
        while True:
            started = self.clock()
            if self.monotonic() >= ends:
                # While it waited for this attempt: the LLM might bill what it is asked now.
                return self._end(claim, Outcome(JobStatus.FAILED, error=EXPIRED_ERROR), attempts, attempt, started)
            _log.info("job.attempt_started", attempt=attempt, queued_seconds=round(started - claim.job.created_at, 3))
            try:
                answer = self._call(claim, attempt, min(self.call_timeout, own_limit, ends - self.monotonic()))
            except Aborted as aborted:
                return self._give_up(claim, aborted.reason, attempt)
            except LLMError as error:
                attempts.append(_attempt(attempt, started, self.clock(), error))
                if self.monotonic() >= ends:
                    return self._end(claim, Outcome(JobStatus.FAILED, error=EXPIRED_ERROR), attempts, attempt, started)
                ran = self._retry(claim, attempt, attempts, error)
                if ran is not None:
                    return ran
                attempt += 1
                continue
            except Exception:  # noqa: BLE001  # a slip of ours must not be paid for again with every lease
                _log.exception("job.crashed", attempt=attempt)
                failure = {"code": PromptQError.code, "message": "The worker had an error while it ran the job."}
                return self._end(claim, Outcome(JobStatus.FAILED, error=failure), attempts, attempt, started)
            outcome = Outcome(answer.status, answer.body, answer.usage, _error_of(answer))
            return self._end(claim, outcome, attempts, attempt, started, answer.request_id)

    def _call(self, claim: Claim, attempt: int, limit: float) -> Answer:
        """Make one LLM call of at most ``limit`` seconds, and count it. Raises as ``Calls.run`` does."""
        endpoint, began, outcome = claim.job.endpoint, self.monotonic(), PromptQError.code
        body = llm_body(claim.job)
        with self.tracing.llm_call(claim.job, attempt) as span:
            try:
                answer = self._ask(claim, body, max(0.001, limit))
                outcome = OK
            except LLMError as error:
                outcome = error.code
                raise
            except Aborted:
                outcome = "aborted"
                raise
            finally:
                self.metrics.called(endpoint, outcome, self.monotonic() - began)
                if outcome != OK:
                    span.failed(outcome)
            span.used(answer.usage)
        self.metrics.used(endpoint, answer.usage)
        return answer

    def _ask(self, claim: Claim, body: bytes, limit: float) -> Answer:
        endpoint = claim.job.endpoint
        if not claim.job.stream:
            return self.calls.run(claim, lambda: self.llm.call(endpoint, body), timeout=limit)
        numbers = self._patiently(lambda: self.store.streams.begin(claim))
        if isinstance(numbers, str):
            raise Aborted(AbortReason.NOT_OURS)
        with Relay(self.store.streams, claim, numbers, max_bytes=self.stream_max_bytes) as relay:
            answer = self.calls.run(claim, lambda: self.llm.stream(endpoint, body, relay.tell), timeout=limit)
        # All of it stands in the stream before the job ends.
        self._patiently(relay.flush)
        return answer

    def _retry(self, claim: Claim, attempt: int, attempts: list[dict[str, Any]], error: LLMError) -> Ran | None:
        """Plan the next attempt; None if it begins here and now, in this slot."""
        started = attempts[-1]["started_at"]
        delay = self.retries.delay(attempt, error)
        if delay is None:
            return self._end(claim, Outcome(JobStatus.FAILED, error=_describe(error)), attempts, attempt, started)
        # A worker that stops begins no further call: another makes it.
        keep = delay <= self.retries.in_slot and not self.calls.closed
        _log.info("job.attempt_failed", attempt=attempt, code=error.code, retry_in=round(delay, 3), in_slot=keep)
        verdict = self._patiently(
            lambda: self.store.retry(claim, attempt=attempt, attempts=attempts, delay=delay, keep_slot=keep)
        )
        if verdict != "done":
            return Ran(verdict)
        self.metrics.retried(error.code)
        if not keep:
            return Ran("scheduled", error.code)
        try:
            self.calls.pause(claim, delay)
        except Aborted as aborted:
            return self._give_up(claim, aborted.reason, attempt + 1)
        return None

    def _give_up(self, claim: Claim, reason: AbortReason, attempt: int) -> Ran:
        if reason is AbortReason.SHUTDOWN:
            verdict = self._patiently(lambda: self.store.hand_back(claim), patience=self.lease_seconds)
            _log.info("job.handed_back", attempt=attempt, verdict=verdict)
            self.metrics.handed_back()
            return Ran("handed_back")
        _log.info("job.aborted", attempt=attempt)
        return Ran("aborted")

    def _end(
        self,
        claim: Claim,
        outcome: Outcome,
        attempts: list[dict[str, Any]],
        attempt: int,
        started: float,
        request_id: str | None = None,
    ) -> Ran:
        verdict = self._patiently(lambda: self.store.complete(claim, outcome, attempts=attempts))
        log = _log.info if verdict == "done" else _log.warning
        log(
            "job.ended" if verdict == "done" else "job.result_discarded",
            status=outcome.status.value,
            attempt=attempt,
            call_seconds=round(self.clock() - started, 3),
            total_seconds=round(self.clock() - claim.job.created_at, 3),
            verdict=verdict,
            code=outcome.error["code"] if outcome.error else None,
            upstream_request_id=request_id,
        )
        if verdict != "done":
            self.metrics.discarded(verdict)
            return Ran("discarded")
        return Ran(outcome.status.value, outcome.error["code"] if outcome.error else None)

    def _patiently(self, step: Callable[[], T], *, patience: float = _PATIENCE) -> T:
        """Repeat a step of the store until Redis answers. Raises ``StoreUnavailable`` after ``patience`` seconds."""
        deadline = self.monotonic() + patience
        pause = 0.1
        while True:
            try:
                return step()
            except StoreUnavailable:
                if self.monotonic() + pause > deadline:
                    raise
                _log.warning("store.unavailable", retry_in=pause)
            self.sleep(pause)
            pause = min(2 * pause, 2.0)


def _attempt(number: int, started: float, ended: float, error: LLMError) -> dict[str, Any]:
    return {
        "attempt": number,
        "started_at": round(started, 3),
        "ended_at": round(ended, 3),
        "error_code": error.code,
        "upstream_status": error.upstream_status,
        "upstream_request_id": error.upstream_request_id,
    }


def _describe(error: LLMError) -> dict[str, Any]:
    """The job's error, with the LLM's own beside it so that a synchronous caller gets that as it came."""
    return {
        "code": error.code,
        "message": error.message,
        "upstream_status": error.upstream_status,
        "upstream_error": error.upstream_error,
        "upstream_request_id": error.upstream_request_id,
    }


def _error_of(answer: Answer) -> Mapping[str, Any] | None:
    if answer.status is not JobStatus.FAILED:
        return None
    upstream = answer.error or {}
    message = upstream.get("message") or "The LLM reports that the response failed."
    return {"code": "llm_rejected", "message": str(message), "upstream_status": 200, "upstream_error": answer.error}
