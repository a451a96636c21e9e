"""Following a job's stream: from Redis to one caller, from where the caller stands, at any replica."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final

from api.synchronous import unstored
from api.voices import Voice
from jobs.errors import JobCancelled
from jobs.model import Job, JobStatus
from jobs.scripts import CRASHED_ERROR, DELTAS_LINGER
from jobs.streams import QUEUED_EVENTS, Entry, Span, Streams, first_number

#: Why an attempt came to nothing, beside the codes of the LLM's errors.
_WHY: Final = {
    CRASHED_ERROR["code"]: "The worker that ran this job died in mid-stream",
    "worker_stopped": "The worker that ran this job was stopped in mid-stream",
}
_BROKE_OFF: Final = "The LLM's answer broke off in mid-stream"
#: In the place of the first number of an attempt of which nothing is known any more.
_LONG_AGO: Final = -1


class EndedFirst(Exception):
    """Raised where a job failed before there was anything to tell, to who wants an HTTP error then."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.id)
        self.job = job


class Follower:
    """One caller's place in one job's stream. What it reads is told once, in order, and nothing twice."""

    def __init__(
        self,
        streams: Streams,
        load: Callable[[], Job],
        job_id: str,
        owner: str,
        voice: Voice,
        *,
        after: int = -1,
        opens: bool = False,
        strict: bool = False,
        stored: bool = True,
        keyed: bool = True,
    ) -> None:
        """``load`` reads the job, with its request and result.

        ``after``: the last number that the caller has. ``opens``: whether the job is told of before its LLM is asked.
        ``strict``: whether ``EndedFirst`` is raised. ``stored``: whether the job can be looked up later; ``keyed``:
        else whether an Idempotency-Key can get its answer.
        """
        self._streams = streams
        self._load = load
        self._job_id = job_id
        self._owner = owner
        self._voice = voice
        self._opens = opens
        self._strict = strict
        self._stored = stored
        self._keyed = keyed
        #: The number that was told last.
        self.at = after
        #: Whether the last of it was told.
        self.over = False
        #: Whether there is more to be read at once.
        self.more = False
        #: The first number of the attempt that the caller has heard of; None while that is none.
        self._attempt: int | None = None
        self._opened = False

    def open(self, job: Job) -> bytes:
        """What is told before the LLM was asked, as far as the caller does not have it."""
        told = self._voice.opening(job)[self.at + 1 :]
        if told:
            self.at, self._opened = self.at + len(told), True
        return b"".join(told)

    def read(self) -> bytes:
        """What is new, as it goes out; nothing where there is nothing yet.

        Raises ``NotFound``, ``StoreUnavailable`` and ``EndedFirst``.
        """
        span = self._streams.read(self._job_id, self._owner, after=self.at)
        ended, broken = span.status.terminal, span.broke is not None and span.broke[0] == span.first
        # What an attempt has said that came to nothing is told to nobody any more.
        tells = ended or not broken
        self.more = span.more and tells
        if self._attempt is None:
            self._attempt = self._heard(span)
        if self._attempt is not None and (span.first != self._attempt or (broken and not ended)):
            self.over = True
            return self._came_to_nothing(span)
        # All that can fail comes before the place moves: what is read again must be told again.
        opens, ends = self._opens and span.first == 0 and self.at < 1, ended and not span.more
        job = self._load() if opens or ends else None
        if ended and span.more:
            self._streams.linger(self._job_id, DELTAS_LINGER)
        told = [self.open(job)] if opens and job is not None else []
        if tells and self._misses(span):
            self.over = True
            return self._expired("A part of the stream is gone")
        if tells:
            told += [self._voice.entry(entry) for entry in span.entries if not self._was_told(entry)]
            if span.entries:
                self.at, self._attempt = span.entries[-1].number, span.first
        if ends and job is not None:
            told.append(self._end(span, job))
            self.over = True
        return b"".join(told)

    def error(self, code: str, message: str, number: int | None = None) -> bytes:
        """That the stream ends here although the job goes on, with where to find it.

        Without a number of its own it has that of the last event told: whoever goes on from there misses nothing.
        """
        number = self.at if number is None else number
        tail = f"the job goes on as {self._job_id}: see {self._voice.where(self._job_id, number)}"
        if not self._stored:
            tail = unstored(self._job_id, keyed=self._keyed)
        return self._voice.error(code, f"{message}; {tail}.", number)

    def gone(self) -> bytes:
        """That the job was deleted."""
        return self._voice.error(JobCancelled.code, f"The job {self._job_id} was deleted.", self.at + 1)

    def _was_told(self, entry: Entry) -> bool:
        # By the opening, before an attempt that came to nothing.
        return self._opened and entry.type == "response.created"

    def _heard(self, span: Span) -> int | None:
        """The attempt of which a caller has heard who goes on from ``at``; None if that is none of their numbers, or
        the one of an error that told of an attempt's end."""
        if self.at < (QUEUED_EVENTS if self._opens else 0):
            return None
        if span.first <= self.at < span.next:
            return span.first
        if self.at >= span.first - 1:
            return None
        return span.broke[0] if span.broke is not None and span.broke[0] <= self.at else _LONG_AGO

    def _misses(self, span: Span) -> bool:
        """Whether pieces are gone that nothing repeats: a Redis that was killed may have lost its last second."""
        if self._voice.repeats or not span.entries:
            return False
        numbers = [entry.number for entry in span.entries]
        before = numbers[0] - 1 if self._attempt is None else self.at
        return any(later != one + 1 for one, later in pairwise([before, *numbers]))

    def _came_to_nothing(self, span: Span) -> bytes:
        code, why = str(CRASHED_ERROR["code"]), _WHY[CRASHED_ERROR["code"]]
        if span.broke is not None:
            its_own = span.broke[0] == self._attempt
            code = span.broke[1]
            # Of one before the last the cause is not known any more.
            why = _WHY.get(code, _BROKE_OFF) if its_own else _BROKE_OFF
        # The number that the next attempt leaves free.
        number = span.next if span.first == self._attempt else span.first - 1
        return self.error(code, why, number)

    def _expired(self, why: str) -> bytes:
        message = f"{why}; see {self._voice.where(self._job_id, self.at)}."
        return self._voice.error("stream_expired", message, self.at + 1)

    def _end(self, span: Span, job: Job) -> bytes:
        if self._strict and self.at < 0 and (job.result is None or job.status is JobStatus.CANCELLED):
            raise EndedFirst(job)
        reserved = first_number(job) if job.stream else 0
        silent = span.next <= max(span.first, reserved)
        if silent or (self._attempt is None and not self._voice.repeats):
            # Nothing was streamed, or nothing of it is left.
            opened = span.first == 0 and reserved > 0
            pieces = self._voice.whole(job, span.next if silent else span.first, opened=opened)
            return b"".join(piece for number, piece in pieces if number > self.at)
        if not self._voice.repeats and self.at + 1 < span.next:
            return self._expired("The stream was read too slowly, and its rest is gone")
        number = span.next
        if span.broke is not None and span.broke[0] == span.first:
            # The one before it is that of the error that told of the attempt's end.
            number += 1
        if self._attempt == span.first:
            # A Redis that was killed may have lost what was told last.
            number = max(number, self.at + 1)
        return self._voice.ending(job, number) if number > self.at else b""
