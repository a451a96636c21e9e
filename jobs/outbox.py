"""The outbox: deliveries of webhook events, each transition of which is one atomic step in Redis."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from redis import Redis

from jobs import queues
from jobs.durability import Arguments
from jobs.errors import NotDeliverable, NotFound
from jobs.redis_errors import redis_errors
from jobs.scripts import Scripts
from jobs.webhooks import DELIVERY_FIELDS, Delivery, DeliveryStatus, Leased, new_test_number

_EVER: Final = 100 * 365 * 24 * 3600.0
Verdict = Literal["succeeded", "retry", "failed", "gone", "release"]


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """One page of a listing, newest first."""

    deliveries: list[Delivery]
    has_more: bool


class Outbox:
    """Deliveries in Redis. Every method raises ``StoreUnavailable`` when Redis does not answer."""

    def __init__(self, client: Redis, scripts: Scripts, *, ttl_ms: int) -> None:
        """``ttl_ms``: how long a delivery is kept after its end."""
        self._client = client
        self._scripts = scripts
        self._ttl_ms = ttl_ms

    def lease(self, *, fast: int, slow: int, per_host: int, lease_seconds: float) -> list[Leased]:
        """Take up to ``fast`` due deliveries to hosts that are not slow and ``slow`` to those that are.

        Hosts take turns, and none has more than ``per_host`` on their way at once, from all workers together.
        """
        claim_id = uuid.uuid4().hex
        args: Arguments = [claim_id, fast, slow, per_host, round(lease_seconds * 1000), self._ttl_ms]
        with redis_errors():
            found = self._scripts.deliver(args=args)
        return [Leased.from_record(claim_id, dict(zip(one[::2], one[1::2], strict=True))) for one in found]

    def settle(
        self,
        leased: Leased,
        verdict: Verdict,
        *,
        tries: Sequence[Mapping[str, Any]],
        delay: float = 0,
        slow: bool = False,
        disable_after: float,
        longest_gap: float = math.inf,
    ) -> str:
        """Write down how a try went, and when the next one is (``delay`` seconds from now, for ``retry``).

        ``release`` gives it back untried. ``gone`` disables its endpoint at once; the others that do not succeed do if
        nothing has for ``disable_after`` seconds, with never more than ``longest_gap`` seconds from one failure to the
        next. Answers ``done``, ``gone``, ``ended`` or ``fenced``.
        """
        gap = min(longest_gap, _EVER)
        times = [round(delay * 1000), int(slow), self._ttl_ms, round(disable_after * 1000), round(gap * 1000)]
        args: Arguments = [leased.id, leased.claim_id, verdict, json.dumps(tries), *times, leased.url]
        with redis_errors():
            answer = self._scripts.settle(args=args)
        return cast("bytes", answer).decode()

    def note_slow(self, host: str) -> None:
        """Count a host as slow, although its answer is still awaited."""
        with redis_errors():
            self._scripts.pace(args=[host])

    def move_due(self, limit: int = 1000) -> tuple[int, int]:
        """Make due what waits for its next try or has lost its worker; answer how many of each."""
        with redis_errors():
            scheduled, lost = self._scripts.outbox_due(args=[limit, self._ttl_ms])
        return int(scheduled), int(lost)

    def get(self, delivery_id: str, owner: str) -> Delivery:
        """The owner's delivery. Raises ``NotFound``."""
        with redis_errors():
            values = cast(
                "list[bytes | None]", self._client.hmget(queues.delivery_key(delivery_id), list(DELIVERY_FIELDS))
            )
        record = dict(zip((name.encode() for name in DELIVERY_FIELDS), values, strict=True))
        if record[b"owner"] is None or record[b"owner"] != owner.encode():
            raise _unknown()
        return Delivery.from_record(delivery_id, record)

    def list(
        self,
        owner: str,
        *,
        endpoint: str | None = None,
        statuses: Sequence[DeliveryStatus] = tuple(DeliveryStatus),
        limit: int = 20,
        after: str | None = None,
    ) -> DeliveryPage:
        """The owner's newest deliveries after the one with id ``after``; ``endpoint``: an id, or ``job`` for those to
        URLs that jobs have named. Raises ``NotFound`` if there is no delivery ``after``."""
        fields = ",".join(DELIVERY_FIELDS)
        args: Arguments = [owner, after or "", limit + 1, fields, endpoint or "all", ",".join(statuses)]
        with redis_errors():
            found, *rows = self._scripts.deliveries(args=args)
        if not found:
            raise NotFound("No webhook delivery with this id found.", param="after")
        names = [name.encode() for name in DELIVERY_FIELDS]
        deliveries = [
            Delivery.from_record(row[0].decode(), dict(zip(names, row[1:], strict=True))) for row in rows[:limit]
        ]
        return DeliveryPage(deliveries, has_more=len(rows) > limit)

    def redeliver(self, delivery_id: str, owner: str) -> None:
        """Send a delivery again, now, whatever became of it. Raises ``NotFound``, or ``NotDeliverable`` if its endpoint
        is deleted or disabled."""
        with redis_errors():
            verdict = self._scripts.redeliver(args=[delivery_id, owner])
        if verdict == b"gone":
            raise _unknown()
        if verdict != b"done":
            raise NotDeliverable(f"The delivery's endpoint is {verdict.decode()}.")

    def post_test(self, endpoint_id: str, owner: str, event_type: str) -> str:
        """Put a made-up event for one endpoint into the outbox; answer the delivery's id. Raises ``NotFound``."""
        number = new_test_number()
        delivery_id = f"whd_{number}_{endpoint_id[-12:]}"
        args = [delivery_id, endpoint_id, owner, f"evt_{number}", event_type, f"resp_{number}"]
        with redis_errors():
            if not self._scripts.probe(args=args):
                raise NotFound("No webhook endpoint with this id found.", param="id")
        return delivery_id


def _unknown() -> NotFound:
    return NotFound("No webhook delivery with this id found.", param="id")
