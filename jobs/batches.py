"""Batches: files of calls that become jobs in portions, and whose results become files again.

Every transition is one atomic step in Redis. A worker has a batch under a claim, as it has a job; what it writes for it
counts only while the claim is its own.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from enum import StrEnum
from typing import Any, Final, cast

from redis import Redis

from jobs import queues
from jobs.batch_lines import BadLine, Line
from jobs.batch_load import SHARE, WORTH, Load
from jobs.batch_usage import NO_USAGE, BatchUsage
from jobs.broker import MessageMaker
from jobs.durability import run_to_disk
from jobs.errors import AcceptanceUnknown, BatchNotCancellable, IdempotencyConflict, NotFound
from jobs.files import BATCH_OUTPUT, DEFAULT_LIFETIME
from jobs.model import EMBEDDINGS, RESPONSES, Endpoint
from jobs.redis_errors import redis_errors
from jobs.scripts import Scripts
from jobs.settings import Settings

Arguments = list[bytes | str | int | float]


class Fenced(Exception):
    """Raised in a worker whose claim to a batch has gone to another."""


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
_FIELDS: Final = (
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
    #: When it came into each state that it has been in, by OpenAI's names.
    times: Mapping[str, float]
    total: int
    #: Lines that have become jobs, or have been told of as failed without.
    fed: int
    completed: int
    failed: int
    #: Where the next line to feed begins (bytes), and the number of the line before it.
    offset: int
    line: int
    #: How it ends besides by itself: ``cancelled`` or ``expired``; else None.
    ending: str | None
    output_file_id: str | None
    error_file_id: str | None
    #: Why its file cannot be used: ``{code, message, line, param}`` each.
    errors: tuple[Mapping[str, Any], ...]
    metadata: Mapping[str, str]
    output_seconds: int | None
    #: Lines whose ``custom_id`` could only be guessed, where the guess is another line's; none but for a worker.
    nameless: frozenset[int]
    #: What all lines ask for; None until the file was looked through, and where they ask for several.
    model: str | None
    #: Of the lines whose results are written.
    usage: BatchUsage

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


@dataclass(frozen=True, slots=True)
class HeldBatch:
    """A batch that is ours to work at for as long as its lease is renewed, which every step does."""

    claim_id: str
    batch: Batch


@dataclass(frozen=True, slots=True)
class EndedLine:
    """What became of a line: of its job, or why it never was one."""

    #: As the batch's books name it.
    member: str
    custom_id: str | None
    status: str
    result: bytes | None
    error: Mapping[str, Any] | None
    #: Token counts as the LLM gave them, else None.
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRules:
    """How batches are kept and fed."""

    #: How long a batch is kept after its end (seconds).
    ttl: int = 30 * 24 * 3600
    #: How many of a batch's jobs there are at once.
    window: int = 5000
    #: How many bytes of requests and results of lines there are at once, of all batches together.
    max_bytes: int = 256 * 1024 * 1024
    #: How long a worker's claim holds without a step.
    lease_seconds: float = 60.0

    @classmethod
    def from_settings(cls, settings: Settings) -> BatchRules:
        """What the settings say."""
        return cls(
            ttl=settings.batch_ttl,
            window=settings.batch_window,
            max_bytes=settings.batch_max_bytes,
            lease_seconds=2 * settings.lease_seconds,
        )


class BatchStore:
    """Batches in Redis. Every method raises ``StoreUnavailable`` when Redis does not answer; those of a worker raise
    ``Fenced`` when the batch is another's."""

    def __init__(
        self, client: Redis, scripts: Scripts, messages: MessageMaker, rules: BatchRules, *, fsync: bool = False
    ) -> None:
        """``fsync``: whether a batch counts as made only once it is on disk."""
        self._fsync = fsync
        self._client = client
        self._scripts = scripts
        self._messages = messages
        self._ttl_ms = rules.ttl * 1000
        self._window = rules.window
        self._max_bytes = rules.max_bytes
        self.lease_seconds = rules.lease_seconds
        self._lease_ms = round(rules.lease_seconds * 1000)

    def create(self, new: NewBatch) -> str:
        """Make a batch, or find the one that its Idempotency-Key has made; answer its id.

        Raises ``IdempotencyConflict``, ``StoreFull``, or ``AcceptanceUnknown`` if the reply was lost on the way.
        """
        batch_id, idem = new_batch_id(), ""
        if new.idempotency_key is not None:
            digest = hashlib.sha256(new.idempotency_key.encode("utf-8", "surrogatepass")).hexdigest()
            idem = f"{queues.PREFIX}batch-idem:{new.owner}:{digest}"
        args: Arguments = [batch_id, new.owner, idem, new.fingerprint, new.window_seconds * 1000]
        args += [new.input_file_id, new.input_content, "endpoint", new.endpoint]
        args += ["completion_window", new.completion_window]
        args += ["window", self._window, "wake_bytes", round(self._max_bytes * SHARE * WORTH)]
        args += ["metadata", json.dumps(dict(new.metadata))]
        if new.output_seconds is not None:
            args += ["output_ttl", new.output_seconds]
        with redis_errors(lost_reply=AcceptanceUnknown):
            step = self._scripts.batch_create
            verdict, found = run_to_disk(self._client, step, args) if self._fsync else step(args=args)
        if verdict == b"gone":
            raise NotFound("No file with this id found.", param="input_file_id")
        if verdict == b"conflict":
            raise IdempotencyConflict(
                f"This Idempotency-Key was used for another request, which made the batch {found.decode()}."
            )
        return str(found.decode())

    def get(self, batch_id: str, owner: str) -> Batch:
        """The owner's batch. Raises ``NotFound``."""
        with redis_errors():
            values = cast("list[bytes | None]", self._client.hmget(queues.batch_key(batch_id), list(_FIELDS)))
        record = dict(zip((name.encode() for name in _FIELDS), values, strict=True))
        if record[b"owner"] != owner.encode():
            raise _unknown(batch_id)
        return Batch.from_record(batch_id, record)

    def list(self, owner: str, *, limit: int = 20, after: str | None = None) -> BatchPage:
        """The owner's newest batches after the one with id ``after``. Raises ``NotFound`` if there is no such batch."""
        with redis_errors():
            found, *rows = self._scripts.batch_list(args=[owner, after or "", limit + 1, ",".join(_FIELDS)])
        if not found:
            raise NotFound(f"No batch with id '{after}' found.", param="after")
        names = [name.encode() for name in _FIELDS]
        batches = [Batch.from_record(row[0].decode(), dict(zip(names, row[1:], strict=True))) for row in rows[:limit]]
        return BatchPage(batches, has_more=len(rows) > limit)

    def cancel(self, batch_id: str, owner: str) -> None:
        """Begin to cancel it; nothing changes if that has begun. Raises ``NotFound`` or ``BatchNotCancellable``."""
        with redis_errors():
            verdict = self._scripts.batch_cancel(args=[batch_id, owner]).decode()
        if verdict == "gone":
            raise _unknown(batch_id)
        if verdict not in (BatchStatus.CANCELLING, BatchStatus.CANCELLED):
            raise BatchNotCancellable(f"A batch that is {verdict} cannot be cancelled.")

    # What follows is a worker's.

    def claim(self) -> HeldBatch | None:
        """Take the batch that has been due for longest; None if there is none."""
        claim_id = uuid.uuid4().hex
        with redis_errors():
            found = self._scripts.batch_claim(args=[claim_id, self._lease_ms])
        if not found:
            return None
        return HeldBatch(claim_id, Batch.from_record(found[0].decode(), _pairs(found[1:])))

    def renew(self, held: HeldBatch) -> HeldBatch:
        """The batch as it is now, its lease renewed."""
        with redis_errors():
            found = self._scripts.batch_hold(args=self._claim(held))
        if not found:
            raise _fenced(held)
        return HeldBatch(held.claim_id, Batch.from_record(held.batch.id, _pairs(found)))

    def release(self, held: HeldBatch, *, due_in: float | None = None) -> None:
        """Let go of it until something happens to it, or for ``due_in`` seconds."""
        delay = "" if due_in is None else round(due_in * 1000)
        with redis_errors():
            self._scripts.batch_release(args=[held.batch.id, held.claim_id, delay])

    def begin(self, held: HeldBatch, total: int, *, nameless: Iterable[int] = (), model: str | None = None) -> None:
        """Note that its file was looked through: how many lines it has, which of them have no name of their own, and
        the model that all ask for."""
        known = (",".join(map(str, nameless)), (model or "").encode("utf-8", "surrogatepass"))
        self._step(held, self._scripts.batch_begin, total, *known)

    def fail(self, held: HeldBatch, errors: Sequence[Mapping[str, Any]]) -> None:
        """End it, since its file cannot be used."""
        with redis_errors():
            verdict = self._scripts.batch_fail(
                args=[held.batch.id, held.claim_id, json.dumps(list(errors)), self._ttl_ms]
            )
        if verdict == b"fenced":
            raise _fenced(held)

    def load(self, batch: Batch) -> Load:
        """How much of it is in Redis now, and of all batches."""
        key = queues.batch_key(batch.id)
        names = ["alive_bytes", "ended_bytes", "completed", "failed", "told_bytes"]
        # At one moment: the numbers belong together.
        with redis_errors(), self._client.pipeline(transaction=True) as pipe:
            pipe.zcard(f"{key}:ended")
            pipe.zcard(f"{key}:alive")
            pipe.hmget(key, names)
            pipe.get(queues.BATCH_BYTES)
            # Each batch that has not ended is due at some time.
            pipe.zcard(queues.BATCH_DUE)
            ended, alive, values, all_bytes, batches = pipe.execute()
        alive_bytes, ended_bytes, completed, failed, told_bytes = (int(value or 0) for value in values)
        return Load(
            window=batch.window,
            ended=ended,
            alive=alive,
            ended_bytes=ended_bytes,
            alive_bytes=alive_bytes,
            answered=completed,
            told=completed + failed,
            told_bytes=told_bytes,
            all_bytes=int(all_bytes or 0),
            max_bytes=self._max_bytes,
            batches=batches,
            unforeseen=batch.endpoint == EMBEDDINGS,
        )

    def feed(self, held: HeldBatch, lines: Sequence[Line | BadLine], *, offset: int, number: int) -> bool:
        """Make jobs of the next lines; False if the batch is being ended.

        ``offset`` is where the line behind them begins, ``number`` the last one's.
        """
        args: Arguments = [held.batch.fed, offset, number]
        kind = "resp" if held.batch.endpoint == RESPONSES else "job"
        for line in lines:
            if isinstance(line, BadLine):
                args += ["bad", line.number, json.dumps(bad_line(line)), "", "", ""]
                continue
            job_id = f"{kind}_{derived(held.batch.id, str(line.number))}"
            custom_id = line.custom_id.encode("utf-8", "surrogatepass")
            model = line.model.encode("utf-8", "surrogatepass")
            args += [job_id, line.number, custom_id, self._messages.message(job_id, queues.BULK), model, line.request]
        return self._step(held, self._scripts.batch_feed, *args) != b"stop"

    def ended_lines(self, batch: Batch, limit: int, size: int = 0) -> Iterator[EndedLine]:
        """Lines that have ended and stand in no part yet, a few read at a time: the fewer, the larger (``size``: in
        bytes) they are."""
        key = queues.batch_key(batch.id)
        with redis_errors():
            members = cast("list[bytes]", self._client.zrange(f"{key}:ended", 0, limit - 1))
        at_once = max(1, min(_AT_ONCE, _AT_ONCE_BYTES // max(1, size)))
        for start in range(0, len(members), at_once):
            some = [member.decode() for member in members[start : start + at_once]]
            with redis_errors(), self._client.pipeline(transaction=False) as pipe:
                for member in some:
                    if member.startswith("bad:"):
                        pipe.hget(f"{key}:bad", member.removeprefix("bad:"))
                    else:
                        pipe.hmget(queues.job_key(member), ["custom_id", "status", "result", "error", "usage"])
                found = pipe.execute()
            yield from (_ended(member, values) for member, values in zip(some, found, strict=True))

    def close(self, held: HeldBatch, failure: Mapping[str, Any], limit: int = 100) -> int:
        """End some of the jobs that have not ended; answer how many are left."""
        with redis_errors():
            left = self._scripts.batch_close(args=[*self._claim(held), limit, json.dumps(failure)])
        if left < 0:
            raise _fenced(held)
        return int(left)

    def part_written(
        self,
        held: HeldBatch,
        name: str,
        members: Sequence[str],
        *,
        usage: BatchUsage = NO_USAGE,
        skipped: int = 0,
        offset: int = 0,
        number: int = 0,
    ) -> None:
        """Forget the lines that stand in a part now, and count what they have cost; ``skipped`` lines of it were never
        fed, up to ``offset``."""
        fed, counts = (skipped, offset, number), astuple(usage)
        self._step(held, self._scripts.batch_part, name, held.batch.fed, *fed, *counts, *members)

    def finalize(self, held: HeldBatch) -> Sequence[str] | None:
        """Begin to put its files together; answer the names of its parts, or None if it is not that far."""
        with redis_errors():
            verdict, parts = self._scripts.batch_finalize(args=self._claim(held))
        if verdict == b"fenced":
            raise _fenced(held)
        return None if verdict == b"unfinished" else [name.decode() for name in parts]

    def end(self, held: HeldBatch, status: BatchStatus, files: Mapping[str, tuple[str, int]]) -> None:
        """End it, and make the files with its results: by kind (``out``, ``err``) where the content lies, and its size
        in bytes."""
        batch = held.batch
        lifetime = batch.output_seconds or DEFAULT_LIFETIME[BATCH_OUTPUT]
        args: Arguments = [batch.id, held.claim_id, status.value, self._ttl_ms]
        args.append("" if lifetime is None else lifetime * 1000)
        for kind in ("out", "err"):
            args += [f"file-{derived(batch.id, kind)}", *files.get(kind, ("", 0))]
        with redis_errors():
            if self._scripts.batch_end(args=args) == b"fenced":
                raise _fenced(held)

    def _claim(self, held: HeldBatch) -> Arguments:
        return [held.batch.id, held.claim_id, self._lease_ms]

    def _step(self, held: HeldBatch, script: Any, *args: bytes | str | float) -> bytes:
        with redis_errors():
            verdict: bytes = script(args=[*self._claim(held), *args])
        if verdict == b"fenced":
            raise _fenced(held)
        return verdict


#: How many jobs' results are read from Redis in one round trip, and about how many bytes of them.
_AT_ONCE: Final = 20
_AT_ONCE_BYTES: Final = 8 * 1024 * 1024


def bad_line(line: BadLine) -> dict[str, Any]:
    """What is said of a line that is no call."""
    error: dict[str, Any] = {"code": line.code, "message": line.message, "line": line.number}
    if line.param is not None:
        error["param"] = line.param
    return {"custom_id": line.custom_id, "error": error}


def _ended(member: str, values: Any) -> EndedLine:
    if member.startswith("bad:"):
        said = json.loads(values)
        return EndedLine(member, said["custom_id"], "failed", None, said["error"])
    custom_id, status, result, error, usage = values
    return EndedLine(
        member,
        custom_id.decode("utf-8", "surrogatepass"),
        status.decode(),
        result,
        None if error is None else json.loads(error),
        None if usage is None else json.loads(usage),
    )


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes | None]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _unknown(batch_id: str) -> NotFound:
    return NotFound(f"No batch with id '{batch_id}' found.", param="batch_id")


def _fenced(held: HeldBatch) -> Fenced:
    return Fenced(f"The batch {held.batch.id} is another worker's now.")
