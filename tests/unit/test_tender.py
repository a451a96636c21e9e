"""What a worker does for a batch, where it is cut short; tests/faults/test_batches.py kills real ones."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from gevent import GreenletExit

from jobs import queues
from jobs.batch_load import Load
from jobs.batch_store import BatchRules, Fenced
from jobs.batches import BatchStatus, NewBatch
from jobs.broker import MessageMaker
from jobs.errors import StorageUnavailable, StoreUnavailable
from jobs.files import NewFile
from jobs.model import CHAT_COMPLETIONS, EMBEDDINGS, Endpoint
from jobs.redis_clients import worker_client
from jobs.settings import Settings
from tests.integration.batching import jsonl, line
from tests.unit.desk import Desk, finish_jobs
from tests.unit.making import check_batches
from worker.batches.tender import Tender


class Bench:
    """A desk with a tender, and batches of whole files."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.breaths = 0

    def tender(self, **changes: Any) -> Tender:
        def breathe() -> None:
            self.breaths += 1

        known: dict[str, Any] = {
            "batches": self.desk.batches,
            "files": self.desk.files,
            "max_line_bytes": 10_000,
            "max_prompt_bytes": 10_000,
            "breathe": breathe,
        }
        return Tender(**(known | changes))

    def start(self, content: bytes, window: int = 3600, endpoint: Endpoint = CHAT_COMPLETIONS) -> str:
        files = self.desk.files
        key = files.reserve()
        with files.storage.writer(key) as sink:
            sink.write(content)
        new = NewFile(owner="ann", filename="a", purpose="batch", size=len(content), content=key, lifetime=3600)
        file = files.create(new)
        return self.desk.batches.create(NewBatch("ann", endpoint, file.id, key, f"{window}s", window)).id

    def load(self, batch_id: str) -> Load:
        return self.desk.batches.load(self.desk.batches.get(batch_id, "ann"))

    def status(self, batch_id: str) -> BatchStatus:
        return self.desk.batches.get(batch_id, "ann").status

    def parts(self, batch_id: str) -> list[str]:
        return list(self.desk.files.storage.keys(f"batches/{batch_id}"))

    def results(self, batch_id: str) -> list[dict[str, Any]]:
        """The lines of both files."""
        batch = self.desk.batches.get(batch_id, "ann")
        files = [self.desk.files.get(one, "ann") for one in (batch.output_file_id, batch.error_file_id) if one]
        return [json.loads(line) for file in files for line in b"".join(self.desk.files.read(file)).splitlines()]

    def output(self, batch_id: str) -> list[bytes]:
        batch = self.desk.batches.get(batch_id, "ann")
        return self._lines(batch.output_file_id)

    def errors(self, batch_id: str) -> list[tuple[str, str]]:
        """The custom_id and the error's code of each line that has one, in order of their numbers."""
        batch = self.desk.batches.get(batch_id, "ann")
        found = [json.loads(one) for one in self._lines(batch.error_file_id)]
        return sorted((one["custom_id"], one["error"]["code"]) for one in found)

    def _lines(self, file_id: str | None) -> list[bytes]:
        file = self.desk.files.get(str(file_id), "ann")
        return b"".join(self.desk.files.read(file)).splitlines()


@pytest.fixture
def bench(redis_client: redis.Redis, redis_url: str, messages: MessageMaker, tmp_path: Path) -> Iterator[Bench]:
    client = worker_client(Settings(redis_url=redis_url))
    yield Bench(Desk(client, messages, tmp_path))
    client.close()


@pytest.fixture
def wide(redis_client: redis.Redis, redis_url: str, messages: MessageMaker, tmp_path: Path) -> Iterator[Bench]:
    """One whose batches are bounded by their bytes: 400,000 for all, 100,000 for each of up to four."""
    client = worker_client(Settings(redis_url=redis_url))
    yield Bench(Desk(client, messages, tmp_path, BatchRules(window=1000, max_bytes=400_000)))
    client.close()


def lines(count: int, prompt: str = "hi") -> bytes:
    return jsonl(line(f"l{number}", prompt) for number in range(count))


def test_a_batch_is_brought_as_far_as_it_goes(bench: Bench) -> None:
    """Validated and fed in one turn, up to its window; gathered, fed and ended as its jobs end."""
    batch_id, tender = bench.start(lines(6)), bench.tender()
    assert tender.turn()
    assert bench.status(batch_id) is BatchStatus.IN_PROGRESS
    assert not tender.turn()
    while bench.status(batch_id) is not BatchStatus.COMPLETED:
        finish_jobs(bench.desk)
        assert tender.turn()
    assert len(bench.output(batch_id)) == 6


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_name_that_was_only_guessed_gives_way(bench: Bench, monkeypatch: pytest.MonkeyPatch, cancelled: bool) -> None:
    """A broken line that seems to be called as another fails no batch: it stands in the results without a name."""
    broken = b'{"custom_id": "l%d", broken'
    content = broken % 2 + b"\n" + lines(4) + broken % 0 + b"\n" + broken % 9 + b"\n" + broken % 9 + b"\n"
    batch_id, tender = bench.start(content), bench.tender()
    if cancelled:
        renew = bench.desk.batches.renew

        def cancelling(held: Any) -> Any:
            bench.desk.batches.cancel(batch_id, "ann")
            return renew(held)

        monkeypatch.setattr(bench.desk.batches, "renew", cancelling)
    assert tender.turn()
    while bench.status(batch_id) not in (BatchStatus.COMPLETED, BatchStatus.CANCELLED):
        finish_jobs(bench.desk)
        assert tender.turn()
    told = {one["custom_id"]: (one["error"] or {}).get("code") for one in bench.results(batch_id)}
    names = [one["custom_id"] for one in bench.results(batch_id)]
    assert sorted(map(str, names)) == ["None"] * 3 + ["l0", "l1", "l2", "l3", "l9"]
    assert told["l0"] == ("batch_cancelled" if cancelled else None)
    record = bench.desk.redis.hgetall(queues.batch_key(batch_id))
    assert b"nameless" not in record


@pytest.mark.parametrize(
    ("models", "model"),
    [(["m", "m", None], "m"), (["m", "n", "m"], None), ([None, 7, "x" * 257], None), (["ü\ud800"], "ü\ud800")],
)
def test_a_batch_has_the_model_that_all_its_lines_ask_for(bench: Bench, models: list[Any], model: str | None) -> None:
    """Lines that name none say nothing; it is known once the file was looked through."""
    content = [line(f"l{number}", "hi", model=one) for number, one in enumerate(models)]
    batch_id = bench.start(jsonl(content))
    assert bench.desk.batches.get(batch_id, "ann").model is None
    assert bench.tender().turn()
    assert bench.desk.batches.get(batch_id, "ann").model == model


def test_who_has_lost_a_batch_removes_nothing_that_counts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is fenced after its part is in the books leaves the part; another ends the batch with it."""
    batch_id, first = bench.start(lines(4)), bench.tender()
    assert first.turn()
    finish_jobs(bench.desk)

    def fenced(*_: Any) -> Any:
        raise Fenced

    with monkeypatch.context() as patch:
        patch.setattr(bench.desk.batches, "renew", fenced)
        assert first.turn()
    assert len(bench.parts(batch_id)) == 1
    # Nor when it is fenced from another batch, later.
    other = bench.start(lines(1))
    with monkeypatch.context() as patch:
        patch.setattr(bench.desk.batches, "begin", fenced)
        assert first.turn()
    assert len(bench.parts(batch_id)) == 1
    bench.desk.redis.zadd(queues.BATCH_DUE, {batch_id: 1, other: 2})
    assert bench.tender().turn()
    assert bench.status(batch_id) is BatchStatus.COMPLETED
    assert len(bench.output(batch_id)) == 4


def test_a_part_that_is_not_in_the_books_is_removed_by_who_is_fenced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other may have ended the batch: nobody would look for it again."""
    batch_id, tender = bench.start(lines(4)), bench.tender()
    assert tender.turn()
    finish_jobs(bench.desk)

    def fenced(*_: Any, **__: Any) -> Any:
        raise Fenced

    monkeypatch.setattr(bench.desk.batches, "part_written", fenced)
    assert tender.turn()
    assert bench.parts(batch_id) == []


def test_results_that_somebody_has_taken_away_end_the_batch(bench: Bench) -> None:
    """It fails and says so, rather than to try for ever."""
    batch_id, tender = bench.start(lines(6)), bench.tender()
    assert tender.turn()
    finish_jobs(bench.desk)
    assert tender.turn()
    for key in bench.parts(batch_id):
        bench.desk.files.storage.delete(key)
    finish_jobs(bench.desk)
    while tender.turn():
        pass
    batch = bench.desk.batches.get(batch_id, "ann")
    assert (batch.status, batch.errors[0]["code"]) == (BatchStatus.FAILED, "results_lost")


def test_what_cannot_be_finished_leaves_nothing_behind(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that takes the one file and not the other is not filled with copies of the first, try by try."""
    batch_id, tender = bench.start(lines(1) + b"broken\n"), bench.tender()
    storage = bench.desk.files.storage
    write, begun = storage.writer, list[str]()

    def full(key: str) -> Any:
        begun.append(key)
        if key.startswith("files/") and sum(one.startswith("files/") for one in begun) % 2 == 0:
            raise StorageUnavailable("The file storage is full.")
        return write(key)

    assert tender.turn()
    finish_jobs(bench.desk)
    before = set(storage.keys("files"))
    with monkeypatch.context() as patch:
        patch.setattr(storage, "writer", full)
        for _ in range(3):
            bench.desk.redis.zadd(queues.BATCH_DUE, {batch_id: 1})
            assert tender.turn()
    assert sum(key.startswith("files/") for key in begun) == 6
    assert set(storage.keys("files")) == before
    assert bench.status(batch_id) is BatchStatus.FINALIZING
    bench.desk.redis.zadd(queues.BATCH_DUE, {batch_id: 1})
    assert tender.turn()
    assert bench.status(batch_id) is BatchStatus.COMPLETED
    assert len(bench.results(batch_id)) == 2


@pytest.mark.parametrize(
    ("error", "kept"),
    [(Fenced, 0), (StoreUnavailable("No reply."), 1), (GreenletExit, 1)],
    ids=["no", "unknown", "cut"],
)
def test_files_go_only_if_they_are_certainly_nobodys(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Any, kept: int
) -> None:
    """A batch whose end had no reply may have ended, and then they are its results."""
    batch_id, tender = bench.start(lines(1)), bench.tender()
    assert tender.turn()
    finish_jobs(bench.desk)
    before = set(bench.desk.files.storage.keys("files"))

    def end(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch, contextlib.suppress(GreenletExit):
        patch.setattr(bench.desk.batches, "end", end)
        tender.turn()
    assert bench.status(batch_id) is BatchStatus.FINALIZING
    assert len(set(bench.desk.files.storage.keys("files")) - before) == kept


def test_parts_outlive_their_batch_for_a_day(bench: Bench) -> None:
    """A Redis that goes back in time, to a backup or by a failover, has a batch that needs them again."""
    batch_id, tender = bench.start(lines(2)), bench.tender()
    assert tender.turn()
    finish_jobs(bench.desk)
    assert tender.turn()
    assert bench.status(batch_id) is BatchStatus.COMPLETED
    bench.desk.files.purge_expired()
    assert len(bench.parts(batch_id)) == 1
    due = bench.desk.redis.zscore(queues.GARBAGE, f"batches/{batch_id}/")
    assert due == pytest.approx((time.time() + 24 * 3600) * 1000, abs=60_000)
    bench.desk.redis.zadd(queues.GARBAGE, {f"batches/{batch_id}/": 1})
    bench.desk.files.purge_expired()
    assert bench.parts(batch_id) == []


def test_a_worker_that_stops_in_mid_step_lets_go(bench: Bench) -> None:
    """Another one need not wait for the lease to run out."""

    def ended() -> None:
        raise GreenletExit

    batch_id = bench.start(lines(4))
    with pytest.raises(GreenletExit):
        bench.tender(breathe=ended).turn()
    assert bench.status(batch_id) is BatchStatus.VALIDATING
    assert bench.tender().turn()
    assert bench.status(batch_id) is BatchStatus.IN_PROGRESS


def test_a_great_many_blank_lines_hold_nobody_up(bench: Bench) -> None:
    """Others have their turn while nothing but them is read."""
    batch_id = bench.start(b"\n" * 1_000_000)
    assert bench.tender().turn()
    assert bench.status(batch_id) is BatchStatus.FAILED
    assert bench.breaths >= 1_000_000 // (16 * 1024)


def test_a_file_that_ends_too_soon_keeps_no_batch_for_ever(bench: Bench) -> None:
    """What is left of it cannot be told by name, but it is told of: the counts add up, and the batch ends."""
    batch_id, tender = bench.start(lines(6)), bench.tender()
    assert tender.turn()
    batch = bench.desk.batches.get(batch_id, "ann")
    with bench.desk.files.storage.writer(batch.input_content) as sink:
        sink.write(lines(4))
    finish_jobs(bench.desk)
    bench.desk.batches.cancel(batch_id, "ann")
    assert tender.turn()
    batch = bench.desk.batches.get(batch_id, "ann")
    assert (batch.status, batch.completed, batch.failed) == (BatchStatus.CANCELLED, 4, 2)


ENDINGS = {"cancelled": "batch_cancelled", "expired": "batch_expired"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_batch_that_is_ended_before_it_was_looked_at_tells_of_every_line(bench: Bench, ending: str) -> None:
    """Its file is looked through all the same, so that each line stands in the error file by its name."""
    batch_id = bench.start(lines(6), window=0 if ending == "expired" else 3600)
    if ending == "cancelled":
        bench.desk.batches.cancel(batch_id, "ann")
    assert bench.tender().turn()
    batch = bench.desk.batches.get(batch_id, "ann")
    assert (batch.status, batch.total, batch.completed, batch.failed) == (ending, 6, 0, 6)
    assert bench.errors(batch_id) == [(f"l{number}", ENDINGS[ending]) for number in range(6)]
    assert bench.desk.backlog == 0


def test_a_batch_that_is_cancelled_while_it_is_looked_through_tells_of_every_line(bench: Bench) -> None:
    """The looking goes on, and then nothing of it is fed."""
    batch_id, tender = bench.start(lines(20)), bench.tender()
    tender.breathe = lambda: bench.desk.batches.cancel(batch_id, "ann") if not bench.parts(batch_id) else None
    assert tender.turn()
    assert bench.status(batch_id) is BatchStatus.CANCELLED
    assert len(bench.errors(batch_id)) == 20
    assert bench.desk.redis.get("promptq:seq") is None, "no line has become a job"


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_that_cannot_be_used_says_so_although_the_batch_is_ended(bench: Bench, ending: str) -> None:
    """Nobody can say what its lines are called; the batch ends as it was told to, with what is wrong."""
    batch_id = bench.start(lines(2) + lines(1), window=0 if ending == "expired" else 3600)
    if ending == "cancelled":
        bench.desk.batches.cancel(batch_id, "ann")
    assert bench.tender().turn()
    batch = bench.desk.batches.get(batch_id, "ann")
    assert (batch.status, batch.errors[0]["code"]) == (ending, "duplicate_custom_id")


def test_a_file_that_expires_while_its_batch_runs_is_read_to_its_end(bench: Bench) -> None:
    """Its record is gone and its content is there, until the batch has ended."""
    batch_id, tender = bench.start(lines(12)), bench.tender()
    assert tender.turn()
    batch = bench.desk.batches.get(batch_id, "ann")
    assert batch.fed < batch.total
    bench.desk.expire(batch.input_file_id)
    while bench.status(batch_id) is not BatchStatus.COMPLETED:
        bench.desk.files.purge_expired()
        finish_jobs(bench.desk)
        assert tender.turn()
    assert len(bench.output(batch_id)) == 12
    bench.desk.files.purge_expired()
    left = list(bench.desk.files.storage.keys("files"))
    assert left == [bench.desk.files.get(str(bench.desk.batches.get(batch_id, "ann").output_file_id), "ann").content]


# --- Bounded by bytes, and by turns ----------------------------------------------------------------------------------


def waiting(bench: Bench) -> list[str]:
    return [one.decode() for one in bench.desk.redis.zrange(queues.waiting_key(queues.BULK), 0, -1)]


def test_a_batch_of_large_lines_is_fed_by_their_bytes(wide: Bench) -> None:
    """Far fewer of them than its window are jobs at once, whoever they wait for; it is fed again as they end."""
    batch_id, tender = wide.start(lines(200, "x" * 5000)), wide.tender()
    assert tender.turn()
    load = wide.load(batch_id)
    assert 90_000 < load.alive_bytes < 110_000
    assert not tender.turn()
    most = 0
    while wide.status(batch_id) is not BatchStatus.COMPLETED:
        finish_jobs(wide.desk, only=waiting(wide)[:7])
        tender.turn()
        check_batches(wide.desk.redis)
        most = max(most, wide.load(batch_id).all_bytes)
    assert most < 110_000
    assert len(wide.output(batch_id)) == 200
    assert wide.desk.redis.get(queues.BATCH_BYTES) == b"0"


def test_large_results_are_written_before_more_is_fed(wide: Bench) -> None:
    """And what is to be expected of a line counts for it: as many are fed as there is room for what they bring."""
    batch_id, tender = wide.start(lines(300)), wide.tender()
    assert tender.turn()
    assert wide.load(batch_id).alive == 300
    second = wide.start(lines(300))
    result = b'{"a":"' + b"x" * 5000 + b'"}'
    finish_jobs(wide.desk, only=waiting(wide)[:4], result=result)
    finish_jobs(wide.desk, only=waiting(wide)[:1], result=result)
    while tender.turn():
        pass
    assert len(wide.parts(batch_id)) == 1, "25,000 bytes are worth a part"
    assert wide.load(batch_id).ended_bytes == 0
    most = 0
    while {wide.status(batch_id), wide.status(second)} != {BatchStatus.COMPLETED}:
        finish_jobs(wide.desk, only=waiting(wide)[:7], result=result)
        while tender.turn():
            pass
        check_batches(wide.desk.redis)
        most = max(most, wide.load(batch_id).all_bytes)
    assert most < 200_000
    assert len(wide.output(batch_id)) == len(wide.output(second)) == 300


def test_a_batch_of_embeddings_begins_with_a_few(wide: Bench) -> None:
    """Nobody can say how much a line will bring, until the first have been answered."""
    body = {"model": "sim", "input": "hi"}
    content = jsonl(line(f"l{number}", "", url=EMBEDDINGS, body=body) for number in range(300))
    batch_id, tender = wide.start(content, endpoint=EMBEDDINGS), wide.tender()
    assert tender.turn()
    assert wide.load(batch_id).alive == 50
    finish_jobs(wide.desk, result=b"x" * 2000)
    assert tender.turn()
    assert 40 <= wide.load(batch_id).alive <= 50, "2,000 bytes each, and what they ask"


def test_a_batch_that_others_leave_no_room_is_fed_a_little(wide: Bench) -> None:
    """It is looked at again soon, and none waits for good."""
    wide.desk.redis.set(queues.BATCH_BYTES, 400_000)
    batch_id, tender = wide.start(lines(120)), wide.tender()
    assert tender.turn()
    assert wide.load(batch_id).alive == 50
    (due,) = (score for _, score in wide.desk.redis.zrange(queues.BATCH_DUE, 0, -1, withscores=True))
    assert due / 1000 < wide.desk.redis.time()[0] + 3
    finish_jobs(wide.desk)
    assert tender.turn()
    assert wide.load(batch_id).alive == 50
    wide.desk.redis.set(queues.BATCH_BYTES, 100_000)
    finish_jobs(wide.desk)
    while tender.turn():
        pass
    assert wide.load(batch_id).alive == 20


def slow_clock() -> Callable[[], float]:
    """A clock by which each step takes a second and a half."""
    return functools.partial(next, itertools.count(1.5, 1.5))


def test_two_batches_at_once_take_turns(wide: Bench) -> None:
    """A worker lets go of the one after a while, and is at the other, although the first could go on for long."""
    first, second = wide.start(lines(400)), wide.start(lines(400))
    tender = wide.tender(monotonic=slow_clock())
    fed: list[tuple[int, int]] = []
    for _ in range(8):
        assert tender.turn()
        loads = wide.load(first), wide.load(second)
        fed.append((loads[0].alive, loads[1].alive))
    assert fed[0][1] == 0
    assert fed[1][1] > 0
    assert 0 < fed[2][0] < 400
    assert fed[-1] > fed[2], "each goes on where it was"
    while {wide.status(first), wide.status(second)} != {BatchStatus.COMPLETED}:
        finish_jobs(wide.desk)
        tender.turn()
    assert [len(wide.output(batch_id)) for batch_id in (first, second)] == [400, 400]


def test_a_batch_that_is_cancelled_is_ended_while_another_is_fed(wide: Bench) -> None:
    """It waits for one turn of the other, not for its end."""
    first, second = wide.start(lines(1000)), wide.start(lines(10))
    tender = wide.tender(monotonic=slow_clock())
    assert tender.turn()
    wide.desk.batches.cancel(second, "ann")
    while wide.status(second) is not BatchStatus.CANCELLED:
        assert tender.turn()
    batch = wide.desk.batches.get(first, "ann")
    assert batch.fed < 1000
    assert len(wide.errors(second)) == 10
