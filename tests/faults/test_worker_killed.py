"""A worker dies at every point of a job's life: the job ends once, and no call is repeated that need not be."""

from __future__ import annotations

import pytest

from jobs.queues import celery_queue
from tests.faults.cluster import LATENCY, LEASE
from tests.faults.room import Room
from tests.faults.submitting import orders
from tests.processes import eventually
from tests.unit.making import lose_lease

SIGKILLED = -9


def test_the_jobs_of_a_killed_worker_run_again_within_two_leases(room: Room) -> None:
    """kill -9 with calls in flight: within twice the lease another worker makes the calls again; all complete."""
    wanted = orders(5)
    room.cluster.start_worker("w1")
    # However long the second worker takes to start, these calls do not end before the kill.
    room.cluster.set_latency(60)
    job_ids = room.submitter.must(wanted)
    room.in_flight(5)
    room.cluster.start_worker("w2")
    room.cluster.set_latency(LATENCY)
    room.cluster.parts["w1"].kill()
    eventually(lambda: room.calls(wanted), lambda calls: calls == [2] * 5, within=2 * LEASE)
    room.conclude()
    assert room.numbers(job_ids, "strikes") == [1] * 5
    assert room.numbers(job_ids, "attempt") == [1] * 5


@pytest.mark.parametrize(
    ("point", "calls", "strikes"),
    [("after_claim", 1, 1), ("in_request", 1, 1), ("before_complete", 2, 1), ("after_complete", 1, 0)],
    ids=[
        "between claim and call",
        "between the head of a call and its body",
        "between call and completion",
        "between completion and acknowledgement",
    ],
)
def test_a_worker_killed_around_a_step_costs_only_the_call_it_had_made(
    room: Room, point: str, calls: int, strikes: int
) -> None:
    """A kill at any step leaves one completed job; a call is repeated only if its answer died with the worker."""
    wanted = orders(1)
    room.cluster.start_worker("faulty", fault=point)
    (job_id,) = room.submitter.must(wanted)
    assert room.cluster.parts["faulty"].died() == SIGKILLED
    assert room.calls(wanted) == [calls if strikes == 0 else calls - 1]
    room.cluster.start_worker("w1")
    room.conclude()
    assert room.calls(wanted) == [calls]
    assert room.cluster.stats()["incomplete"] == (point == "in_request")
    assert room.numbers([job_id], "strikes") == [strikes]


def test_a_message_that_died_with_its_worker_is_sent_again(room: Room) -> None:
    """A worker killed with the message in hand, before or after the broker noted it: the scheduler finds that the
    waiting job has no message, and it runs once, without a strike."""
    points = {"taken": "bulk", "before_claim": "interactive"}
    waits = [
        room.cluster.start_worker(point, fault=point, wait=False, PROMPTQ_WORKER_QUEUES=queue)
        for point, queue in points.items()
    ]
    for wait in waits:
        wait()
    wanted = [order for queue in points.values() for order in orders(1, queue=queue)]
    job_ids = room.submitter.must(wanted)
    assert [room.cluster.parts[point].died() for point in points] == [SIGKILLED] * 2
    assert [room.store.llen(celery_queue(queue)) for queue in points.values()] == [0, 0]
    assert room.states(job_ids) == ["queued"] * 2
    room.cluster.start_worker("w1")
    # The scheduler looks at a queue after each PROMPTQ_REPAIR_AFTER, and compares with what it saw the time before.
    room.conclude()
    assert room.calls(wanted) == [1, 1]
    assert room.numbers(job_ids, "strikes") == [0, 0]
    assert room.numbers(job_ids, "attempt") == [1, 1]


def let_go_by(room: Room, worker: str, job_id: str) -> bool:
    """Whether the worker has said that its run of the job counts no more."""
    lines = room.cluster.parts[worker].said().splitlines()
    return any(job_id in line and ("job.result_discarded" in line or "job.aborted" in line) for line in lines)


def test_the_late_result_of_a_frozen_worker_is_discarded(room: Room) -> None:
    """SIGSTOP past the lease, another worker completes the job, SIGCONT: the stored end stays; two calls at most."""
    wanted = orders(3, model="sim-slow-1")
    room.cluster.start_worker("w1")
    job_ids = room.submitter.must(wanted)
    room.in_flight(3)
    room.cluster.parts["w1"].freeze()
    room.cluster.start_worker("w2")
    room.submitter.see_the_end()
    before = [room.record(job_id) for job_id in job_ids]
    assert {record["worker"] for record in before} == {"w2"}
    room.cluster.parts["w1"].thaw()
    eventually(lambda: all(let_go_by(room, "w1", job_id) for job_id in job_ids))
    assert [room.record(job_id) for job_id in job_ids] == before
    room.conclude()
    assert room.calls(wanted) == [2] * 3


@pytest.mark.parametrize(
    "lease", [LEASE, 60.0], ids=["found out by its heartbeat", "with no heartbeat before its result"]
)
def test_a_late_result_does_not_end_what_another_worker_runs(room: Room, lease: float) -> None:
    """SIGSTOP past the lease, SIGCONT while another worker makes the call: its result counts, not the late one."""
    wanted = orders(3, model="sim-slow-2")
    room.cluster.start_worker("w1", PROMPTQ_LEASE_SECONDS=str(lease))
    job_ids = room.submitter.must(wanted)
    room.in_flight(3)
    room.cluster.parts["w1"].freeze()
    if lease != LEASE:
        # The frozen worker would be sent a message by the BRPOP that it has asked for, which ends within a second.
        eventually(lambda: room.store.info("clients")["blocked_clients"], lambda blocked: blocked == 0)
        # A worker beats three times per lease: only with a long one, cut short here, can its result be first.
        lose_lease(room.store, *job_ids)
    room.cluster.start_worker("w2")
    # By then the answers to the first calls lie in the frozen worker's sockets.
    eventually(lambda: room.calls(wanted), lambda calls: calls == [2] * 3)
    room.in_flight(3)
    room.cluster.parts["w1"].thaw()
    eventually(lambda: all(let_go_by(room, "w1", job_id) for job_id in job_ids))
    assert room.states(job_ids) == ["in_progress"] * 3
    room.conclude()
    assert {room.record(job_id)["worker"] for job_id in job_ids} == {"w2"}
    assert room.calls(wanted) == [2] * 3
    assert room.numbers(job_ids, "strikes") == [1] * 3
