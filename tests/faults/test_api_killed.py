"""The API dies while jobs are submitted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.faults.room import Room
from tests.faults.submitting import orders
from tests.processes import eventually


def test_an_api_killed_in_a_burst_makes_one_job_per_key(room: Room) -> None:
    """kill -9 of the API in a burst of submits, each repeated with its key until it is acknowledged: one job per key,
    all complete, one call each."""
    wanted = orders(150, keys=True)
    room.cluster.start_worker()
    with ThreadPoolExecutor(1) as pool:
        burst = pool.submit(room.submitter.insist_on_all, wanted, threads=8)
        eventually(lambda: len(room.history.job_ids()), lambda count: count >= 30)
        room.cluster.parts["api"].kill_group()
        assert not burst.done(), "the API was to be killed in the burst"
        room.cluster.start_api()
        job_ids = burst.result()
    assert len(set(job_ids)) == len(wanted)
    room.conclude()
    assert room.calls(wanted) == [1] * len(wanted)
