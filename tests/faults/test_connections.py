"""A worker's connections to Redis are cut while calls are in flight."""

from __future__ import annotations

from tests.faults.room import Room
from tests.faults.submitting import orders
from tests.processes import eventually


def test_cut_connections_cost_no_second_call(room: Room) -> None:
    """All connections to Redis are cut, twice, with calls in flight: each job completes, with its one call."""
    wanted = orders(10, model="sim-slow-2")
    room.cluster.start_worker()
    job_ids = room.submitter.must(wanted)
    room.in_flight(10)
    for _ in range(2):
        assert int(room.store.execute_command("CLIENT", "KILL", "TYPE", "normal")) >= 2
        # A second cut is worth something once the worker has come back from the first.
        eventually(lambda: len(room.store.client_list(_type="normal")), lambda count: count >= 3)
    # More work is taken by the connections that were made anew.
    room.submitter.must(orders(5))
    room.conclude()
    assert room.calls(wanted) == [1] * 10
    assert room.numbers(job_ids, "attempt") == [1] * 10


def test_cut_subscriptions_cost_no_call_and_cancelling_still_works(room: Room) -> None:
    """The subscriptions are cut with calls in flight: each call goes on, and a cancelled one is still aborted."""
    wanted, doomed = orders(5, model="sim-slow-2"), orders(1, model="sim-hang", good=False)
    room.cluster.start_worker()
    job_ids = room.submitter.must([*wanted, *doomed])
    room.in_flight(6)
    assert int(room.store.execute_command("CLIENT", "KILL", "TYPE", "pubsub")) >= 2
    # If the abort channel is not back yet, the heartbeat finds the job gone within a third of a lease.
    assert room.client.post(f"/v1/jobs/{job_ids[-1]}/cancel").json()["status"] == "cancelled"
    eventually(lambda: room.cluster.stats()["aborted"], lambda count: count == 1)
    room.conclude()
    assert room.calls([*wanted, *doomed]) == [1] * 6
