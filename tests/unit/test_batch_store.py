"""The books of a batch: each step once, by whoever has the batch, and what KEDA counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from jobs import queues
from jobs.batch_lines import BadLine
from jobs.batch_store import BatchRules, BatchStore, Fenced, HeldBatch
from jobs.batch_usage import BatchUsage
from jobs.batches import BatchStatus, NewBatch
from jobs.broker import MessageMaker
from jobs.errors import IdempotencyConflict, NotFound, StoreFull
from jobs.files import new_content
from jobs.model import CHAT_COMPLETIONS, Claim, JobStatus, Outcome
from jobs.redis_clients import worker_client
from jobs.scripts import BATCH_ENDINGS
from jobs.settings import Settings
from tests.processes import eventually, redis_server
from tests.unit.desk import BODY, Desk, a_line, finish_jobs
from tests.unit.making import check_batches, check_invariants


@pytest.fixture
def desk(redis_client: redis.Redis, redis_url: str, messages: MessageMaker, tmp_path: Path) -> Iterator[Desk]:
    client = worker_client(Settings(redis_url=redis_url))
    yield Desk(client, messages, tmp_path)
    client.close()


def test_the_backlog_is_what_is_left_to_do(desk: Desk) -> None:
    """One for the batch, one for each line that is no job yet; the jobs are in the backlog of bulk."""
    assert desk.backlog == 0
    held = desk.make()
    assert desk.backlog == 1
    desk.batches.begin(held, 3)
    assert desk.backlog == 4
    held = desk.batches.renew(held)
    assert desk.batches.feed(held, [a_line(1), a_line(2)], offset=10, number=2)
    assert (desk.backlog, desk.redis.zcard(queues.backlog_key(queues.BULK))) == (2, 2)
    held = desk.batches.renew(held)
    assert desk.batches.feed(held, [a_line(3)], offset=15, number=3)
    finish_jobs(desk)
    held = desk.batches.renew(held)
    members = [line.member for line in desk.batches.ended_lines(held.batch, 10)]
    desk.batches.part_written(held, "p:3:0", members)
    assert desk.batches.finalize(held) == ["p:3:0"]
    assert desk.backlog == 1
    desk.batches.end(held, BatchStatus.COMPLETED, {"out": (desk.files.reserve(), 7)})
    assert desk.backlog == 0
    batch = desk.batches.get(held.batch.id, "ann")
    assert (batch.status, batch.completed, batch.failed, batch.total) == (BatchStatus.COMPLETED, 3, 0, 3)
    assert desk.files.get(str(batch.output_file_id), "ann").size == 7
    assert check_invariants(desk.redis) == {}


def test_a_batch_that_has_ended_is_nobodys_work(desk: Desk) -> None:
    """Whatever has left it due."""
    held = desk.make()
    desk.batches.fail(held, [])
    desk.redis.zadd(queues.BATCH_DUE, {held.batch.id: 0})
    assert desk.batches.claim() is None
    assert desk.redis.zcard(queues.BATCH_DUE) == 0


def test_a_paused_bulk_keeps_no_worker_for_a_batch(desk: Desk) -> None:
    """What is left of its batches is put aside, too, whatever happens to them meanwhile."""
    held = desk.begun(5)
    desk.jobs.queues.pause("bulk")
    assert desk.backlog == 0
    desk.batches.feed(held, [a_line(1)], offset=5, number=1)
    second = desk.make()
    assert desk.backlog == 0
    desk.jobs.queues.resume("bulk")
    assert desk.backlog == 1 + 4 + 1
    desk.batches.fail(second, [])
    assert desk.backlog == 5


def test_each_step_counts_once(desk: Desk) -> None:
    """Redis may have done what it gave no answer to: the same step again changes nothing."""
    held = desk.begun(4)
    desk.batches.begin(held, 4)
    for _ in range(2):
        assert desk.batches.feed(held, [a_line(1), BadLine(2, "c2", "code", "why")], offset=10, number=2)
    assert desk.backlog == 3
    held = desk.batches.renew(held)
    assert (held.batch.fed, held.batch.offset, held.batch.line, held.batch.failed) == (2, 10, 2, 1)
    finish_jobs(desk)
    lines = list(desk.batches.ended_lines(held.batch, 10))
    assert [(line.custom_id, line.status) for line in lines] == [("c1", "completed"), ("c2", "failed")]
    for _ in range(2):
        desk.batches.part_written(held, "a", [line.member for line in lines], usage=BatchUsage(5, 4, 3, 2, 8))
        desk.batches.part_written(held, "b", [], skipped=2, offset=20, number=4)
    assert desk.batches.finalize(desk.batches.renew(held)) == ["a", "b"]
    # However late: another has the batch by then.
    desk.redis.hset(queues.batch_key(held.batch.id), "claim", "another")
    desk.batches.part_written(held, "a", [], usage=BatchUsage(1, 1, 1, 1, 1))
    desk.redis.hset(queues.batch_key(held.batch.id), "claim", held.claim_id)
    assert desk.redis.exists(queues.job_key(lines[0].member)) == 0
    for _ in range(2):
        desk.batches.end(held, BatchStatus.COMPLETED, {})
    batch = desk.batches.get(held.batch.id, "ann")
    assert (batch.completed, batch.failed, batch.total) == (1, 3, 4)
    assert batch.usage == BatchUsage(5, 4, 3, 2, 8)
    assert desk.backlog == 0


STEPS: dict[str, Callable[[BatchStore, HeldBatch], Any]] = {
    "renew": lambda store, held: store.renew(held),
    "begin": lambda store, held: store.begin(held, 3),
    "fail": lambda store, held: store.fail(held, []),
    "feed": lambda store, held: store.feed(held, [a_line(1)], offset=1, number=1),
    "part_written": lambda store, held: store.part_written(held, "p", []),
    "close": lambda store, held: store.close(held, {}),
    "finalize": lambda store, held: store.finalize(held),
    "end": lambda store, held: store.end(held, BatchStatus.COMPLETED, {}),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_that_has_lost_the_batch_changes_nothing(desk: Desk, step: str) -> None:
    """Its lease ran out and another has the batch: whatever it does is refused."""
    held = desk.begun()
    assert desk.batches.claim() is None
    desk.redis.zadd(queues.BATCH_DUE, {held.batch.id: 1})
    other = desk.batches.claim()
    assert other is not None
    with pytest.raises(Fenced):
        STEPS[step](desk.batches, held)
    desk.batches.release(held)
    assert desk.batches.renew(other).batch.status is BatchStatus.IN_PROGRESS
    assert desk.batches.claim() is None


def test_a_batch_that_was_let_go_comes_back_when_something_happens(desk: Desk) -> None:
    """Cancelled, or when enough of its jobs have ended; also if that was while it was held."""
    held = desk.begun()
    desk.batches.release(held)
    assert desk.batches.claim() is None
    desk.batches.cancel(held.batch.id, "ann")
    again = desk.batches.claim()
    assert again is not None
    assert (again.batch.status, again.batch.ending) == (BatchStatus.CANCELLING, "cancelled")
    other = desk.begun(1)
    assert desk.batches.feed(other, [a_line(1)], offset=1, number=1)
    finish_jobs(desk)
    assert desk.batches.claim() is None
    desk.batches.release(other)
    woken = desk.batches.claim()
    assert woken is not None
    assert woken.batch.id == other.batch.id


def test_a_batch_that_is_due_keeps_its_place(desk: Desk) -> None:
    """Whatever happens to it meanwhile: others that became due later come later."""
    first, second = desk.begun(2), desk.begun(2)
    assert desk.batches.feed(first, [a_line(1), a_line(2)], offset=1, number=2)
    desk.batches.release(first, due_in=0)
    desk.batches.release(second, due_in=0.001)
    finish_jobs(desk)
    claimed = eventually(desk.batches.claim)
    assert claimed.batch.id == first.batch.id


def test_a_batch_is_told_as_it_was_made_without_asking_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its maker's answer depends on one step: a Redis that goes away behind it leaves no doubt about the batch."""
    file_id, content = desk.upload()
    new = NewBatch(
        "ann", CHAT_COMPLETIONS, file_id, content, "60s", 60, metadata={"a": "b"}, output_seconds=7, idempotency_key="k"
    )
    with monkeypatch.context() as patch:
        patch.setattr(desk.batches, "get", None)
        made = desk.batches.create(new)
    assert made == desk.batches.get(made.id, "ann")
    assert desk.batches.create(new) == made


def test_a_full_redis_knows_which_batch_a_key_has_made(tmp_path: Path, messages: MessageMaker) -> None:
    """Who repeats a request does not hear that nothing was made; and what was accepted comes to its end."""
    with redis_server(tmp_path / "redis") as url:
        client = worker_client(Settings(redis_url=url))
        desk = Desk(client, messages, tmp_path)
        file_id, content = desk.upload()
        new = NewBatch("ann", CHAT_COMPLETIONS, file_id, content, "60s", 60, idempotency_key="k")
        made = desk.batches.create(new)
        client.config_set("maxmemory", 1)
        assert desk.batches.create(new) == made
        with pytest.raises(IdempotencyConflict):
            desk.batches.create(replace(new, fingerprint="other"))
        for another in (replace(new, idempotency_key="other"), replace(new, idempotency_key=None)):
            with pytest.raises(StoreFull):
                desk.batches.create(another)
        held = desk.batches.claim()
        assert held is not None
        desk.batches.begin(held, 0)
        contents = [new_content(), new_content()]
        assert desk.batches.finalize(held, contents) == []
        assert {content.decode() for content in client.zrange(queues.GARBAGE, 0, -1)} > set(contents)
        desk.batches.end(held, BatchStatus.COMPLETED, {"out": (contents[0], 0)})
        assert desk.batches.get(made.id, "ann").status is BatchStatus.COMPLETED
        client.close()


def test_lines_that_went_into_anothers_part_meanwhile_are_nobodys_here(desk: Desk) -> None:
    """Who reads on after its claim is lost is fenced, and does not stumble over what is gone."""
    held = desk.begun(2)
    assert desk.batches.feed(held, [a_line(1), BadLine(2, None, "bad", "It is bad.")], offset=1, number=2)
    finish_jobs(desk)
    ended = f"{queues.batch_key(held.batch.id)}:ended"
    (job_id,) = (member.decode() for member in desk.redis.zrange(ended, 0, -1) if not member.startswith(b"bad:"))
    for gone in (queues.job_key(job_id), f"{queues.batch_key(held.batch.id)}:bad"):
        desk.redis.delete(gone)
        with pytest.raises(Fenced):
            list(desk.batches.ended_lines(held.batch, 10))
        desk.redis.zrem(ended, job_id)


def test_a_batch_whose_time_is_over_is_told_so(desk: Desk) -> None:
    """It is due then, whatever it waits for."""
    file_id, content = desk.upload()
    batch_id = desk.batches.create(NewBatch("ann", CHAT_COMPLETIONS, file_id, content, "0s", 0)).id
    held = desk.batches.claim()
    assert held is not None
    assert (held.batch.id, held.batch.ending) == (batch_id, "expired")


def test_a_batch_that_is_done_is_not_too_late(desk: Desk) -> None:
    """Its time is over while its files are put together, or when nothing but that is left: it is completed."""
    held = desk.begun(1)
    desk.batches.feed(held, [a_line(1)], offset=1, number=1)
    (job_id,) = desk.redis.zrange(queues.waiting_key(queues.BULK), 0, -1)
    claim = desk.jobs.claim(job_id.decode(), "k", lease_seconds=9, worker="w")
    assert isinstance(claim, Claim)
    desk.redis.hset(queues.batch_key(held.batch.id), "expires_at", 1)
    assert desk.batches.renew(held).batch.ending == "expired"
    desk.redis.hdel(queues.batch_key(held.batch.id), "ending")
    assert desk.jobs.complete(claim, Outcome(JobStatus.COMPLETED, b"{}")) == "done"
    assert desk.batches.renew(held).batch.ending is None


@pytest.mark.parametrize("ending", BATCH_ENDINGS)
def test_no_line_is_begun_of_a_batch_that_is_being_ended(desk: Desk, ending: str) -> None:
    """Also before a worker has looked at the batch: what waits is ended by whoever would run it; what runs may end."""
    held = desk.begun(3)
    desk.batches.feed(held, [a_line(1), a_line(2)], offset=1, number=2)
    desk.batches.release(held)
    running, waiting = (one.decode() for one in desk.redis.zrange(queues.waiting_key(queues.BULK), 0, -1))
    claim = desk.jobs.claim(running, "k1", lease_seconds=9, worker="w")
    assert isinstance(claim, Claim)
    if ending == "cancelled":
        desk.batches.cancel(held.batch.id, "ann")
    else:
        desk.redis.hset(queues.batch_key(held.batch.id), "expires_at", 1)
        desk.redis.zadd(queues.BATCH_DUE, {held.batch.id: 1})
    assert desk.jobs.claim(waiting, "k2", lease_seconds=9, worker="w") == "over"
    assert desk.jobs.claim(waiting, "k2", lease_seconds=9, worker="w") == "ended"
    assert isinstance(desk.jobs.claim(running, "k1", lease_seconds=9, worker="w"), Claim), "the reply was lost"
    assert desk.jobs.complete(claim, Outcome(JobStatus.COMPLETED, b"{}")) == "done"
    again = desk.batches.claim()
    assert again is not None
    assert (again.batch.ending, again.batch.completed, again.batch.failed) == (ending, 1, 1)
    ended = {line.custom_id: line.error for line in desk.batches.ended_lines(again.batch, 10)}
    assert ended == {"c1": None, "c2": BATCH_ENDINGS[ending]}


def test_a_batch_that_was_cancelled_ends_so_although_its_file_is_bad(desk: Desk) -> None:
    """Who has cancelled it is not told of another end."""
    held = desk.make()
    desk.batches.cancel(held.batch.id, "ann")
    desk.batches.fail(held, [{"code": "c", "message": "m", "line": 1, "param": None}])
    assert desk.batches.get(held.batch.id, "ann").status is BatchStatus.CANCELLED


def test_a_line_is_nobodys_job(desk: Desk) -> None:
    """It is not looked up, listed, a dead letter, cancelled, deleted or retried; its end is told to the batch alone."""
    held = desk.begun(1)
    desk.batches.feed(held, [a_line(1)], offset=1, number=1)
    (job_id,) = desk.redis.zrange(queues.waiting_key(queues.BULK), 0, -1)
    with pytest.raises(NotFound):
        desk.jobs.get(job_id.decode(), "ann", unstored=True)
    with pytest.raises(NotFound):
        desk.jobs.cancel(job_id.decode(), "ann", unstored=True)
    finish_jobs(desk, JobStatus.FAILED)
    with pytest.raises(NotFound):
        desk.jobs.get(job_id.decode(), "ann")
    with pytest.raises(NotFound):
        desk.jobs.cancel(job_id.decode(), "ann")
    with pytest.raises(NotFound):
        desk.jobs.list("ann", after=job_id.decode())
    assert desk.jobs.list("ann").jobs == []
    assert desk.jobs.dead_letters("ann").jobs == []
    with pytest.raises(NotFound):
        desk.jobs.delete(job_id.decode(), "ann")
    with pytest.raises(NotFound):
        desk.jobs.resubmit(job_id.decode(), "ann")
    assert desk.redis.pttl(queues.job_key(job_id.decode())) == -1, "it is kept until it stands in a part"


def test_a_file_that_a_batch_needs_outlives_its_record(desk: Desk) -> None:
    """Deleted, its content stays until the batch has ended, and goes then."""
    held = desk.begun()
    desk.files.delete(held.batch.input_file_id, "ann")
    desk.files.purge_expired()
    assert b"".join(desk.files.storage.read(held.batch.input_content)) == b"line\n"
    desk.batches.end(held, BatchStatus.COMPLETED, {})
    desk.files.purge_expired()
    assert list(desk.files.storage.keys("files")) == []


def test_a_file_that_expires_while_a_batch_needs_it(desk: Desk) -> None:
    """Its content stays until the last batch has ended that needs it, and goes then."""
    upload = desk.upload()
    first, second = desk.make(upload=upload), desk.make(upload=upload)
    desk.expire(upload[0])
    for held in (first, second):
        desk.files.purge_expired()
        assert b"".join(desk.files.storage.read(upload[1])) == b"line\n"
        desk.batches.fail(held, [])
        desk.batches.fail(held, [])
    desk.files.purge_expired()
    assert list(desk.files.storage.keys("files")) == []


def test_a_file_that_expires_after_its_batch_has_ended(desk: Desk) -> None:
    """Its content goes with it, although it was to be kept for the batch for longer."""
    upload = desk.upload()
    held, other = desk.make(24 * 3600, upload), desk.make(upload=upload)
    expires = desk.files.get(upload[0], "ann").expires_at
    assert expires is not None
    kept = desk.redis.zscore(queues.GARBAGE, upload[1])
    assert kept is not None
    assert kept / 1000 > expires + 24 * 3600 - 60
    desk.batches.fail(held, [])
    assert desk.redis.zscore(queues.GARBAGE, upload[1]) == kept, "another batch needs it"
    desk.batches.fail(other, [])
    due = desk.redis.zscore(queues.GARBAGE, upload[1])
    assert due is not None
    assert due / 1000 == expires
    desk.files.purge_expired()
    assert b"".join(desk.files.storage.read(upload[1])) == b"line\n"
    desk.expire(upload[0])
    desk.files.purge_expired()
    assert list(desk.files.storage.keys("files")) == []


def test_a_file_that_is_kept_for_good_outlives_its_batch(desk: Desk) -> None:
    """Nothing of it is ever due for deletion."""
    upload = desk.upload(lifetime=None)
    desk.batches.fail(desk.make(upload=upload), [])
    assert desk.redis.zscore(queues.GARBAGE, upload[1]) is None
    desk.files.purge_expired()
    assert b"".join(desk.files.storage.read(upload[1])) == b"line\n"


def test_bytes_are_counted_as_they_come_and_go(desk: Desk) -> None:
    """A line takes what it asks until it has ended, and then what it has brought, until that stands in a part.

    A step that is repeated counts once.
    """
    held, other = desk.begun(4), desk.begun(1)
    check_batches(desk.redis)
    for _ in range(2):
        desk.batches.feed(held, [a_line(1), a_line(2), BadLine(3, "c3", "code", "why")], offset=10, number=3)
        desk.batches.feed(other, [a_line(1)], offset=10, number=1)
        check_batches(desk.redis)
    held = desk.batches.renew(held)
    load = desk.batches.load(held.batch)
    assert (load.alive, load.alive_bytes, load.ended, load.all_bytes) == (
        2,
        2 * len(BODY),
        1,
        3 * len(BODY) + load.ended_bytes,
    )
    bad = load.ended_bytes
    assert bad > 0
    for number, job_id in enumerate(desk.redis.zrange(queues.waiting_key(queues.BULK), 0, -1)):
        claim = desk.jobs.claim(job_id.decode(), "k", lease_seconds=9, worker="w")
        assert isinstance(claim, Claim)
        outcome = (
            Outcome(JobStatus.FAILED, error={"code": "c"}) if number else Outcome(JobStatus.COMPLETED, b"{}" * 500)
        )
        for _ in range(2):
            assert desk.jobs.complete(claim, outcome) == "done"
            check_batches(desk.redis)
    load = desk.batches.load(held.batch)
    assert (load.alive_bytes, load.ended_bytes) == (0, bad + 1000 + len('{"code": "c"}'))
    assert (load.answered, load.told, load.told_bytes) == (1, 3, load.ended_bytes - bad)
    for _ in range(2):
        members = [line.member for line in desk.batches.ended_lines(held.batch, 2, size=10**9)]
        desk.batches.part_written(held, "a", members)
        check_batches(desk.redis)
    desk.batches.cancel(held.batch.id, "ann")
    held = desk.batches.renew(held)
    assert desk.batches.close(held, BATCH_ENDINGS["cancelled"]) == 0
    desk.batches.part_written(held, "b", [], skipped=1, offset=20, number=4)
    desk.batches.part_written(held, "c", [line.member for line in desk.batches.ended_lines(held.batch, 9)])
    check_batches(desk.redis)
    assert desk.batches.finalize(held) is not None
    desk.batches.end(held, BatchStatus.CANCELLED, {})
    check_batches(desk.redis)
    desk.batches.part_written(other, "a", [line.member for line in desk.batches.ended_lines(other.batch, 9)])
    desk.batches.end(other, BatchStatus.COMPLETED, {})
    assert desk.redis.get(queues.BATCH_BYTES) == b"0"
    assert check_invariants(desk.redis) == {}


def test_a_batch_is_woken_when_half_of_what_there_was_room_for_has_ended(desk: Desk) -> None:
    """Also if that was far less than its window."""
    held = desk.begun(100)
    desk.redis.hset(queues.batch_key(held.batch.id), "window", 1000)
    desk.batches.feed(held, [a_line(1), a_line(2), a_line(3), a_line(4)], offset=1, number=4)
    desk.batches.release(held)
    job_ids = [one.decode() for one in desk.redis.zrange(queues.waiting_key(queues.BULK), 0, -1)]
    finish_jobs(desk, only=job_ids[:1])
    assert desk.batches.claim() is None
    finish_jobs(desk, only=job_ids[1:2])
    assert desk.batches.claim() is not None


def test_a_batch_is_woken_when_its_results_are_large(
    redis_client: redis.Redis, messages: MessageMaker, tmp_path: Path
) -> None:
    """However few lines they are of."""
    desk = Desk(redis_client, messages, tmp_path, BatchRules(window=1000, max_bytes=1600))
    held = desk.begun(4)
    desk.batches.feed(held, [a_line(1), a_line(2), a_line(3), a_line(4)], offset=1, number=4)
    desk.batches.release(held)
    job_ids = [one.decode() for one in desk.redis.zrange(queues.waiting_key(queues.BULK), 0, -1)]
    finish_jobs(desk, only=job_ids[:1], result=b"x" * 99)
    assert desk.batches.claim() is None
    finish_jobs(desk, only=job_ids[1:2], result=b"x")
    assert desk.batches.claim() is not None
