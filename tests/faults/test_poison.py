"""A prompt that kills whatever process runs it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

from tests.faults.poison import MARKER
from tests.faults.room import Room
from tests.faults.submitting import Order, orders
from tests.integration.driving import unique


def keep_alive(room: Room, done: Event) -> int:
    """Start the worker anew each time that it has died, as a supervisor would; answer how often that was."""
    restarts = 0
    while not done.wait(0.05):
        if not room.cluster.runs("faulty"):
            room.cluster.start_worker("faulty", fault="poison")
            restarts += 1
    return restarts


def test_a_poison_job_ends_and_takes_no_neighbour_with_it(room: Room) -> None:
    """A job that kills its worker fails as ``worker_crashed`` after three deaths, the last in a process of its own; its
    neighbours, which died with it, complete."""
    poison, neighbours = Order(unique(MARKER), good=False), orders(4, model="sim-slow-1")
    room.cluster.start_worker("faulty", fault="poison")
    neighbour_ids = room.submitter.must(neighbours)
    room.in_flight(4)
    (poison_id,) = room.submitter.must([poison])
    done = Event()
    with ThreadPoolExecutor(1) as pool:
        restarts = pool.submit(keep_alive, room, done)
        try:
            room.submitter.see_the_end(within=80)
        finally:
            done.set()
    assert restarts.result() == 2, "the third death was that of a process of its own"
    room.conclude()
    assert room.states([poison_id]) == ["failed"]
    assert room.error_codes([poison_id]) == ["worker_crashed"]
    assert [dead["id"] for dead in room.client.get("/v1/dead_letters").json()["data"]] == [poison_id]
    assert room.states(neighbour_ids) == ["completed"] * 4
    assert room.calls([poison]) == [0]
    assert room.numbers([poison_id], "strikes") == [3]
