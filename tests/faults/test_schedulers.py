"""No scheduler, a new one, and two at once."""

from __future__ import annotations

from itertools import pairwise

from jobs import queues
from tests.faults.room import Room
from tests.faults.submitting import orders
from tests.integration.driving import read
from tests.processes import eventually

#: Every retry goes through the scheduler.
NO_SLOT_KEPT = {"PROMPTQ_RETRY_IN_SLOT": "0"}


def test_a_new_scheduler_finds_what_the_killed_one_left(room: Room) -> None:
    """kill -9 of the scheduler while retries are scheduled and leases are lost: nothing moves until there is another,
    and then all complete, with one more call each."""
    flaky, slow = orders(3, model="sim-flaky-1"), orders(3, model="sim-slow-1")
    room.cluster.start_worker("w1", **NO_SLOT_KEPT)
    # Frozen, it leaves for its successor what happens now, and is killed with all that to do.
    room.cluster.parts["scheduler"].freeze()
    retried = room.submitter.must(flaky)
    eventually(lambda: room.store.zcard(queues.SCHEDULED), lambda count: count == 3)
    lost = room.submitter.must(slow)
    room.in_flight(3)
    room.cluster.parts["w1"].kill()
    room.cluster.parts["scheduler"].kill()
    room.cluster.start_worker("w2", **NO_SLOT_KEPT)
    assert room.states(retried) == ["queued"] * 3
    assert room.states(lost) == ["in_progress"] * 3
    room.cluster.start_scheduler()
    room.conclude()
    assert room.calls([*flaky, *slow]) == [2] * 6
    assert room.numbers([*retried, *lost], "attempt") == [2, 2, 2, 1, 1, 1]
    assert room.numbers([*retried, *lost], "strikes") == [0, 0, 0, 1, 1, 1]


def test_two_schedulers_do_nothing_twice(room: Room) -> None:
    """Two schedulers, scheduled retries, a worker killed in a burst: each job ends once, no call is unexplained."""
    flaky, slow = orders(40, model="sim-flaky-1"), orders(20, model="sim-slow-0.7")
    waits = [room.cluster.start_scheduler("scheduler-2", wait=False)]
    waits += [room.cluster.start_worker(name, wait=False, **NO_SLOT_KEPT) for name in ("w1", "w2")]
    for wait in waits:
        wait()
    slow_ids = room.submitter.must(slow)
    flaky_ids = room.submitter.must(flaky)
    eventually(lambda: any(read(room.client, job_id)["status"] == "completed" for job_id in flaky_ids))
    room.cluster.parts["w1"].kill()
    room.conclude()
    job_ids = [*slow_ids, *flaky_ids]
    tries = zip(*(room.numbers(job_ids, name) for name in ("attempt", "strikes")), [1] * 20 + [2] * 40, strict=True)
    for (attempt, strikes, needed), calls in zip(tries, room.calls([*slow, *flaky]), strict=True):
        assert strikes in (0, 1), "one worker died once"
        # A worker that dies after its call and before it says so takes the attempt with it, not what was paid.
        assert needed - strikes <= attempt <= needed
        assert needed <= calls <= attempt + strikes


def test_a_retry_after_is_kept_to_by_the_scheduler(room: Room) -> None:
    """A job that the LLM told to come back in a second waits for that in ``scheduled``, out of the backlog."""
    wanted = orders(1, model="sim-429-retry-after", good=False)
    room.cluster.start_worker("w1", **NO_SLOT_KEPT)
    (job_id,) = room.submitter.must(wanted)
    eventually(lambda: room.store.zscore(queues.SCHEDULED, job_id))
    assert room.store.zcard(queues.backlog_key("default")) == 0
    room.conclude()
    tries = read(room.client, job_id)["attempts"]
    pauses = [later["started_at"] - one["ended_at"] for one, later in pairwise(tries)]
    assert len(pauses) == 2
    # The times are rounded to milliseconds.
    assert min(pauses) >= 0.998
    assert room.calls(wanted) == [3]
