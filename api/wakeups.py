"""Waking those who follow the streams of jobs: one connection per process, a channel per job that is followed here."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Final

import structlog
from redis import Redis
from redis.client import PubSub
from redis.exceptions import RedisError

from jobs.errors import StoreUnavailable
from jobs.queues import stream_key
from jobs.subscription import messages

#: How long (seconds) a follower waits for its channel before it reads; it looks again by itself later on.
_PATIENCE: Final = 1.0
#: Between two tries to reach Redis.
_PAUSE: Final = 0.2
#: Nobody publishes here: a subscription has to be to something.
_ANCHOR: Final = stream_key("")
#: How many followers may ask Redis at once: less than it has connections, however many are woken together.
_AT_ONCE: Final = 32
_TURN: Final = 10.0

_log = structlog.get_logger("promptq.api")


class Wakeups:
    """Sets the events of those who follow a job whenever its stream has something new, or the job ends."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._followers: dict[str, set[threading.Event]] = {}
        #: Set once the server has confirmed the channel.
        self._held: dict[str, threading.Event] = {}
        self._pubsub: PubSub | None = None
        self._started = False
        self._turn = threading.BoundedSemaphore(_AT_ONCE)

    @contextlib.contextmanager
    def watch(self, job_id: str, event: threading.Event) -> Iterator[None]:
        """Have the event set with all that is new of the job from here on, and now and then with nothing."""
        channel = stream_key(job_id)
        self._start()
        with self._lock:
            first = channel not in self._followers
            self._followers.setdefault(channel, set()).add(event)
            held = self._held.setdefault(channel, threading.Event())
            if first:
                self._send("subscribe", channel)
        try:
            held.wait(_PATIENCE)
            yield
        finally:
            with self._lock:
                self._followers[channel].discard(event)
                if not self._followers[channel]:
                    del self._followers[channel], self._held[channel]
                    self._send("unsubscribe", channel)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Ask Redis within this, in turn. Raises ``StoreUnavailable`` if that does not come."""
        if not self._turn.acquire(timeout=_TURN):
            raise StoreUnavailable("Too many callers wait for Redis.", retry_after=1)
        try:
            yield
        finally:
            self._turn.release()

    def wake_all(self) -> None:
        """Let every follower look again."""
        with self._lock:
            for events in self._followers.values():
                for event in events:
                    event.set()

    def __len__(self) -> int:
        return sum(len(events) for events in self._followers.values())

    def _send(self, command: str, channel: str) -> None:
        if self._pubsub is None:
            return  # The listener asks for all channels as soon as it is connected.
        try:
            getattr(self._pubsub, command)(channel)
        except (RedisError, OSError) as error:
            # The listener finds out, too, and begins anew.
            _log.warning("wakeups.not_sent", error=type(error).__name__)

    def _start(self) -> None:
        with self._lock:
            if self._started:
                return
            self._started = True
        threading.Thread(target=self._listen, name="promptq-wakeups", daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                self._listen_once()
            except (RedisError, OSError) as error:
                _log.warning("wakeups.disconnected", error=type(error).__name__)
            except Exception:  # noqa: BLE001  # those who follow need this thread, whatever one message does to it
                _log.exception("wakeups.crashed")
            with self._lock:
                self._pubsub = None
                for held in self._held.values():
                    held.clear()
            # Nobody shall be held for long by a Redis that is gone: their reading tells them.
            self.wake_all()
            time.sleep(_PAUSE)

    def _listen_once(self) -> None:
        with self._client.pubsub() as pubsub:
            with self._lock:
                pubsub.subscribe(_ANCHOR, *self._followers)
                self._pubsub = pubsub
            for message in messages(pubsub):
                channel = message["channel"].decode() if message["channel"] else ""
                with self._lock:
                    if message["type"] == "subscribe" and channel in self._held:
                        self._held[channel].set()
                    # What came before the channel was confirmed was missed.
                    for event in self._followers.get(channel, ()):
                        event.set()
