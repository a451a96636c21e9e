"""Batches as their records tell."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final, cast

from jobs.batch_usage import NO_USAGE, BatchUsage
from jobs.model import Endpoint


class BatchStatus(StrEnum):
    """The states of a batch, in OpenAI's words."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


#: When a batch came into each state that has such a time (OpenAI's names).
BATCH_TIMES: Final = (
    *("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at"),
)
_USAGE: Final = tuple(f"usage_{one.name}" for one in fields(BatchUsage))
#: What is read of a record for anybody; a worker's claim brings all of it.
BATCH_FIELDS: Final = (
    *(
        "owner",
        "status",
        "endpoint",
        "input",
        "content",
        "completion_window",
        "window",
        "created_at",
        "expires_at",
        *BATCH_TIMES,
    ),
    *("total", "fed", "completed", "failed", "offset", "line", "ending", "output", "error", "errors", "metadata"),
    *("output_ttl", "model", *_USAGE),
)


def new_batch_id() -> str:
    """A fresh id; ids sort by time."""
    return f"batch_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def derived(batch_id: str, name: str) -> str:
    """The 32 hexadecimal digits that stand for one thing of a batch: the same in every try to make it."""
    digest = hashlib.sha256(f"{batch_id}:{name}".encode()).hexdigest()
    return batch_id.partition("_")[2][:12] + digest[:20]


@dataclass(frozen=True, slots=True)
class NewBatch:
    """What the API knows of a batch before it is made."""

    owner: str
    endpoint: Endpoint
    input_file_id: str
    #: Where its content lies in the storage.
    input_content: str
    #: As the caller said it, and in seconds.
    completion_window: str
    window_seconds: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: How long the files with the results are kept (seconds); None: as long as files are by default.
    output_seconds: int | None = None
    idempotency_key: str | None = None
    fingerprint: str = ""

    def as_batch(self, batch_id: str, created_at: float, *, window: int) -> Batch:
        """The batch that it became (Unix seconds)."""
        return Batch(
            id=batch_id,
            owner=self.owner,
            status=BatchStatus.VALIDATING,
            endpoint=self.endpoint,
            input_file_id=self.input_file_id,
            input_content=self.input_content,
            window=window,
            completion_window=self.completion_window,
            created_at=created_at,
            expires_at=created_at + self.window_seconds,
            metadata=self.metadata,
            output_seconds=self.output_seconds,
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as its record tells. Times are Unix seconds of the Redis server's clock."""

    id: str
    owner: str
    status: BatchStatus
    endpoint: Endpoint
    input_file_id: str
    #: Where its content lies in the storage.
    input_content: str
    #: How many of its jobs there are at once.
    window: int
    completion_window: str
    created_at: float
    expires_at: float
    metadata: Mapping[str, str]
    output_seconds: int | None
    #: When it came into each state that it has been in, by OpenAI's names.
    times: Mapping[str, float] = field(default_factory=dict)
    total: int = 0
    #: Lines that have become jobs, or have been told of as failed without.
    fed: int = 0
    completed: int = 0
    failed: int = 0
    #: Where the next line to feed begins (bytes), and the number of the line before it.
    offset: int = 0
    line: int = 0
    #: How it ends besides by itself: ``cancelled`` or ``expired``; else None.
    ending: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    #: Why its file cannot be used: ``{code, message, line, param}`` each.
    errors: tuple[Mapping[str, Any], ...] = ()
    #: Lines whose ``custom_id`` could only be guessed, where the guess is another line's; none but for a worker.
    nameless: frozenset[int] = frozenset()
    #: What all lines ask for; None until the file was looked through, and where they ask for several.
    model: str | None = None
    #: Of the lines whose results are written.
    usage: BatchUsage = NO_USAGE

    @classmethod
    def from_record(cls, batch_id: str, record: Mapping[bytes, bytes | None]) -> Batch:
        """Read a record's fields."""

        def text(name: str) -> str | None:
            value = record.get(name.encode())
            return None if value is None else value.decode("utf-8", "surrogatepass")

        def number(name: str) -> int:
            return int(record.get(name.encode()) or 0)

        return cls(
            id=batch_id,
            owner=text("owner") or "",
            status=BatchStatus(text("status") or ""),
            endpoint=cast("Endpoint", text("endpoint")),
            input_file_id=text("input") or "",
            input_content=text("content") or "",
            window=number("window"),
            completion_window=text("completion_window") or "",
            created_at=number("created_at") / 1000,
            expires_at=number("expires_at") / 1000,
            times={name: number(name) / 1000 for name in BATCH_TIMES if text(name) is not None},
            total=number("total"),
            fed=number("fed"),
            completed=number("completed"),
            failed=number("failed"),
            offset=number("offset"),
            line=number("line"),
            ending=text("ending"),
            output_file_id=text("output"),
            error_file_id=text("error"),
            errors=tuple(json.loads(text("errors") or "[]")),
            metadata=json.loads(text("metadata") or "{}"),
            output_seconds=number("output_ttl") or None,
            nameless=frozenset(map(int, filter(None, (text("nameless") or "").split(",")))),
            model=text("model"),
            usage=BatchUsage(*map(number, _USAGE)),
        )


@dataclass(frozen=True, slots=True)
class BatchPage:
    """One page of a listing, newest first."""

    batches: list[Batch]
    has_more: bool
