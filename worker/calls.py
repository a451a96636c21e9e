"""The LLM calls that this worker has in flight, each of which can be aborted from outside."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar, cast

import gevent
from gevent import Greenlet
from gevent.event import AsyncResult

from jobs.errors import LLMTimeout
from jobs.model import Claim

T = TypeVar("T")


class AbortReason(StrEnum):
    """Why a call was ended from outside."""

    #: The job was cancelled, deleted or expired, or another claim has it.
    NOT_OURS = "not_ours"
    #: The worker stops, and the grace period is over.
    SHUTDOWN = "shutdown"


class Aborted(Exception):
    """Raised in a runner whose call was ended from outside; its connection to the LLM is closed by then."""

    def __init__(self, reason: AbortReason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class _Running:
    claim: Claim
    outcome: AsyncResult[Any] | None = None
    aborted: AbortReason | None = field(default=None)


class Calls:
    """Register of running jobs. Each call runs in a greenlet of its own, so that ending it can hurt nothing else."""

    def __init__(self) -> None:
        #: By claim id: a job whose lease was lost may be claimed here again while its first call still runs.
        self._running: dict[str, _Running] = {}
        #: Set once the worker stops: no job may be claimed from then on.
        self.closed = False

    def __len__(self) -> int:
        return len(self._running)

    def enter(self, claim: Claim) -> None:
        """Begin to count the job as running here, so that its lease is renewed; an earlier run of it is aborted."""
        self.abort(claim.job.id, AbortReason.NOT_OURS)
        self._running[claim.claim_id] = _Running(claim)

    def leave(self, claim: Claim) -> None:
        """Stop counting the claim."""
        self._running.pop(claim.claim_id, None)

    def claims(self) -> dict[str, str]:
        """Claim id by job id, of all that run here and were not aborted as another's."""
        return {
            entry.claim.job.id: claim_id
            for claim_id, entry in self._running.items()
            if entry.aborted is not AbortReason.NOT_OURS
        }

    def abort(self, job_id: str, reason: AbortReason) -> None:
        """End the job's calls, now or as soon as they begin; nothing happens if the job does not run here."""
        for claim_id, entry in list(self._running.items()):
            if entry.claim.job.id == job_id:
                self.abort_claim(claim_id, reason)

    def abort_claim(self, claim_id: str, reason: AbortReason) -> None:
        """End the call of this one claim."""
        entry = self._running.get(claim_id)
        if entry is None or entry.aborted is not None:
            return
        entry.aborted = reason
        if entry.outcome is not None:
            entry.outcome.set_exception(Aborted(reason))

    def run(self, claim: Claim, call: Callable[[], T], *, timeout: float) -> T:
        """Run the call and answer what it answers.

        Raises what it raises, ``LLMTimeout`` after ``timeout`` seconds, or ``Aborted``; in the last two cases the call
        has been ended, its connection closed.
        """
        entry = self._running[claim.claim_id]
        if entry.aborted is not None:
            raise Aborted(entry.aborted)
        outcome: AsyncResult[T] = AsyncResult()
        entry.outcome = outcome
        # In the caller's context: what the call logs and traces belongs to the job.
        worker = gevent.spawn(contextvars.copy_context().run, _report_to, outcome, call)
        try:
            return cast("T", outcome.get(timeout=timeout))
        except gevent.Timeout:
            raise LLMTimeout(f"The LLM gave no answer within {timeout:g} seconds.") from None
        finally:
            entry.outcome = None
            _end(worker)

    def pause(self, claim: Claim, seconds: float) -> None:
        """Sleep in the slot before the next attempt. Raises ``Aborted`` as soon as the job is no longer ours to run."""
        entry = self._running[claim.claim_id]
        if entry.aborted is not None:
            raise Aborted(entry.aborted)
        entry.outcome = AsyncResult()
        try:
            entry.outcome.get(timeout=seconds)
        except gevent.Timeout:
            return
        finally:
            entry.outcome = None


def _report_to(outcome: AsyncResult[T], call: Callable[[], T]) -> None:
    try:
        answer = call()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the runner's to handle
        outcome.set_exception(error)
    else:
        outcome.set(answer)


def _end(worker: Greenlet[..., None]) -> None:
    if not worker.ready():
        worker.kill()
