"""Redis has no memory left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jobs import queues
from tests.faults.room import Room
from tests.faults.submitting import Order, orders
from tests.processes import eventually


@contextmanager
def no_memory(room: Room) -> Iterator[None]:
    """Let Redis use more memory than it may."""
    # With a limit near to what is used, the moment's buffers would decide from one command to the next.
    room.store.config_set("maxmemory", 1)
    try:
        yield
    finally:
        room.store.config_set("maxmemory", 0)


def is_refused(room: Room, order: Order) -> None:
    """A submit gets the answer that says that nothing was made, and when to come again."""
    answer = room.client.post("/v1/jobs", json=order.body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_full"), answer.text
    assert int(answer.headers["Retry-After"]) >= 1
    assert room.submitter.submit(order) is None


def test_a_full_redis_refuses_submits_and_ends_what_runs(room: Room) -> None:
    """Without memory submits get a 503 ``store_full``, and running jobs keep their leases, are retried, cancelled and
    completed; once there is memory again, submits are accepted."""
    wanted = [*orders(5, model="sim-slow-3"), *orders(5, model="sim-flaky-1")]
    (doomed,), (refused,) = orders(1, model="sim-hang", good=False), orders(1)
    room.cluster.start_worker(PROMPTQ_CONCURRENCY="11")
    # The answers to the flaky ones come when memory is short already.
    room.cluster.set_latency(0.5)
    job_ids = room.submitter.must([*wanted, doomed])
    room.in_flight(11)
    with no_memory(room):
        is_refused(room, refused)
        assert room.client.post(f"/v1/jobs/{job_ids[-1]}/cancel").json()["status"] == "cancelled"
        room.submitter.see_the_end(within=20)
        assert room.states(job_ids) == ["completed"] * 10 + ["cancelled"]
    room.submitter.must([refused])
    room.conclude()
    assert room.calls([*wanted, doomed, refused]) == [1] * 5 + [2] * 5 + [1, 1]


def test_what_waits_in_a_full_redis_runs_at_the_latest_when_there_is_memory(room: Room) -> None:
    """Nothing that waits is lost to a full Redis: all complete when there is memory again, with one call each."""
    wanted = orders(15, model="sim-slow-0.5")
    room.cluster.start_worker(PROMPTQ_CONCURRENCY="5")
    room.submitter.must(wanted)
    room.in_flight(5)
    with no_memory(room):
        eventually(lambda: room.store.zcard(queues.LEASES), lambda count: count == 0)
    room.conclude()
    assert room.calls(wanted) == [1] * 15


@pytest.mark.parametrize("connected", [True, False], ids=["connects again", "starts"])
def test_a_worker_begins_although_redis_is_full(room: Room, connected: bool) -> None:
    """One that starts, or whose connections are cut, while there is no memory runs what waits all the same."""
    wanted = orders(6, model="sim-slow-0.5")
    if connected:
        room.cluster.start_worker(PROMPTQ_CONCURRENCY="1")
    job_ids = room.submitter.must(wanted)
    with no_memory(room):
        if connected:
            room.in_flight(1)
            assert int(room.store.execute_command("CLIENT", "KILL", "TYPE", "normal")) >= 2
        else:
            # Of the time before any worker there are no books of kombu's either.
            room.cluster.start_worker()
        # Not by the API, whose connections were cut as well.
        eventually(lambda: {room.record(job_id)["status"] for job_id in job_ids}, lambda now: now == {"completed"})
    room.conclude()
    assert room.calls(wanted) == [1] * 6


def test_what_waits_in_a_full_redis_still_runs(room: Room) -> None:
    """Jobs that wait when Redis is full are claimed, run and completed all the same."""
    wanted = orders(10, model="sim-slow-0.5")
    room.cluster.start_worker(PROMPTQ_CONCURRENCY="5")
    room.submitter.must(wanted)
    room.in_flight(5)
    with no_memory(room):
        room.submitter.see_the_end(within=6)
    room.conclude()
    assert room.calls(wanted) == [1] * 10
