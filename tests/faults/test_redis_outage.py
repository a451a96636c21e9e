"""Redis is restarted, or hangs, while jobs are submitted and calls are in flight."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.cluster import LEASE
from tests.faults.room import Room
from tests.faults.submitting import Submitter, orders
from tests.processes import eventually, free_port


def test_a_restart_of_redis_under_load_loses_nothing(room: Room) -> None:
    """SIGTERM and a start on the AOF in a burst: each key has one job, all complete, and no call is paid for twice."""
    wanted = orders(120, keys=True, model="sim-slow-0.5")
    room.cluster.start_workers("w1", "w2")
    with ThreadPoolExecutor(1) as pool:
        burst = pool.submit(room.submitter.insist_on_all, wanted, threads=4)
        eventually(lambda: len(room.history.job_ids()), lambda count: count >= 30)
        assert room.cluster.parts["redis"].stop() == 0
        room.cluster.start_redis()
        burst.result()
    room.conclude()
    assert room.calls(wanted) == [1] * len(wanted)


@pytest.mark.parametrize(
    ("frozen", "model"),
    [(10.0, "sim-slow-3"), (2 * LEASE, "sim-slow-7")],
    ids=["for 10 s, in which the calls end", "for two leases, which the calls outlast"],
)
def test_a_redis_that_hangs_costs_no_second_call(room: Room, frozen: float, model: str) -> None:
    """Redis hangs for longer than a lease: calls that end meanwhile, or after, are each paid for once."""
    wanted = orders(10, model=model)
    room.cluster.start_workers("w1", "w2")
    job_ids = room.submitter.must(wanted)
    room.in_flight(10)
    room.cluster.parts["redis"].freeze()
    try:
        time.sleep(frozen)
    finally:
        room.cluster.parts["redis"].thaw()
    room.conclude()
    assert room.calls(wanted) == [1] * 10
    assert room.numbers(job_ids, "strikes") == [0] * 10


def test_what_was_acknowledged_under_fsync_survives_a_kill_of_redis(room: Room) -> None:
    """kill -9 of Redis in a burst of submits, with ``PROMPTQ_DURABILITY=fsync``: every 202 is a job that completes, and
    no call is paid for twice."""
    wanted = orders(150, keys=True, model="sim-slow-0.5")
    port = free_port()
    room.cluster.parts["redis"].stop()
    room.cluster.start_redis(fsync=True)
    try:
        room.cluster.start_api("api-fsync", port=port, PROMPTQ_DURABILITY="fsync")
        room.cluster.start_workers("w1", "w2")
        with room.cluster.client(base_url=f"http://127.0.0.1:{port}") as client, ThreadPoolExecutor(1) as pool:
            submitter = Submitter(client, room.history)
            burst = pool.submit(submitter.insist_on_all, wanted, threads=8)
            eventually(lambda: len(room.history.job_ids()), lambda count: count >= 30)
            room.cluster.parts["redis"].kill()
            assert not burst.done(), "Redis was to be killed in the burst"
            room.cluster.start_redis(fsync=True)
            burst.result()
        room.conclude()
        assert room.calls(wanted) == [1] * len(wanted)
    finally:
        room.cluster.end("redis")
