"""From the LLM's stream to Redis: numbers the events of one attempt, gathers them for a moment, and appends them."""

from __future__ import annotations

import json
import re
from types import TracebackType
from typing import Any, Final, Self

import gevent
import structlog
from gevent.event import Event as Signal

from jobs.errors import StoreUnavailable
from jobs.model import RESPONSES, Claim
from jobs.responses import own_members
from jobs.streams import Entry, Streams, first_number
from worker.merging import merged
from worker.streaming import Event

#: Seconds between two appends: a fast LLM costs few round trips, and what comes alone goes at once.
_GATHER: Final = 0.02
#: The same once the stream has its size, when pieces of a text are put together; and bytes that end it early.
_GATHER_LARGE: Final = 0.25
_LARGE_PIECE: Final = 4096
_PAUSE: Final = 0.2
#: Events that are taken up at once: after an outage of Redis there may be a great many.
_AT_ONCE: Final = 500
#: A text in which these bytes stand has them escaped, so this is a member's name.
_NUMBER: Final = re.compile(rb'"sequence_number"\s*:\s*-?\d+')

_log = structlog.get_logger("promptq.worker")


class Relay:
    """The stream of one attempt. Within ``with`` what it is told goes to Redis by itself, beside the call.

    A Redis that is away holds up nobody: what was told is kept until it answers. What no claim of ours may add any more
    is dropped.
    """

    def __init__(self, streams: Streams, claim: Claim, numbers: tuple[int, int], *, max_bytes: int) -> None:
        """``numbers``: as ``Streams.begin`` gave them. ``max_bytes``: beyond it pieces of a text are put together."""
        self._streams = streams
        self._claim = claim
        self._first, self._next = numbers
        self._max_bytes = max_bytes
        self._said = 0
        self._waiting: list[Event] = []
        self._waiting_bytes = 0
        #: What is on its way; the same again, should the reply be lost.
        self._sent: list[Entry] = []
        self._over = False
        self._something = Signal()
        self._enough = Signal()
        self._flusher: gevent.Greenlet[..., None] | None = None
        self._is_response = claim.job.endpoint == RESPONSES
        #: The API has told already that the response was made, unless an attempt came to nothing since.
        self._told_created = self._first == 0 and first_number(claim.job) > 0

    def __enter__(self) -> Self:
        self._flusher = gevent.spawn(self._flush_as_it_comes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._flusher is not None:
            self._flusher.kill()

    def tell(self, event: Event) -> None:
        """Take one event of the LLM's."""
        if self._over or (self._told_created and event.type == "response.created"):
            return
        self._waiting.append(event)
        self._waiting_bytes += len(event.data)
        self._something.set()
        if self._waiting_bytes > _LARGE_PIECE:
            self._enough.set()

    def flush(self) -> None:
        """Append what was told and is not in Redis yet. Raises ``StoreUnavailable``; it can then be done again."""
        while not self._over:
            if not self._sent:
                self._sent = self._numbered()
            if not self._sent:
                return
            try:
                verdict = self._streams.append(self._claim, self._first, self._sent)
            except StoreUnavailable:
                raise
            except Exception:  # noqa: BLE001  # the call was paid for, and its answer counts; the log has it
                _log.exception("stream.crashed")
                verdict = "fenced"
            # Else the job has ended, or is another's: whoever follows it hears of that from elsewhere.
            self._over = verdict != "done"
            self._sent = []

    def _numbered(self) -> list[Entry]:
        some, full = self._waiting[:_AT_ONCE], self._full
        del self._waiting[:_AT_ONCE]
        events = merged(some) if full else some
        self._waiting_bytes -= sum(len(event.data) for event in some)
        entries = []
        for event in events:
            data = self._ours(event, self._next) if self._is_response else event.data
            entries.append(Entry(self._next, event.type, data, event.delta))
            self._next += 1
            self._said += len(data)
        return entries

    @property
    def _full(self) -> bool:
        return self._said + self._waiting_bytes > self._max_bytes

    def _ours(self, event: Event, number: int) -> bytes:
        """A response's event with our number, and with our id where it carries the response; all else as it came."""
        response = event.value.get("response")
        if (
            not isinstance(response, dict)
            and len(_NUMBER.findall(event.data)) == 1
            and "sequence_number" in event.value
        ):
            return _NUMBER.sub(b'"sequence_number":%d' % number, event.data)
        changed: dict[str, Any] = {**event.value, "sequence_number": number}
        if isinstance(response, dict):
            changed["response"] = {**response, **own_members(self._claim.job, response.get("id"))}
        return json.dumps(changed, separators=(",", ":")).encode("ascii")

    def _flush_as_it_comes(self) -> None:
        while not self._over:
            self._something.wait()
            self._something.clear()
            try:
                self.flush()
            except StoreUnavailable:
                self._something.set()
                gevent.sleep(_PAUSE)
                continue
            if self._full:
                self._enough.clear()
                self._enough.wait(_GATHER_LARGE)
            else:
                gevent.sleep(_GATHER)
