"""Jobs that must run alone, at one worker."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.processes import eventually
from worker.alone_runs import Alone
from worker.runner import Ran


def test_a_few_wait_for_their_turn_and_the_rest_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many neighbours a job had that kills its worker, they take a handful of slots; one that is told of twice
    takes one."""
    begun, go_on = [], threading.Event()

    def run(_: Alone, job_id: str) -> Ran:
        begun.append(job_id)
        go_on.wait(20)
        return Ran("completed")

    monkeypatch.setattr(Alone, "_run", run)
    alone = Alone()
    with ThreadPoolExecutor(5) as slots:
        running = [slots.submit(alone.run, f"job_{number}") for number in range(5)]
        eventually(lambda: len(begun) == 5)
        assert alone.run("job_0") == Ran("held")
        assert alone.run("job_5") == Ran("later")
        go_on.set()
        assert [one.result() for one in running] == [Ran("completed")] * 5
    assert alone.run("job_0") == Ran("completed")
