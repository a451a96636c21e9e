"""What keeps running jobs ours, and ends them when they are not: lease renewal and the abort channel."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from redis import Redis
from redis.exceptions import RedisError

from jobs.errors import Unavailable
from jobs.queues import ABORTS_CHANNEL
from jobs.store import JobStore
from jobs.subscription import listen
from worker.calls import AbortReason, Calls

_log = structlog.get_logger("promptq.worker")


class Heartbeat:
    """One per worker process: renews the leases of all its running jobs in one round trip."""

    def __init__(self, store: JobStore, calls: Calls, *, lease_seconds: float) -> None:
        self._store = store
        self._calls = calls
        self._lease_seconds = lease_seconds

    def beat(self) -> None:
        """Renew all leases now, and abort what is no longer ours. Raises ``StoreUnavailable``."""
        claims = self._calls.claims()
        if not claims:
            return
        for job_id in self._store.renew(claims, lease_seconds=self._lease_seconds):
            # By claim: between the reply and now the same job may have been claimed here again.
            self._calls.abort_claim(claims[job_id], AbortReason.NOT_OURS)

    def run(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Beat three times per lease, for ever: whatever goes wrong, running jobs must not lose their leases to it."""
        while True:
            try:
                self.beat()
            except Unavailable:
                _log.warning("heartbeat.store_unavailable", running=len(self._calls))
            except Exception:  # noqa: BLE001  # see above; the log has it
                _log.exception("heartbeat.crashed", running=len(self._calls))
            sleep(self._lease_seconds / 3)


def listen_for_aborts(client: Redis, calls: Calls, sleep: Callable[[float], None] = time.sleep) -> None:
    """Abort jobs as they are cancelled, for ever. What is missed while Redis is away, the heartbeat finds."""
    while True:
        try:
            for message in listen(client, ABORTS_CHANNEL):
                if message is not None:
                    calls.abort(message.decode(), AbortReason.NOT_OURS)
        except RedisError as error:
            _log.warning("aborts.disconnected", error=type(error).__name__)
        except Exception:  # noqa: BLE001  # cancellation must outlive any one message; the log has it
            _log.exception("aborts.crashed")
        sleep(1.0)
