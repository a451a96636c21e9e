"""Delivers what is due: takes it from the outbox, sends it, and writes down how that went."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import gevent
import structlog
from gevent.event import Event
from redis import Redis
from redis.exceptions import RedisError

from jobs import signing
from jobs.errors import SecretUnreadable, StoreUnavailable, Unavailable
from jobs.outbox import Outbox, Verdict
from jobs.queues import WEBHOOKS_CHANNEL
from jobs.sealing import Sealer
from jobs.subscription import listen
from jobs.webhook_urls import Allowed, Refused, Target, parse
from jobs.webhooks import Leased
from worker.metrics import OK, WorkerMetrics
from worker.webhooks.policy import RetrySchedule
from worker.webhooks.sender import Answer
from worker.webhooks.slots import Slots

#: Seconds between two looks at the outbox when nobody tells of anything.
_LOOK: Final = 1.0
#: Tries that a delivery keeps; it can be sent again by hand any number of times.
_KEPT_TRIES: Final = 30
#: How long a lease lasts beyond the longest try, to write down how it went.
LEASE_MARGIN: Final = 15.0
_log = structlog.get_logger("promptq.webhooks")


class Post(Protocol):
    """What a deliverer needs of a sender."""

    def post(self, target: Target, body: bytes, headers: dict[str, str]) -> Answer:
        """Post the body once."""


@dataclass(slots=True)
class _Sending:
    leased: Leased
    #: Which of the slots it has.
    slow: bool


@dataclass(slots=True, kw_only=True)
class Deliverer:
    """One per worker process. ``len()`` of it is how many webhooks are on their way."""

    outbox: Outbox
    sender: Post
    #: None: no key is set, and no secret can be read.
    sealer: Sealer | None
    allowed: Allowed
    schedule: RetrySchedule
    slots: Slots
    per_host: int
    #: Seconds: the longest try, after how many a host is slow, after how many of failure an endpoint is disabled.
    timeout: float
    slow_after: float
    disable_after: float
    metrics: WorkerMetrics = field(default_factory=WorkerMetrics)
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    _sending: dict[gevent.Greenlet[..., None], _Sending] = field(default_factory=dict)
    _wake: Event = field(default_factory=Event)
    _closed_at: float | None = None

    def __len__(self) -> int:
        return len(self._sending)

    def wake(self) -> None:
        """Look at the outbox now."""
        self._wake.set()

    def run(self) -> None:
        """Deliver for ever, until ``close``."""
        while self._closed_at is None:
            self._wake.clear()
            try:
                while self._take():
                    pass
            except Unavailable:
                _log.warning("webhooks.store_unavailable")
            except Exception:  # noqa: BLE001  # webhooks must outlive any one of them; the log has it
                _log.exception("webhooks.crashed")
            self._wake.wait(_LOOK)

    def listen(self, client: Redis, sleep: Callable[[float], None] = time.sleep) -> None:
        """Wake as soon as something is due, for ever. What is missed while Redis is away, the next look finds."""
        while True:
            try:
                for _ in listen(client, WEBHOOKS_CHANNEL):
                    self.wake()
            except RedisError as error:
                _log.warning("webhooks.disconnected", error=type(error).__name__)
            except Exception:  # noqa: BLE001  # the same
                _log.exception("webhooks.crashed")
            sleep(1.0)

    def close(self) -> None:
        """Take no more; what is on its way goes on."""
        self._closed_at = self._closed_at or self.monotonic()
        self.wake()

    def finish(self, grace_seconds: float) -> None:
        """Let what is on its way come to its end until so long after ``close``; the rest is given back, untried."""
        self.close()
        left = (self._closed_at or 0.0) + grace_seconds - self.monotonic()
        gevent.joinall(list(self._sending), timeout=max(0.0, left))
        rest = {greenlet: sending.leased for greenlet, sending in self._sending.items()}
        gevent.killall(list(rest), timeout=5.0)
        for leased in rest.values():
            try:
                self._settle(leased, "release", leased.tries)
            except Unavailable:
                # Its lease gives it back.
                _log.warning("webhook.not_given_back", delivery_id=leased.id)

    def _take(self) -> bool:
        """Take what there is room for; answer whether there may be more."""
        fast, slow = self.slots.free
        if self._closed_at is not None or fast + slow == 0:
            return False
        taken = self.outbox.lease(
            fast=fast, slow=slow, per_host=self.per_host, lease_seconds=self.timeout + LEASE_MARGIN
        )
        for leased in taken:
            sending = _Sending(leased, leased.slow)
            self.slots.take(slow=sending.slow)
            greenlet = gevent.Greenlet(self._deliver, sending)
            self._sending[greenlet] = sending
            greenlet.link(self._ended)
            greenlet.start()
        return bool(taken)

    def _ended(self, greenlet: gevent.Greenlet[..., None]) -> None:
        self.slots.leave(slow=self._sending.pop(greenlet).slow)
        self.wake()

    def _deliver(self, sending: _Sending) -> None:
        leased = sending.leased
        began, started = self.clock(), self.monotonic()
        work = gevent.spawn(self._try, leased)
        try:
            work.join(self.slow_after)
            if not work.ready() and not self._turn_slow(sending):
                work.kill()
                _log.info("webhook.crowded_out", delivery_id=leased.id, webhook_host=leased.host)
                # It may have arrived; but it has another try, and this one does not count.
                answer = Answer(None, "crowded_out", "broken off: slow hosts have all their slots")
                self._settle_patiently(leased, "release", self._noted(leased, began, started, answer), 0)
                return
            answer = work.get()
        finally:
            work.kill(block=False)
        seconds = self.monotonic() - started
        verdict, delay = self.schedule.after(answer, leased.round)
        if leased.test and verdict != "succeeded":
            verdict = "failed"
        _log.info(
            "webhook.tried",
            delivery_id=leased.id,
            webhook_host=leased.host,
            verdict=verdict,
            seconds=round(seconds, 3),
            status=answer.status_code,
            code=answer.error,
            retry_in=round(delay, 1) if verdict == "retry" else None,
        )
        tries = self._noted(leased, began, started, answer)
        self._settle_patiently(leased, verdict, tries, delay, slow=seconds >= self.slow_after)

    def _noted(self, leased: Leased, began: float, started: float, answer: Answer) -> Sequence[Mapping[str, Any]]:
        """The delivery's tries with the one that ends now; ``began`` and ``started`` by the two clocks."""
        self.metrics.sent(answer.error or OK, self.monotonic() - started)
        tried = {
            "started_at": round(began, 3),
            "seconds": round(self.monotonic() - started, 3),
            "status_code": answer.status_code,
            "error": answer.error,
            "detail": answer.detail,
        }
        return [*leased.tries, tried][-_KEPT_TRIES:]

    def _try(self, leased: Leased) -> Answer:
        try:
            target = parse(leased.url, self.allowed)
            headers = signing.headers(leased.event_id, int(self.clock()), leased.body, self._secrets(leased))
        except Refused as error:
            return Answer(None, "url_refused", str(error))
        except SecretUnreadable as error:
            return Answer(None, error.code, error.message)
        try:
            return self.sender.post(target, leased.body, headers)
        except Exception:  # noqa: BLE001  # a slip of ours must not keep the others of this worker from theirs
            _log.exception("webhook.crashed", delivery_id=leased.id)
            return Answer(None, "internal_error", "the worker had an error while it sent the webhook")

    def _secrets(self, leased: Leased) -> list[str]:
        """The signing secrets, the current one first. Raises ``SecretUnreadable``."""
        if self.sealer is None:
            raise SecretUnreadable("The workers have no PROMPTQ_ENCRYPTION_KEYS to read the webhook secret with.")
        if leased.sealed_secret is None:
            raise SecretUnreadable("There is no secret to sign the webhook with.")
        secrets = [self.sealer.open(leased.sealed_secret)]
        for sealed in leased.sealed_old_secrets:
            # Whoever has replaced a key that was lost shall not wait for a day.
            with contextlib.suppress(SecretUnreadable):
                secrets.append(self.sealer.open(sealed))
        return secrets

    def _turn_slow(self, sending: _Sending) -> bool:
        """Count the host as slow before its answer has come, and make room for others.

        False if those that are slow have all their slots: this one must wait for its turn among them.
        """
        try:
            self.outbox.note_slow(sending.leased.host)
        except Unavailable:
            _log.warning("webhooks.store_unavailable")
        if sending.slow:
            return True
        sending.slow = self.slots.turn_slow()
        self.wake()
        return sending.slow

    def _settle_patiently(
        self, leased: Leased, verdict: Verdict, tries: Sequence[Mapping[str, Any]], delay: float, *, slow: bool = False
    ) -> None:
        """Until Redis answers, or for as long as the lease may hold: then another sends it once more."""
        deadline = self.monotonic() + LEASE_MARGIN
        while True:
            try:
                self._settle(leased, verdict, tries, delay, slow=slow)
                return
            except StoreUnavailable:
                if self.monotonic() > deadline:
                    _log.warning("webhook.not_settled", delivery_id=leased.id)
                    return
            gevent.sleep(0.5)

    def _settle(
        self,
        leased: Leased,
        verdict: Verdict,
        tries: Sequence[Mapping[str, Any]],
        delay: float = 0,
        *,
        slow: bool = False,
    ) -> None:
        self.outbox.settle(
            leased,
            verdict,
            tries=tries,
            delay=delay,
            slow=slow,
            disable_after=self.disable_after,
            longest_gap=self.schedule.longest_gap,
        )
