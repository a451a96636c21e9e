"""What keeps running jobs ours, and ends them when they are not: lease renewal and the abort channel."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from redis import Redis
from redis.exceptions import RedisError

from jobs.errors import StoreUnavailable
from jobs.queues import ABORTS_CHANNEL
from jobs.store import JobStore
from worker.calls import AbortReason, Calls

_log = structlog.stdlib.get_logger("promptq.worker")


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
            # Between the reply and now the same job may have been claimed here again.
            if self._calls.claims().get(job_id) == claims[job_id]:
                self._calls.abort(job_id, AbortReason.NOT_OURS)

    def run(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Beat three times per lease, for ever."""
        while True:
            try:
                self.beat()
            except StoreUnavailable:
                _log.warning("heartbeat.store_unavailable", running=len(self._calls))
            sleep(self._lease_seconds / 3)


def listen_for_aborts(client: Redis, calls: Calls, sleep: Callable[[float], None] = time.sleep) -> None:
    """Abort jobs as they are cancelled, for ever. What is missed while Redis is away, the heartbeat finds."""
    while True:
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        try:
            pubsub.subscribe(ABORTS_CHANNEL)
            while True:
                message = pubsub.get_message(timeout=15.0)
                if message is not None:
                    calls.abort(message["data"].decode(), AbortReason.NOT_OURS)
        except RedisError as error:
            _log.warning("aborts.disconnected", error=type(error).__name__)
        finally:
            pubsub.close()
        sleep(1.0)
