"""The job: its states, the legal transitions between them, and how its record in Redis is read."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal

from jobs.queues import UNSTORED, QueueName

#: Version of the record's layout; a release that changes it must still read the one before.
SCHEMA_VERSION: Final = 2
#: What a record has that needs nothing of the newest layout: workers of the release before may run it.
PLAIN_VERSION: Final = 1

Endpoint = Literal["/v1/responses", "/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
RESPONSES: Final = "/v1/responses"
CHAT_COMPLETIONS: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = "/v1/embeddings"


class JobStatus(StrEnum):
    """The states of a job, in OpenAI's words for a response."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INCOMPLETE = "incomplete"

    @property
    def terminal(self) -> bool:
        """Whether a job in this state has ended for good."""
        return self in TERMINAL


TERMINAL: Final = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.INCOMPLETE})

#: What may follow what. A running job goes back to ``queued`` for a later retry, a hand-back or a lost lease; a queued
#: one can complete by the late result of a claim that nobody has replaced.
TRANSITIONS: Final[Mapping[JobStatus, frozenset[JobStatus]]] = {
    JobStatus.QUEUED: frozenset({JobStatus.IN_PROGRESS}) | TERMINAL,
    JobStatus.IN_PROGRESS: frozenset({JobStatus.QUEUED}) | TERMINAL,
} | {status: frozenset[JobStatus]() for status in TERMINAL}


def new_job_id(endpoint: str) -> str:
    """A fresh id: ``resp_…`` for a response, as OpenAI's SDK expects, else ``job_…``; ids sort by time."""
    kind = "resp" if endpoint == RESPONSES else "job"
    return f"{kind}_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def kind_of(job_id: str) -> str:
    """``resp`` or ``job``: which of the two families of ids this one is of."""
    return job_id.partition("_")[0]


@dataclass(frozen=True, slots=True)
class NewJob:
    """What the API knows of a job before it is made."""

    id: str
    owner: str
    endpoint: Endpoint
    queue: QueueName
    #: The request's body for the LLM, as JSON bytes.
    request: bytes
    model: str
    #: The caller's own labels; for the OpenAI-shaped doors they also stand in the body.
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: Seconds from creation until the job fails if it has not ended; None: no limit.
    deadline_seconds: float | None = None
    #: The caller's Idempotency-Key and the fingerprint of the request that came with it.
    idempotency_key: str | None = None
    fingerprint: str = ""
    #: Whether the caller asked for ``background: true`` (responses only).
    background: bool = False
    #: Whether the LLM is asked for a stream, which callers can follow.
    stream: bool = False
    #: Seconds that one attempt may take; None: as long as any LLM call may.
    attempt_timeout: float | None = None
    #: Where the job's end shall be told, besides its owner's endpoints, and the host (with its port) in that URL.
    webhook_url: str | None = None
    webhook_host: str = ""
    #: The span that made it, as a ``traceparent``; None where nothing is traced.
    trace: str | None = None
    #: Whether its owner can look it up; if not, it goes soon after its end (``store: false``).
    stored: bool = True
    #: The response that this one continues; None if it begins a conversation.
    previous_response_id: str | None = None
    #: The items before its own input, as JSON; None where there are none, or the LLM keeps them.
    history: bytes | None = None
    #: The LLM's own id of the previous response, where the LLM keeps the conversation.
    upstream_previous: str | None = None

    @property
    def version(self) -> int:
        """The oldest layout that has all that this job needs."""
        # An older worker would send the LLM an id that is ours, and keep what shall not be kept.
        newest = not self.stored or self.history is not None or self.upstream_previous is not None
        return SCHEMA_VERSION if newest else PLAIN_VERSION

    def as_job(self, created_at: float) -> Job:
        """The job that it became (Unix seconds)."""
        return Job(
            id=self.id,
            owner=self.owner,
            endpoint=self.endpoint,
            queue=self.queue,
            status=JobStatus.QUEUED,
            model=self.model,
            attempt=0,
            created_at=created_at,
            deadline_at=None if self.deadline_seconds is None else round(created_at + self.deadline_seconds, 3),
            metadata=self.metadata,
            background=self.background,
            stream=self.stream,
            attempt_timeout=self.attempt_timeout,
            webhook_url=self.webhook_url,
            trace=self.trace,
            request=self.request,
            stored=self.stored,
            previous_response_id=self.previous_response_id,
        )


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its record tells. Times are Unix seconds of the Redis server's clock."""

    id: str
    owner: str
    endpoint: Endpoint
    queue: QueueName
    status: JobStatus
    model: str
    #: How many LLM calls were begun; 0 until the first claim.
    attempt: int
    created_at: float
    #: First claim; None while the job has never run.
    started_at: float | None = None
    #: Terminal state; None until then.
    finished_at: float | None = None
    deadline_at: float | None = None
    #: When the next attempt is due; None unless the job waits for one.
    retry_at: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    background: bool = False
    #: Whether the LLM is asked for a stream, which callers can follow.
    stream: bool = False
    #: Seconds that one attempt may take; None: as long as any LLM call may.
    attempt_timeout: float | None = None
    #: Where the job's end shall be told, besides its owner's endpoints.
    webhook_url: str | None = None
    #: The failed or cancelled job that this one repeats, and the one that repeats this one; else None.
    retried_from: str | None = None
    retried_as: str | None = None
    #: The span that made it, as a ``traceparent`` (W3C Trace Context), for a worker to go on from; else None.
    trace: str | None = None
    #: How often the job's worker died under it.
    strikes: int = 0
    #: What earlier attempts ended with, oldest first.
    attempts: tuple[Mapping[str, Any], ...] = ()
    #: ``{code, message, …}`` of a failed job, else None.
    error: Mapping[str, Any] | None = None
    #: Token counts as the LLM gave them, else None.
    usage: Mapping[str, Any] | None = None
    #: Body for the LLM (JSON bytes); empty where it was not asked for.
    request: bytes = b""
    #: The LLM's answer, byte for byte; None until there is one, or where it was not asked for.
    result: bytes | None = None
    #: Whether its owner can look it up.
    stored: bool = True
    #: The response that this one continues.
    previous_response_id: str | None = None
    #: The items before its own input, as JSON; None where there are none, or they were not asked for.
    history: bytes | None = None
    #: The LLM's own id of the previous response, where the LLM keeps the conversation; None where it was not asked for.
    upstream_previous: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the job is in a terminal state."""
        return self.status.terminal

    @classmethod
    def from_record(cls, job_id: str, record: Mapping[bytes, bytes | None]) -> Job:
        """Read a record's fields, of this schema version or the one before. Raises ``ValueError`` on a newer one."""
        version = int(_text(record, b"v") or SCHEMA_VERSION)
        if version > SCHEMA_VERSION:
            raise ValueError(f"{job_id} has schema version {version}; this release reads up to {SCHEMA_VERSION}")
        return cls(
            id=job_id,
            owner=_required(record, b"owner"),
            endpoint=_required(record, b"endpoint"),  # type: ignore[arg-type]  # written by us, from a Literal
            queue=_required(record, b"queue"),  # type: ignore[arg-type]  # the same
            status=JobStatus(_required(record, b"status")),
            model=_required(record, b"model"),
            attempt=int(_text(record, b"attempt") or 0),
            strikes=int(_text(record, b"strikes") or 0),
            created_at=int(_required(record, b"created")) / 1000,
            started_at=_seconds(record, b"started"),
            finished_at=_seconds(record, b"finished"),
            deadline_at=_seconds(record, b"deadline"),
            retry_at=_seconds(record, b"retry_at"),
            metadata=_json(record, b"metadata") or {},
            background=record.get(b"background") == b"1",
            stream=record.get(b"stream") is not None,
            attempt_timeout=_seconds(record, b"attempt_timeout"),
            webhook_url=_text(record, b"webhook_url"),
            trace=_text(record, b"trace"),
            retried_from=_text(record, b"retried_from"),
            retried_as=_text(record, b"retried_as"),
            attempts=tuple(_json(record, b"attempts") or ()),
            error=_json(record, b"error"),
            usage=_json(record, b"usage"),
            request=record.get(b"request") or b"",
            result=record.get(b"result"),
            stored=record.get(b"kind") != UNSTORED.encode(),
            previous_response_id=_text(record, b"previous"),
            history=record.get(b"history"),
            upstream_previous=_text(record, b"upstream_previous"),
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that is ours to run for as long as its lease is renewed; ``claim_id`` is the fencing token."""

    claim_id: str
    job: Job
    #: Seconds from the claim to the job's deadline, both by Redis's clock; None if it has none.
    time_left: float | None = None
    #: Whether nobody had claimed it before.
    first: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ends: what its last call brought."""

    status: JobStatus
    result: bytes | None = None
    usage: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None

    def fields(self) -> dict[str, bytes | str]:
        """The record's fields that this outcome sets."""
        fields: dict[str, bytes | str] = {}
        if self.result is not None:
            fields["result"] = self.result
        if self.usage is not None:
            fields["usage"] = json.dumps(self.usage)
        if self.error is not None:
            fields["error"] = json.dumps(self.error)
        return fields


def _text(record: Mapping[bytes, bytes | None], name: bytes) -> str | None:
    value = record.get(name)
    return None if value is None else value.decode("utf-8", "surrogatepass")


def _required(record: Mapping[bytes, bytes | None], name: bytes) -> str:
    value = _text(record, name)
    if value is None:
        raise ValueError(f"the record lacks {name.decode()}")
    return value


def _seconds(record: Mapping[bytes, bytes | None], name: bytes) -> float | None:
    value = record.get(name)
    return None if value is None else int(value) / 1000


def _json(record: Mapping[bytes, bytes | None], name: bytes) -> Any:
    value = record.get(name)
    return None if value is None else json.loads(value)
