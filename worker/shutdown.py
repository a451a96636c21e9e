"""The end of a worker: running calls have the grace period, what is left is handed back, and then it really ends."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence, Sized
from typing import Final

import gevent
import structlog

from worker.calls import AbortReason, Calls

#: Celery needs up to two seconds to stop; while Redis is away its reconnecting never looks whether it should.
_CELERY_NEEDS: Final = 4.0
_log = structlog.get_logger("promptq.worker")


def begin(grace_seconds: float, calls: Calls, also: Sequence[Sized] = ()) -> None:
    """Refuse new claims at once and see to the rest in the background; ``also`` is what else must come to its end."""
    calls.closed = True
    gevent.spawn(_finish, grace_seconds, calls, also)


def _finish(grace_seconds: float, calls: Calls, also: Sequence[Sized]) -> None:
    hand_back_at = time.monotonic() + grace_seconds
    idle_since: float | None = None
    while True:
        now = time.monotonic()
        if now >= hand_back_at:
            for job_id in calls.claims():
                calls.abort(job_id, AbortReason.SHUTDOWN)
        running = len(calls) + sum(len(others) for others in also)
        idle_since = None if running else idle_since or now
        given_up = now >= hand_back_at + _CELERY_NEEDS
        if given_up or (idle_since is not None and now - idle_since > _CELERY_NEEDS):
            # What could not be handed back, its lease gives back.
            _log.warning("worker.ended_by_force", running=running)
            os._exit(0)
        gevent.sleep(0.25)
