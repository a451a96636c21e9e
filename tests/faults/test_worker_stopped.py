"""A worker is asked to stop while it has much to do."""

from __future__ import annotations

from tests.faults.room import Room
from tests.faults.submitting import orders
from tests.processes import eventually


def test_a_stopped_worker_hands_back_what_it_cannot_finish(room: Room) -> None:
    """SIGTERM in a burst: exit code 0, no attempt or strike for what was handed back; another worker completes it."""
    wanted = orders(60, model="sim-slow-2")
    room.cluster.start_worker("w1", PROMPTQ_GRACE_SECONDS="0.3")
    job_ids = room.submitter.must(wanted)
    room.in_flight(20)
    assert room.cluster.parts["w1"].stop() == 0
    aborted = eventually(lambda: room.cluster.stats()["aborted"])
    assert room.states(job_ids) == ["queued"] * 60
    assert room.numbers(job_ids, "attempt") == [0] * 60
    room.cluster.start_worker("w2", PROMPTQ_CONCURRENCY="60")
    room.conclude()
    assert room.numbers(job_ids, "attempt") == [1] * 60
    assert room.numbers(job_ids, "strikes") == [0] * 60
    # What was handed back in its call is paid for again: nothing else is.
    assert sum(room.calls(wanted)) == 60 + aborted
    assert aborted == 20


def test_a_stopped_worker_finishes_what_it_can(room: Room) -> None:
    """SIGTERM with calls that end within the grace: exit code 0, they complete, and no call is made twice."""
    wanted = orders(40, model="sim-slow-1")
    room.cluster.start_worker("w1", PROMPTQ_GRACE_SECONDS="10")
    room.submitter.must(wanted)
    room.in_flight(20)
    room.cluster.parts["w1"].terminate()
    room.cluster.start_worker("w2", PROMPTQ_CONCURRENCY="40")
    assert room.cluster.parts["w1"].died() == 0
    room.conclude()
    assert room.calls(wanted) == [1] * 40
