"""What the LLM call of a running job has said so far: written by its worker, followed by any number of callers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from redis import Redis
from redis.client import Pipeline

from jobs import queues
from jobs.errors import NotFound
from jobs.model import Claim, Job, JobStatus, NewJob
from jobs.moments import read_at_once
from jobs.redis_errors import redis_errors
from jobs.scripts import Scripts

#: A background response is told to be made and queued before its LLM is asked: these numbers are the API's.
QUEUED_EVENTS: Final = 2
#: Entries that are read at once.
PAGE: Final = 200

Verdict = Literal["done", "gone", "ended", "fenced"]


def first_number(job: Job | NewJob) -> int:
    """The number of the first event of a job's LLM call."""
    return QUEUED_EVENTS if job.background else 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of a stream."""

    number: int
    #: The type of a response's event; empty for the chunks of the other endpoints.
    type: str
    #: JSON in one line, as it is told.
    data: bytes
    #: Whether it is a piece of text that is of no use for long once the job has ended.
    delta: bool


@dataclass(frozen=True, slots=True)
class Span:
    """What stands in a stream after some number, and how its job is."""

    status: JobStatus
    #: The first number of the current attempt. What has a lower one was said by an attempt that came to nothing.
    first: int
    #: The number after the last one.
    next: int
    #: The first number of the last attempt that came to nothing, and why; None if there is none.
    broke: tuple[int, str] | None
    entries: list[Entry]
    #: Whether there are more entries.
    more: bool


class Streams:
    """The streams of jobs. Every method raises ``StoreUnavailable`` when Redis does not answer."""

    def __init__(self, client: Redis, scripts: Scripts) -> None:
        self._client = client
        self._scripts = scripts

    def begin(self, claim: Claim) -> tuple[int, int] | Verdict:
        """Forget what an attempt before has said; answer the first number of this one and the next to be given."""
        with redis_errors():
            verdict, *numbers = self._scripts.stream_begin(args=[claim.job.id, claim.claim_id])
        if verdict != b"done":
            return cast("Verdict", verdict.decode())
        first, following = numbers
        return int(first), int(following)

    def append(self, claim: Claim, first: int, entries: Sequence[Entry]) -> Verdict:
        """Add what the attempt that began with this number has said; the same again changes nothing."""
        args: list[Any] = [claim.job.id, claim.claim_id, first]
        for entry in entries:
            args += (entry.number, "delta" if entry.delta else "event", entry.type, entry.data)
        with redis_errors():
            return self._scripts.stream_append(args=args).decode()  # type: ignore[no-any-return]

    def read(self, job_id: str, owner: str, *, after: int) -> Span:
        """What the stream of the owner's job holds after this number, a page of it at most. Raises ``NotFound``."""
        since = f"{after + 2}-0"
        names = ("owner", "status", "stream", "stream_first", "stream_next", "stream_broke")

        def ask(pipe: Pipeline) -> None:
            pipe.hmget(queues.job_key(job_id), names)
            pipe.xrange(queues.stream_key(job_id), min=since, count=PAGE)
            pipe.xrange(queues.deltas_key(job_id), min=since, count=PAGE)

        (its_owner, status, stream, first, following, broke), events, deltas = read_at_once(self._client, ask)
        if its_owner is None or its_owner != owner.encode():
            raise NotFound(f"No job with id '{job_id}' found.", param="id")
        entries = [*_entries(events, delta=False), *_entries(deltas, delta=True)]
        entries.sort(key=lambda entry: entry.number)
        # Of a page that is full nothing is known behind its last entry.
        known = [_number(page[-1][0]) for page in (events, deltas) if len(page) == PAGE]
        if known:
            entries = [entry for entry in entries if entry.number <= min(known)]
        return Span(
            JobStatus(status.decode()),
            int(first or 0),
            int(following or stream or 0),
            _broke(broke),
            entries,
            more=bool(known),
        )

    def linger(self, job_id: str, seconds: float) -> None:
        """Keep the pieces of text of a job that has ended for a while longer: somebody still reads them."""
        with redis_errors():
            self._client.pexpire(queues.deltas_key(job_id), round(seconds * 1000), xx=True)


def _entries(found: Sequence[tuple[bytes, dict[bytes, bytes]]], *, delta: bool) -> list[Entry]:
    return [Entry(_number(at), fields[b"t"].decode(), fields[b"d"], delta) for at, fields in found]


def _number(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0]) - 1


def _broke(value: bytes | None) -> tuple[int, str] | None:
    if value is None:
        return None
    first, _, code = value.decode().partition(":")
    return int(first), code
