"""A worker full of bulk has slots for those who wait."""

from __future__ import annotations

import time

import httpx2

from tests.integration.driving import ended, submit, unique
from tests.processes import Stack, eventually


def test_bulk_leaves_a_slot_to_others(alice: httpx2.Client, small: Stack) -> None:
    """With 5 slots, 4 are bulk's at most: however long its calls take, an interactive job begins at once.

    Bulk takes its slots again as they are free.
    """
    before = small.stats()["calls"]
    bulk = [submit(alice, prompt=unique(), model="sim-slow-4", queue="bulk")["id"] for _ in range(9)]
    eventually(lambda: small.stats()["in_flight"] == 4, within=10)
    began = time.monotonic()
    quick = submit(alice, prompt=unique(), queue="interactive")
    assert ended(alice, quick["id"], within=3)["status"] == "completed"
    assert time.monotonic() - began < 3
    assert small.stats()["calls"] - before == 5
    for job_id in bulk:
        assert ended(alice, job_id, within=30)["status"] == "completed"
