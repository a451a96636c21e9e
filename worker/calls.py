"""The LLM calls that this worker has in flight, each of which can be aborted from outside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import gevent
import greenlet

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


class _Interrupt(BaseException):
    """Thrown into a call to end it; no ``Exception``, which the SDK would take for a failure of the connection."""


@dataclass(slots=True)
class _Running:
    claim: Claim
    #: The greenlet that is in a call, or in a pause before one; the only moments in which it may be interrupted.
    interruptible: greenlet.greenlet | None = None
    aborted: AbortReason | None = None


class Calls:
    """Register of running jobs. A call can be ended from outside, and nothing but a call."""

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
        if entry.interruptible is not None:
            # By the hub, in which no greenlet is in the middle of anything.
            gevent.get_hub().loop.run_callback(_interrupt, entry)

    def run(self, claim: Claim, call: Callable[[], T], *, timeout: float) -> T:
        """Run the call and answer what it answers.

        Raises what it raises, ``LLMTimeout`` after ``timeout`` seconds, or ``Aborted``; in the last two cases the call
        has been ended, its connection closed.
        """
        limit = gevent.Timeout(timeout)
        with self._interruptible(claim):
            try:
                with limit:
                    return call()
            except gevent.Timeout as over:
                if over is not limit:
                    raise
                raise LLMTimeout(f"The LLM gave no answer within {timeout:g} seconds.") from None

    def pause(self, claim: Claim, seconds: float) -> None:
        """Sleep in the slot before the next attempt. Raises ``Aborted`` as soon as the job is no longer ours to run."""
        with self._interruptible(claim):
            gevent.sleep(seconds)

    @contextlib.contextmanager
    def _interruptible(self, claim: Claim) -> Iterator[None]:
        entry = self._running[claim.claim_id]
        if entry.aborted is not None:
            raise Aborted(entry.aborted)
        entry.interruptible = greenlet.getcurrent()
        try:
            yield
        except _Interrupt:
            assert entry.aborted is not None
            raise Aborted(entry.aborted) from None
        finally:
            entry.interruptible = None


def _interrupt(entry: _Running) -> None:
    # It may have left its call since.
    if entry.interruptible is not None:
        entry.interruptible.throw(_Interrupt)
