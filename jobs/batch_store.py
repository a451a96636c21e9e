"""Batches: files of calls that become jobs in portions, and whose results become files again.

Every transition is one atomic step in Redis. A worker has a batch under a claim, as it has a job; what it writes for it
counts only while the claim is its own.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final, cast

from redis import Redis
from redis.client import Pipeline

from jobs import queues
from jobs.batch_lines import BadLine, Line
from jobs.batch_load import SHARE, WORTH, Load
from jobs.batch_usage import NO_USAGE, BatchUsage
from jobs.batches import BATCH_FIELDS, Batch, BatchPage, BatchStatus, NewBatch, derived, new_batch_id
from jobs.broker import MessageMaker
from jobs.durability import Arguments, Maker
from jobs.errors import AcceptanceUnknown, BatchNotCancellable, IdempotencyConflict, NotFound
from jobs.files import BATCH_OUTPUT, DEFAULT_LIFETIME
from jobs.model import EMBEDDINGS, RESPONSES
from jobs.moments import read_at_once
from jobs.redis_errors import redis_errors
from jobs.scripts import Scripts
from jobs.settings import Settings
from jobs.storage import ABANDONED_AFTER

#: How many jobs' results are read from Redis in one round trip, and about how many bytes of them.
_AT_ONCE: Final = 20
_AT_ONCE_BYTES: Final = 8 * 1024 * 1024


class Fenced(Exception):
    """Raised in a worker whose claim to a batch has gone to another."""


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
        self._maker = Maker(client, scripts, fsync=fsync)
        self._client = client
        self._scripts = scripts
        self._messages = messages
        self._ttl_ms = rules.ttl * 1000
        self._window = rules.window
        self._max_bytes = rules.max_bytes
        self.lease_seconds = rules.lease_seconds
        self._lease_ms = round(rules.lease_seconds * 1000)

    def create(self, new: NewBatch) -> Batch:
        """Make a batch, or find the one that its Idempotency-Key has made.

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
            verdict, found, *made = self._maker.make_or_find(
                self._scripts.batch_create, args, kind="batch", idem=idem, fingerprint=new.fingerprint
            )
        if verdict == b"created":
            # From what is known: asking Redis again could fail, and the caller would be told that nothing was made.
            return new.as_batch(batch_id, int(made[0]) / 1000, window=self._window)
        if verdict == b"gone":
            raise NotFound("No file with this id found.", param="input_file_id")
        if verdict == b"conflict":
            raise IdempotencyConflict(
                f"This Idempotency-Key was used for another request, which made the batch {found.decode()}."
            )
        return self.get(found.decode(), new.owner)

    def get(self, batch_id: str, owner: str) -> Batch:
        """The owner's batch. Raises ``NotFound``."""
        with redis_errors():
            values = cast("list[bytes | None]", self._client.hmget(queues.batch_key(batch_id), list(BATCH_FIELDS)))
        record = dict(zip((name.encode() for name in BATCH_FIELDS), values, strict=True))
        if record[b"owner"] != owner.encode():
            raise _unknown(batch_id)
        return Batch.from_record(batch_id, record)

    def list(self, owner: str, *, limit: int = 20, after: str | None = None) -> BatchPage:
        """The owner's newest batches after the one with id ``after``. Raises ``NotFound`` if there is no such batch."""
        with redis_errors():
            found, *rows = self._scripts.batch_list(args=[owner, after or "", limit + 1, ",".join(BATCH_FIELDS)])
        if not found:
            raise NotFound(f"No batch with id '{after}' found.", param="after")
        names = [name.encode() for name in BATCH_FIELDS]
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

        def ask(pipe: Pipeline) -> None:
            pipe.zcard(f"{key}:ended")
            pipe.zcard(f"{key}:alive")
            pipe.hmget(key, names)
            pipe.get(queues.BATCH_BYTES)
            # Each batch that has not ended is due at some time.
            pipe.zcard(queues.BATCH_DUE)

        ended, alive, values, all_bytes, batches = read_at_once(self._client, ask)
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
        bytes) they are. Raises ``Fenced`` where they have come to stand in one meanwhile."""
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
            for member, values in zip(some, found, strict=True):
                if values is None or values == [None] * 5:
                    raise Fenced(f"Lines of the batch {batch.id} stand in another worker's part.")
                yield _ended(member, values)

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

    def finalize(self, held: HeldBatch, contents: Iterable[str] = ()) -> Sequence[str] | None:
        """Begin to put its files together; answer the names of its parts, or None if it is not that far.

        ``contents``: the keys under which the files are about to be written, which are reserved for that.
        """
        args: Arguments = [*self._claim(held), ABANDONED_AFTER * 1000, *contents]
        with redis_errors():
            verdict, parts = self._scripts.batch_finalize(args=args)
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
