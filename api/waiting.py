"""Holding callers until their job ends, woken by Redis and not by polling it."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import structlog
from redis import Redis
from redis.exceptions import RedisError

from jobs.errors import StoreUnavailable
from jobs.queues import EVENTS_CHANNEL
from jobs.subscription import listen


class Ending(Protocol):
    """What can be waited for."""

    @property
    def ended(self) -> bool:
        """Whether it has ended for good."""


T = TypeVar("T", bound=Ending)
_log = structlog.get_logger("promptq.api")
#: How long Redis may be away (seconds) before those who wait are woken to find out; and between two tries to reach it.
_PATIENCE: Final = 5.0
_PAUSE: Final = 0.2
#: How many of those who wait may ask Redis at once: less than it has connections, however many are woken together.
_AT_ONCE: Final = 32
#: How long (seconds) one of them waits for that: a Redis that hangs holds them no longer.
_TURN: Final = 10.0


class Waiter:
    """One subscription per process to the ends of jobs, shared by all callers that wait."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._waiting: dict[str, set[threading.Event]] = defaultdict(set)
        self._lock = threading.Lock()
        self._started = False
        self._subscribed = threading.Event()
        self._turn = threading.BoundedSemaphore(_AT_ONCE)

    def wait(
        self,
        job_id: str,
        read: Callable[[], T],
        *,
        timeout: float,
        stop: Callable[[], bool] = lambda: False,
        wake: threading.Event | None = None,
    ) -> T:
        """Read the job (or webhook delivery) until it has ended, ``timeout`` seconds are over or ``stop`` says so.

        Answers the last reading.

        Between two readings nothing is asked of Redis: what wakes us is the event of the job's end, a new connection
        (events may have been missed on the old one), or ``wake`` being set.
        """
        deadline = time.monotonic() + timeout
        event = wake or threading.Event()
        self._start()
        # Registered before the first reading, so that an end in between is not missed.
        with self._lock:
            self._waiting[job_id].add(event)
        try:
            self._subscribed.wait(min(timeout, 2.0))
            while True:
                event.clear()
                if not self._turn.acquire(timeout=_TURN):
                    raise StoreUnavailable("Too many callers wait for Redis.", retry_after=1)
                try:
                    job = read()
                finally:
                    self._turn.release()
                left = deadline - time.monotonic()
                if job.ended or left <= 0 or stop():
                    return job
                event.wait(left)
        finally:
            with self._lock:
                self._waiting[job_id].discard(event)
                if not self._waiting[job_id]:
                    del self._waiting[job_id]

    def wake_all(self) -> None:
        """Let every waiting caller look again."""
        with self._lock:
            for events in self._waiting.values():
                for event in events:
                    event.set()

    def _start(self) -> None:
        with self._lock:
            if self._started:
                return
            self._started = True
        threading.Thread(target=self._listen, name="promptq-events", daemon=True).start()

    def _listen(self) -> None:
        lost_at: float | None = None
        while True:
            try:
                for message in listen(self._client, EVENTS_CHANNEL):
                    if message is None:
                        lost_at = None
                        self._subscribed.set()
                        self.wake_all()
                    else:
                        self._wake(message.decode().partition(" ")[0])
            except RedisError as error:
                _log.warning("events.disconnected", error=type(error).__name__)
            except Exception:  # noqa: BLE001  # those who wait need this thread, whatever one message does to it
                _log.exception("events.crashed")
            self._subscribed.clear()
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > _PATIENCE:
                # Nobody shall be held for minutes by a Redis that is gone: their reading tells them.
                self.wake_all()
            time.sleep(_PAUSE)

    def _wake(self, job_id: str) -> None:
        with self._lock:
            for event in self._waiting.get(job_id, ()):
                event.set()
