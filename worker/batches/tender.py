"""Brings batches forward, one at a time in each worker: validates, feeds, gathers, and puts the files together.

Whatever dies, another worker goes on from what the last atomic step has written down. A part of the results counts once
its name is in the batch's books; the name is its claim's own, so that what a fenced worker writes counts for nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from jobs.batch_lines import BadLine, Line, RawLine, head, parse, read_lines
from jobs.batch_load import PORTION, PORTION_BYTES, Load
from jobs.batch_store import BatchStore, Fenced, HeldBatch
from jobs.batch_usage import NO_USAGE, BatchUsage
from jobs.batches import Batch, BatchStatus
from jobs.errors import ContentMissing, StoreFull, Unavailable
from jobs.files import FileStore, new_content
from jobs.scripts import BATCH_ENDINGS
from jobs.storage import Sink
from worker.batches.results import is_output, result_line, unfed_line
from worker.batches.validation import Unusable, look_through

_log = structlog.get_logger("promptq.worker")

#: Lines of results in a part.
_PART: Final = 500
_PART_UNFED: Final = 5000
#: Bytes of results in a part, by what it is ended with.
_PART_BYTES: Final = 32 * 1024 * 1024
#: How long (seconds) a worker is at one batch while others wait for it.
_TURN: Final = 5.0
#: How long (seconds) a batch waits that others leave no room, if nothing happens to it.
_CROWDED: Final = 1.0
#: Bytes of a file that are looked through at once.
_PIECE: Final = 16 * 1024
#: Bytes of results that are written at once.
_GATHERED: Final = 256 * 1024
#: After so many lines others have their turn.
_BREATH: Final = 10
_RESULTS_LOST: Final = {
    "code": "results_lost",
    "message": "Results of the batch are missing in the file storage.",
    "line": None,
    "param": None,
}
_FILE_GONE: Final = {"code": "file_not_found", "message": "The batch's input file is gone."}


@dataclass(slots=True, kw_only=True)
class Tender:
    """One per worker process."""

    batches: BatchStore
    files: FileStore
    #: Longest line, and longest prompt in one, in bytes.
    max_line_bytes: int
    max_prompt_bytes: int
    poll_seconds: float = 1.0
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic
    #: Lets others have their turn.
    breathe: Callable[[], None] = lambda: None
    closed: bool = False
    _written: int = field(default=0)
    #: What was written for a part that is not in the books yet.
    _pending: list[str] = field(default_factory=list)
    #: When it is another batch's turn.
    _turn_ends: float = field(default=0.0)

    def run(self) -> None:
        """Look for due batches until it is closed; whatever goes wrong with one, the others go on."""
        while not self.closed:
            try:
                found = self.turn()
            except Unavailable:
                _log.warning("batches.store_unavailable")
                found = False
            except Exception:  # noqa: BLE001  # nobody else may be there to do it; the log has it
                _log.exception("batches.crashed")
                found = False
            if not found and not self.closed:
                self.sleep(self.poll_seconds)

    def close(self) -> None:
        """Begin nothing more; what is under way ends with its step."""
        self.closed = True

    def turn(self) -> bool:
        """Bring one batch as far as it goes now; False if none was due. Raises ``Unavailable``."""
        held = self.batches.claim()
        if held is None:
            return False
        # What a turn that was cut short has left may be in the books, for all we know: it goes with its batch.
        self._pending.clear()
        self._turn_ends = self.monotonic() + _TURN
        with structlog.contextvars.bound_contextvars(batch_id=held.batch.id, owner=held.batch.owner):
            try:
                more = True
                while more and not self._over:
                    more = self._step(held)
                    if more:
                        held = self.batches.renew(held)
                # One that is let go because this worker stops, or for others, has more to be done.
                self.batches.release(held, due_in=0 if more else self._pause(held.batch))
            except Fenced:
                _log.warning("batch.fenced")
                # The other one may have ended the batch, and nobody would look for it again.
                for key in self._pending:
                    self.files.storage.delete(key)
            except Unusable as unusable:
                with contextlib.suppress(Fenced):
                    self._give_up(held, unusable)
            except Unavailable:
                _log.warning("batch.unavailable", status=held.batch.status.value)
                with contextlib.suppress(Unavailable):
                    self.batches.release(held, due_in=5)
            except Exception:  # noqa: BLE001  # another try may go well; the log has it
                _log.exception("batch.crashed", status=held.batch.status.value)
                self.batches.release(held, due_in=30)
            except BaseException:
                # This worker stops in the middle of a step: another one need not wait for the lease.
                with contextlib.suppress(Unavailable):
                    self.batches.release(held, due_in=0)
                raise
        return True

    @property
    def _over(self) -> bool:
        return self.closed or self.monotonic() >= self._turn_ends

    def _pause(self, batch: Batch) -> float | None:
        """How long it may take until there is something to do for a batch, besides what it is woken for."""
        if "in_progress_at" not in batch.times or batch.ending is not None or batch.fed == batch.total:
            return None
        return _CROWDED if self.batches.load(batch).crowded else None

    def _give_up(self, held: HeldBatch, unusable: Unusable) -> None:
        if "in_progress_at" in held.batch.times:
            # What was paid for is not thrown away for a file that is gone: it may come back, until the batch expires.
            _log.error("batch.file_missing")
            gathered = self._gather(held, least=1)
            self.batches.release(held, due_in=1 if gathered else 30)
            return
        self.batches.fail(held, unusable.errors)
        _log.info("batch.ended", status=held.batch.ending or BatchStatus.FAILED.value)

    def _step(self, held: HeldBatch) -> bool:
        """Do what is next; False if there is nothing to do for now."""
        batch = held.batch
        if "in_progress_at" not in batch.times:
            # Also of one that is being ended: its lines are told of by name.
            self._validate(held)
            return True
        if batch.ending is not None:
            failure = BATCH_ENDINGS[batch.ending]
            if self.batches.close(held, failure):
                return True
            if batch.fed < batch.total:
                self._tell_of_unfed(held, failure)
                return True
        elif batch.fed < batch.total:
            load = self.batches.load(batch)
            if load.worth_a_part(_PART):
                return self._gather(held, load, least=1)
            try:
                if self._feed(held, load):
                    return True
            except StoreFull:
                # What has ended makes room.
                if self._gather(held, least=1):
                    return True
                raise
        if self._gather(held):
            return True
        contents = {kind: new_content() for kind in ("out", "err")}
        parts = self.batches.finalize(held, contents.values())
        if parts is not None:
            self._finish(held, parts, contents)
        return False

    def _validate(self, held: HeldBatch) -> None:
        """Look through the file."""
        with contextlib.closing(self._lines(held, held.batch)) as lines:
            found = look_through(lines)
        self.batches.begin(held, found.total, nameless=found.nameless, model=found.model)
        _log.info("batch.begun", lines=found.total, bad_lines=found.bad)

    def _feed(self, held: HeldBatch, load: Load) -> bool:
        """Make jobs of as many lines as there is room for; False if there is none."""
        room = load.room
        if room is None:
            return False
        lines_left, bytes_left = room.lines, room.bytes
        batch = held.batch
        portion: list[Line | BadLine] = []
        size = 0
        lines = self._lines(held, batch)
        last: RawLine | None = None

        def feed() -> bool:
            nonlocal held, batch, size
            assert last is not None
            if not self.batches.feed(held, portion, offset=last.end, number=last.number):
                return False
            batch = replace(batch, fed=batch.fed + len(portion), offset=last.end, line=last.number)
            held = replace(held, batch=batch)
            portion.clear()
            size = 0
            return True

        with contextlib.closing(lines):
            for line in lines:
                call = parse(line, batch.endpoint, max_prompt_bytes=self.max_prompt_bytes)
                if isinstance(call, BadLine) and call.number in batch.nameless:
                    call = replace(call, custom_id=None)
                portion.append(call)
                last, lines_left = line, lines_left - 1
                if isinstance(call, Line):
                    size += len(call.request)
                    bytes_left -= len(call.request) + room.line_bytes
                full = lines_left <= 0 or bytes_left <= 0
                if (len(portion) >= PORTION or size >= PORTION_BYTES or full) and not feed():
                    return True
                if full or self._over:
                    break
        if last is None:
            raise Unusable(_FILE_GONE)
        if portion:
            feed()
        return True

    def _gather(self, held: HeldBatch, load: Load | None = None, *, least: int | None = None) -> bool:
        """Write a part with the results of lines that have ended; False if there are too few for it."""
        batch = held.batch
        load = load or self.batches.load(batch)
        enough = load.worth_a_part(_PART) if least is None else load.ended >= least
        if not load.ended or (not enough and load.alive and batch.ending is None):
            return False
        members: list[str] = []
        usage = NO_USAGE

        def results() -> Iterator[tuple[bool, bytes]]:
            nonlocal usage
            size = 0
            for line in self.batches.ended_lines(batch, _PART, load.ended_bytes // load.ended):
                members.append(line.member)
                usage += BatchUsage.of(line.usage)
                size += len(line.result or b"")
                yield is_output(line), result_line(line)
                if size >= _PART_BYTES:
                    # What it takes in Redis is free only when the part is in the books.
                    return

        name = self._write_part(held, results())
        self._book(held, name, members, usage=usage)
        return True

    def _tell_of_unfed(self, held: HeldBatch, failure: Mapping[str, str]) -> None:
        """Write a part with lines that were never fed, as failed."""
        batch = held.batch
        skipped = 0
        last: RawLine | None = None
        lines = self._lines(held, batch)

        def results() -> Iterator[tuple[bool, bytes]]:
            nonlocal skipped, last
            with contextlib.suppress(Unusable):
                yield from told()
            if not skipped:
                # The file is gone, or ends before its lines do: nobody can say any more what they were called.
                while skipped < batch.total - batch.fed:
                    skipped += 1
                    yield False, unfed_line(batch.line + skipped, None, _FILE_GONE)

        def told() -> Iterator[tuple[bool, bytes]]:
            nonlocal skipped, last
            for line in lines:
                found = head(line)
                custom_id = found.custom_id if isinstance(found, BadLine) else found[1]
                if line.number in batch.nameless:
                    custom_id = None
                skipped, last = skipped + 1, line
                yield False, unfed_line(line.number, custom_id, failure)
                if skipped >= _PART_UNFED:
                    return

        with contextlib.closing(lines):
            name = self._write_part(held, results())
        offset, number = (last.end, last.number) if last is not None else (batch.offset, batch.line)
        self._book(held, name, [], skipped=skipped, offset=offset, number=number)

    def _book(
        self, held: HeldBatch, name: str, members: Sequence[str], *, usage: BatchUsage = NO_USAGE, **skipped: int
    ) -> None:
        """Have a part stand in the books: from then on it is nobody's to remove."""
        self.batches.part_written(held, name, members, usage=usage, **skipped)
        self._pending.clear()

    def _write_part(self, held: HeldBatch, results: Iterator[tuple[bool, bytes]]) -> str:
        """Write two files of results, and answer the name that they have together."""
        self._written += 1
        number = f"{held.claim_id}-{self._written}"
        counts, keep = {"out": 0, "err": 0}, self._keeper(held)
        with contextlib.ExitStack() as stack:
            sinks: dict[str, _Gathering] = {}
            for count, (good, line) in enumerate(results):
                kind = "out" if good else "err"
                if kind not in sinks:
                    self._pending.append(_part_key(held.batch, number, kind))
                    sink = stack.enter_context(self.files.storage.writer(self._pending[-1]))
                    sinks[kind] = _Gathering(sink)
                sinks[kind].write(line)
                counts[kind] += 1
                if count % _BREATH == 0:
                    keep()
            for gathering in sinks.values():
                gathering.flush()
        return f"{number}:{counts['out']}:{counts['err']}"

    def _finish(self, held: HeldBatch, parts: Sequence[str], contents: Mapping[str, str]) -> None:
        """Put the files together, under these keys, and end the batch."""
        batch = held.batch
        files: dict[str, tuple[str, int]] = {}
        with contextlib.ExitStack() as made:
            # What was made is of no use if the rest cannot be: each try would leave it once more.
            try:
                for kind, position in (("out", 1), ("err", 2)):
                    keys = [_part_key(batch, name, kind) for name in parts if int(name.split(":")[position])]
                    if keys:
                        made.callback(self.files.forget, contents[kind])
                        files[kind] = contents[kind], self._join(held, keys, contents[kind])
            except ContentMissing:
                # Somebody has been at the storage: no try will bring it back.
                _log.error("batch.part_missing")
                self.batches.fail(held, [_RESULTS_LOST])
                return
            # From here on they may be the batch's files, whatever becomes of the reply.
            forgetting = made.pop_all()
        status = BatchStatus(batch.ending or BatchStatus.COMPLETED)
        try:
            self.batches.end(held, status, files)
        except Fenced:
            forgetting.close()
            raise
        _log.info(
            "batch.ended",
            status=status.value,
            lines=batch.total,
            total_seconds=round(time.time() - batch.created_at, 3),
        )

    def _join(self, held: HeldBatch, keys: list[str], target: str) -> int:
        size, keep = 0, self._keeper(held)
        with self.files.storage.writer(target) as sink:
            for key in keys:
                chunks = self.files.storage.read(key)
                with contextlib.closing(chunks):
                    for chunk in chunks:
                        sink.write(chunk)
                        size += len(chunk)
                        keep()
        return size

    def _lines(self, held: HeldBatch, batch: Batch) -> Generator[RawLine, None, None]:
        """The lines of the batch's file that were not fed yet; others have their turn meanwhile."""
        try:
            chunks = self.files.storage.read(batch.input_content, batch.offset)
        except ContentMissing:
            raise Unusable(_FILE_GONE | {"line": None, "param": None}) from None
        keep = self._keeper(held)

        def pieces() -> Iterator[bytes]:
            # In small ones: a file may have a great many lines that are blank.
            for chunk in chunks:
                for start in range(0, len(chunk), _PIECE):
                    keep()
                    yield chunk[start : start + _PIECE]

        with contextlib.closing(chunks):
            lines = read_lines(pieces(), offset=batch.offset, number=batch.line, longest=self.max_line_bytes)
            for count, line in enumerate(lines):
                yield line
                if count % _BREATH == 0:
                    keep()

    def _keeper(self, held: HeldBatch) -> Callable[[], None]:
        """What lets others have their turn, and renews the lease in time."""
        renewed = time.monotonic()

        def keep() -> None:
            nonlocal renewed
            self.breathe()
            if time.monotonic() - renewed > self.batches.lease_seconds / 4:
                self.batches.renew(held)
                renewed = time.monotonic()

        return keep


class _Gathering:
    """Hands lines on many at a time: each write may go to another thread."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._lines: list[bytes] = []
        self._size = 0

    def write(self, line: bytes) -> None:
        self._lines.append(line)
        self._size += len(line)
        if self._size >= _GATHERED:
            self.flush()

    def flush(self) -> None:
        self._sink.write(b"".join(self._lines))
        self._lines.clear()
        self._size = 0


def _part_key(batch: Batch, name: str, kind: str) -> str:
    return f"batches/{batch.id}/{name.split(':')[0]}.{kind}"
