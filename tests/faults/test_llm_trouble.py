"""The LLM refuses, fails, hangs, and breaks off: as many calls as attempts are allowed, and no slot is lost to it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.faults.room import Room
from tests.faults.submitting import orders
from tests.integration.driving import read

ATTEMPTS = 3


def test_trouble_of_every_kind_costs_the_attempts_and_no_more(room: Room) -> None:
    """500s, cut connections and half bodies fail after three calls; what fails twice completes with its third."""
    expected = {
        "sim-500": ("failed", "llm_unavailable", 3),
        "sim-cut": ("failed", "llm_unreachable", 3),
        "sim-truncated": ("failed", "llm_unreachable", 3),
        "sim-flaky-2": ("completed", None, 3),
        "sim-flaky-1": ("completed", None, 2),
        "sim": ("completed", None, 1),
    }
    room.cluster.start_worker()
    wanted = {model: orders(4, model=model, good=end[0] == "completed") for model, end in expected.items()}
    job_ids = {model: room.submitter.must(of_model) for model, of_model in wanted.items()}
    room.conclude()
    for model, (status, code, calls) in expected.items():
        assert room.states(job_ids[model]) == [status] * 4, model
        assert room.error_codes(job_ids[model]) == [code] * 4, model
        assert room.calls(wanted[model]) == [calls] * 4, model
        assert room.numbers(job_ids[model], "attempt") == [calls] * 4, model


def test_a_retry_after_is_honoured_in_the_slot(room: Room) -> None:
    """A 429 with ``Retry-After: 1``: no call begins earlier than a second after the answer before it."""
    wanted = orders(3, model="sim-429-retry-after", good=False)
    room.cluster.start_worker()
    job_ids = room.submitter.must(wanted)
    room.conclude()
    assert room.error_codes(job_ids) == ["llm_rate_limited"] * 3
    assert room.calls(wanted) == [ATTEMPTS] * 3
    for job_id in job_ids:
        tries = read(room.client, job_id)["attempts"]
        pauses = [later["started_at"] - one["ended_at"] for one, later in pairwise(tries)]
        # The times are rounded to milliseconds.
        assert len(pauses) == ATTEMPTS - 1
        assert min(pauses) >= 0.998


@pytest.mark.parametrize("in_slot", ["2", "0"], ids=["in the slot", "by the scheduler"])
def test_a_hanging_llm_is_hung_up_on_and_frees_its_slot(room: Room, in_slot: str) -> None:
    """More hanging calls than slots, and good jobs behind them: each attempt ends at its time-out, its connection
    closed, and every good job gets its turn."""
    hanging, good = orders(4, model="sim-hang", good=False), orders(6)
    room.cluster.start_worker(PROMPTQ_CONCURRENCY="2", PROMPTQ_CALL_TIMEOUT="0.5", PROMPTQ_RETRY_IN_SLOT=in_slot)
    job_ids = room.submitter.must(hanging)
    room.in_flight(2)
    room.submitter.must(good)
    room.conclude()
    assert room.states(job_ids) == ["failed"] * 4
    assert room.error_codes(job_ids) == ["llm_timeout"] * 4
    assert room.calls(hanging) == [ATTEMPTS] * 4
    assert room.calls(good) == [1] * 6
    assert room.cluster.stats()["aborted"] == ATTEMPTS * 4
