"""Webhooks: the events, the endpoints that want them, and their deliveries, as their records tell."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal, get_args

#: OpenAI's names (openai ``types/webhooks``). A job of any endpoint ends in one of the first four, a batch in another.
EventType = Literal[
    "response.completed",
    "response.failed",
    "response.cancelled",
    "response.incomplete",
    "batch.completed",
    "batch.failed",
    "batch.cancelled",
    "batch.expired",
]
EVENT_TYPES: Final[tuple[EventType, ...]] = get_args(EventType)

#: How long a host counts as slow after a slow answer.
SLOW_SECONDS: Final = 60
#: How long a replaced secret may stay valid.
OLD_SECRET_SECONDS: Final = 24 * 3600
#: How many replaced secrets may be valid at once: a rotation may follow another within the day.
MAX_OLD_SECRETS: Final = 3

DisabledReason = Literal["gone", "failing", "owner"]


class DeliveryStatus(StrEnum):
    """What a delivery's owner sees of its state."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


def new_endpoint_id() -> str:
    """A fresh id of an endpoint."""
    return f"we_{_number()}"


def new_test_number() -> str:
    """What the ids of a test event are made of; a job's event has the job's own number."""
    return _number()


def _number() -> str:
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A registered receiver of an owner's events. Times are Unix seconds of the Redis server's clock."""

    id: str
    owner: str
    name: str
    url: str
    event_types: tuple[str, ...]
    secret_hint: str
    created_at: float
    updated_at: float
    #: Since when all tries have failed; None if the last one went well.
    failing_since: float | None = None
    #: None while it is enabled.
    disabled_at: float | None = None
    disabled_reason: DisabledReason | None = None

    @classmethod
    def from_record(cls, endpoint_id: str, record: Mapping[bytes, bytes]) -> Endpoint:
        """Read a record as ``HGETALL`` gives it."""
        reason = record.get(b"disabled_reason")
        return cls(
            id=endpoint_id,
            owner=record[b"owner"].decode(),
            name=record[b"name"].decode(),
            url=record[b"url"].decode(),
            event_types=tuple(record[b"types"].decode().split(",")),
            secret_hint=record[b"hint"].decode(),
            created_at=int(record[b"created"]) / 1000,
            updated_at=int(record[b"updated"]) / 1000,
            failing_since=_seconds(record.get(b"failing_since")),
            disabled_at=_seconds(record.get(b"disabled")),
            disabled_reason=reason.decode() if reason else None,  # type: ignore[arg-type]  # written by us
        )


@dataclass(frozen=True, slots=True)
class OwnerSecret:
    """The secret for the URLs that an owner's jobs name themselves; it is not in here."""

    hint: str
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to one receiver. Times are Unix seconds."""

    id: str
    #: The endpoint that it is for; None: the URL that the job named itself.
    endpoint_id: str | None
    event_id: str
    event_type: str
    #: What the event is about.
    object_id: str
    status: DeliveryStatus
    created_at: float
    #: When it is sent next, or may be; None unless it is pending.
    due_at: float | None
    ended_at: float | None
    #: Each try: ``{started_at, seconds, status_code, error}``, oldest first.
    tries: tuple[Mapping[str, Any], ...]
    #: Why it ended without a try; else None.
    error: str | None
    test: bool

    @property
    def ended(self) -> bool:
        """Whether there will be no further try by itself."""
        return self.status is not DeliveryStatus.PENDING

    @classmethod
    def from_record(cls, delivery_id: str, record: Mapping[bytes, bytes | None]) -> Delivery:
        """Read the fields that ``DELIVERY_FIELDS`` names."""
        state = _text(record, b"state")
        status = DeliveryStatus(state) if state in ("succeeded", "failed") else DeliveryStatus.PENDING
        return cls(
            id=delivery_id,
            endpoint_id=_text(record, b"endpoint") or None,
            event_id=_text(record, b"event"),
            event_type=_text(record, b"type"),
            object_id=_text(record, b"object"),
            status=status,
            created_at=int(_text(record, b"created")) / 1000,
            due_at=_seconds(record.get(b"due")) if status is DeliveryStatus.PENDING else None,
            ended_at=_seconds(record.get(b"ended")),
            tries=tuple(json.loads(record.get(b"tries") or b"[]")),
            error=_text(record, b"error") or None,
            test=record.get(b"test") == b"1",
        )


DELIVERY_FIELDS: Final = (
    *("owner", "endpoint", "event", "type", "object", "state", "created", "due", "ended", "tries", "error", "test"),
)


@dataclass(frozen=True, slots=True)
class Leased:
    """A delivery that is ours to send until its lease runs out."""

    id: str
    claim_id: str
    #: None where its receiver's secret is missing.
    sealed_secret: bytes | None
    #: Replaced secrets that are still valid, the newest first.
    sealed_old_secrets: tuple[bytes, ...]
    url: str
    host: str
    event_id: str
    #: The message's body, the same for each try.
    body: bytes
    #: Whether its host counts as slow.
    slow: bool
    #: Tries before this one, since it was sent again by hand if it was.
    round: int
    tries: tuple[Mapping[str, Any], ...]
    test: bool

    @classmethod
    def from_record(cls, claim_id: str, record: Mapping[bytes, bytes]) -> Leased:
        """Read what the atomic step ``deliver`` answers."""
        event_id = record[b"event"].decode()
        event = {
            "id": event_id,
            "object": "event",
            "created_at": int(record[b"created"]) // 1000,
            "type": record[b"type"].decode(),
            "data": {"id": record[b"object"].decode()},
        }
        return cls(
            id=record[b"id"].decode(),
            claim_id=claim_id,
            sealed_secret=record.get(b"secret"),
            sealed_old_secrets=tuple(record.get(b"old_secrets", b"").split()),
            url=record[b"url"].decode(),
            host=record[b"host"].decode(),
            event_id=event_id,
            body=json.dumps(event).encode(),
            round=int(record[b"round"]),
            tries=tuple(json.loads(record.get(b"tries") or b"[]")),
            slow=record[b"line"] == b"slow",
            test=b"test" in record,
        )


def _text(record: Mapping[bytes, bytes | None], name: bytes) -> str:
    return (record.get(name) or b"").decode()


def _seconds(value: bytes | None) -> float | None:
    return None if value is None else int(value) / 1000
