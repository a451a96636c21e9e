"""Server-sent events: a job's stream as the answer to a request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from flask import Response, request

from api.disconnects import cut_off, on_disconnect
from api.following import EndedFirst, Follower
from api.intake import idempotency_key
from api.services import Services, owner, services
from api.synchronous import ClientGone, relay, result_as_it_came, still_running
from api.voices import KEEP_ALIVE, voice_of
from jobs.errors import JobCancelled, NotFound, PromptQError, StoreUnavailable, WaitTimeout
from jobs.model import Endpoint, Job
from jobs.store import Accepted

#: Seconds of silence after which a line that says nothing keeps the connection open: less than any proxy waits.
_QUIET: Final = 15.0
#: Least time between two readings, so that a fast LLM costs few.
_GATHER: Final = 0.02
#: How long (seconds) Redis may be away before a stream ends, and how often it is asked.
_PATIENCE: Final = 10.0
_PAUSE: Final = 0.5
#: What a client that does not read has on top of the longest wait before its connection is closed.
_MARGIN: Final = 15.0
_HEADERS: Final = {
    "Cache-Control": "no-cache, no-transform",
    # nginx would gather it all.
    "X-Accel-Buffering": "no",
}

_log = structlog.get_logger("promptq.api")


def stream_new(accepted: Accepted, endpoint: Endpoint, *, background: bool = False) -> Response:
    """The stream of a job that this request has made, or that its Idempotency-Key names.

    In the background the answer begins at once, and a caller who goes away changes nothing. Otherwise it begins with
    the LLM's first event, so that what goes wrong before has its own status; a caller who goes away cancels the job,
    as with ``wait_for``. Raises what that raises.
    """
    stored = accepted.made is None or accepted.made.stored
    cancels = not background and accepted.made is not None and idempotency_key() is None
    about = {"opens": background, "strict": not background, "stored": stored, "keyed": not cancels}
    follower = _follower(accepted.job_id, endpoint, **about)
    stream = _Stream(
        services(),
        follower,
        accepted.job_id,
        owner(),
        request.environ,
        opening=follower.open(accepted.made) if background and accepted.made is not None else b"",
        patient=not background,
        cancels=cancels,
        stored=stored,
    )
    return _answer(stream)


def stream_of(job: Job, *, after: int | None) -> Response:
    """The stream of a job that is there, after this number."""
    opens = job.stream and job.background
    follower = _follower(job.id, job.endpoint, opens=opens, after=-1 if after is None else after)
    return _answer(_Stream(services(), follower, job.id, owner(), request.environ))


def _follower(job_id: str, endpoint: Endpoint, **about: Any) -> Follower:
    store, whose = services().store, owner()

    def load() -> Job:
        return store.get(job_id, whose, unstored=True)

    return Follower(store.streams, load, job_id, whose, voice_of(endpoint), **about)


def _answer(stream: _Stream) -> Response:
    chunks = _Chunks(stream.tell())
    try:
        chunks.begin()
    except EndedFirst as ended:
        return relay(ended.job, result_as_it_came)
    return Response(chunks, content_type="text/event-stream; charset=utf-8", headers=_HEADERS)


class _Chunks:
    """An iterator whose first item is there before the head of the answer goes out."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._first: bytes | None = None

    def begin(self) -> None:
        """Wait for the first item. Raises what stands in its way."""
        self._first = next(self._chunks)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return next(self._chunks)

    def close(self) -> None:
        """Called by the server when the answer is over, whichever way."""
        self._chunks.close()  # type: ignore[attr-defined]  # it is a generator's


@dataclass(slots=True)
class _Stream:
    services: Services
    follower: Follower
    job_id: str
    owner: str
    environ: Mapping[str, Any]
    #: What is told before Redis is asked.
    opening: bytes = b""
    #: Whether nothing is told before there is something of the LLM's.
    patient: bool = False
    #: Whether a caller who goes away cancels the job.
    cancels: bool = False
    #: Whether the job can be looked up later.
    stored: bool = True

    def tell(self) -> Iterator[bytes]:
        """What goes out, piece by piece. Raises ``PromptQError`` and ``EndedFirst`` before the first piece only.

        It ends with its job, or when ``PROMPTQ_MAX_WAIT`` has gone by without an event: how long an answer may take is
        for the limits of the job and its LLM call.
        """
        gone, wake = threading.Event(), threading.Event()

        def on_gone() -> None:
            gone.set()
            wake.set()

        stays = False
        try:
            with (
                on_disconnect(dict(self.environ), on_gone),
                cut_off(dict(self.environ), self.services.settings.max_wait + _MARGIN) as goes_on,
            ):
                if not self.patient:
                    yield self.opening or KEEP_ALIVE
                with self.services.wakeups.watch(self.job_id, wake):
                    yield from self._follow(gone, wake, goes_on)
            stays = not gone.is_set()
        except GeneratorExit:
            raise
        except BaseException:
            # What is answered with a status of its own is answered to somebody.
            stays = not gone.is_set()
            raise
        finally:
            if self.cancels and not self.stored:
                # Whatever is left of it could be had by nobody.
                self._cancel()
            elif self.cancels and not stays and not self.follower.over:
                self._cancel()

    def _follow(self, gone: threading.Event, wake: threading.Event, goes_on: Callable[[], None]) -> Iterator[bytes]:
        begun, away_since = not self.patient, None
        deadline = time.monotonic() + self.services.settings.max_wait
        while True:
            wake.clear()
            goes_on()
            read_at = time.monotonic()
            try:
                with self.services.wakeups.turn():
                    text = self.follower.read()
                away_since = None
            except NotFound:
                if not begun:
                    raise JobCancelled(f"The job {self.job_id} was deleted while this request waited for it.") from None
                yield self.follower.gone()
                return
            except StoreUnavailable:
                # From now on: a turn that did not come within its time says nothing of Redis yet.
                text, away_since = b"", away_since or time.monotonic()
            if text:
                begun = True
                yield text
                # From when it was taken: a slow reader has not waited for us.
                deadline = time.monotonic() + self.services.settings.max_wait
            if self.follower.over:
                return
            if gone.is_set():
                if not begun:
                    raise ClientGone
                return
            over = self._why_over(deadline, away_since)
            if over is not None:
                if not begun:
                    raise WaitTimeout(still_running(self.job_id, over[1], stored=self.stored, keyed=not self.cancels))
                yield self.follower.error(*over)
                return
            if self.follower.more and away_since is None:
                continue
            if away_since is not None:
                gone.wait(_PAUSE)
            elif not wake.wait(min(_QUIET, max(0.0, deadline - time.monotonic()))):
                if begun:
                    yield KEEP_ALIVE
            elif (early := read_at + _GATHER - time.monotonic()) > 0:
                time.sleep(early)

    def _why_over(self, deadline: float, away_since: float | None) -> tuple[str, str] | None:
        """Why the stream ends before its job does: a code and a sentence; None if it goes on."""
        if self.services.closing.is_set():
            return WaitTimeout.code, "The server is restarting"
        if time.monotonic() >= deadline:
            return WaitTimeout.code, "Nothing more came from the job in time for this request"
        if away_since is not None and time.monotonic() - away_since > _PATIENCE:
            return StoreUnavailable.code, "The job store went away while this request waited"
        return None

    def _cancel(self) -> None:
        try:
            self.services.store.cancel(self.job_id, self.owner, unstored=True)
        except NotFound:
            pass
        except PromptQError as error:
            _log.warning("stream.not_cancelled", job_id=self.job_id, code=error.code)
