"""``python -m worker.scheduler``: due retries, lost leases, deadlines, lost messages, expired entries.

Any number of schedulers may run: each step looks again, in one atomic script, before it acts.
"""

# ruff: noqa: E402  # the signal comes first, as what follows takes its time
from __future__ import annotations

from jobs.first_process import end_on_sigterm

end_on_sigterm()

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from jobs import logs
from jobs.broker import MessageMaker, make_celery
from jobs.errors import Unavailable
from jobs.outbox import Outbox
from jobs.queue_control import QueueControl
from jobs.queues import QUEUES
from jobs.redis_clients import api_client, worker_client
from jobs.scripts import Scripts
from jobs.settings import load_or_exit
from jobs.store import JobStore
from jobs.upkeep import Upkeep
from worker import pulse
from worker.metrics import OK, SchedulerMetrics, serve_or_exit

_log = structlog.get_logger("promptq.scheduler")


@dataclass(slots=True)
class _Sighting:
    """What a queue looked like a grace ago, against which it is compared."""

    at: float
    claimed: int
    empty_with_waiting: bool


@dataclass(slots=True, kw_only=True)
class Scheduler:
    """Does what is due. ``grace`` (seconds) is how long a message may be on its way before it counts as lost."""

    upkeep: Upkeep
    outbox: Outbox
    lease_seconds: float
    grace: float = 10.0
    metrics: SchedulerMetrics = field(default_factory=SchedulerMetrics)
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, _Sighting] = field(default_factory=dict)
    #: When the last tick that went well ended; None if there was none, or the last one failed.
    _ended: float | None = None

    def tick(self) -> None:
        """Do all that is due now, once. Raises ``Unavailable``."""
        now = self.clock()
        # More than this could be a host that was frozen together with its workers; less costs no lease, as workers
        # renew them in every third of one.
        idle = 0.0 if self._ended is None else min(now - self._ended, self.lease_seconds / 2)
        self._ended = None
        gap, may_recover = self.upkeep.tick(idle=idle, lease_seconds=self.lease_seconds)
        if gap > self.lease_seconds / 3:
            _log.warning("scheduler.recovery_on_hold", gap_seconds=round(gap, 1))
        steps: dict[str, Callable[[], int]] = {
            "promoted": self.upkeep.promote_due,
            "webhooks": lambda: sum(self.outbox.move_due()),
            "expired": self.upkeep.expire_due,
            "compacted": lambda: sum(self.upkeep.compact(queue) for queue in QUEUES),
            "repaired": lambda: sum(self._repair(queue, now) for queue in QUEUES),
            "purged": self.upkeep.purge_expired,
        }
        counts = {name: self._do(name, step) for name, step in steps.items()}
        # If this took long, Redis may have been away while we waited for it: the next tick will tell.
        may_recover = may_recover and self.clock() - now < self.lease_seconds / 3
        counts["recovered"] = self._do("recovered", self.upkeep.recover_lost) if may_recover else 0
        self.metrics.did(counts)
        if any(counts.values()):
            _log.info("scheduler.tick", **counts)
        self._ended = self.clock()

    @staticmethod
    def _do(name: str, step: Callable[[], int]) -> int:
        """Do one step; what goes wrong in it does not keep the others from theirs. Raises ``Unavailable``."""
        try:
            return step()
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001  # see above; the log has it
            _log.exception("scheduler.step_failed", step=name)
            return 0

    def _repair(self, queue: str, now: float) -> int:
        """Send messages again for jobs that wait although later ones were claimed, or although the list is empty."""
        waiting, messages, claimed = self.upkeep.queue_state(queue)
        empty = waiting > 0 and messages == 0
        before = self._seen.get(queue)
        if before is not None and now - before.at < self.grace:
            before.empty_with_waiting = before.empty_with_waiting and empty
            return 0
        self._seen[queue] = _Sighting(now, claimed, empty)
        if before is None or not waiting:
            return 0
        behind = None if empty and before.empty_with_waiting else before.claimed
        return sum(self.upkeep.repair(job_id, queue, seen) for job_id, seen in self.upkeep.orphans(queue, behind))


def main() -> int:
    """Tick until SIGTERM or SIGINT."""
    settings = load_or_exit("scheduler")
    logs.configure(settings.log_level, settings.log_format)
    pulse.begin(settings.heartbeat_file, settings.scheduler_ready_file)
    store = JobStore(worker_client(settings), MessageMaker(make_celery(settings)), result_ttl=settings.result_ttl)
    scheduler = Scheduler(
        upkeep=store.upkeep,
        outbox=store.outbox,
        lease_seconds=settings.lease_seconds,
        grace=settings.repair_after,
    )
    # Prometheus waits for ten seconds at most: by this client, which gives up sooner, it hears of a Redis that hangs.
    watching = api_client(settings)
    scheduler.metrics.watch(QueueControl(watching, Scripts(watching)))
    serve_or_exit(scheduler.metrics.registry, settings, "scheduler")
    # Well within the third of a lease that counts as an outage.
    interval = min(settings.scheduler_interval, settings.lease_seconds / 6)
    stop = threading.Event()

    def on_signal(*_: Any) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    ready = settings.scheduler_ready_file
    while not stop.is_set():
        try:
            scheduler.tick()
        except Unavailable:
            scheduler.metrics.ticked("unavailable")
            _log.warning("scheduler.store_unavailable")
        except Exception:  # noqa: BLE001  # the next tick may go well, and nobody else recovers jobs; the log has it
            scheduler.metrics.ticked("crashed")
            _log.exception("scheduler.crashed")
        else:
            scheduler.metrics.ticked(OK)
            if ready is not None:
                ready.write_text(str(os.getpid()))
                ready = None
        if settings.heartbeat_file is not None:
            settings.heartbeat_file.touch()
        stop.wait(interval)
    return 0


if __name__ == "__main__":
    sys.exit(main())
