"""What a worker costs for each job, and how many calls it really holds."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.fill import PROMPT
from bench.loopback import Loopback, wait_for
from bench.subjects import Subject
from bench.usage import Peak, cpu_seconds, pin, tree
from tests.processes import end

#: Of the slots, so much must have been in flight for a level to count as held.
HELD: Final = 0.95


@dataclass(frozen=True)
class Level:
    """So many calls of so many seconds at once, and how many jobs are run."""

    in_flight: int
    seconds: float
    jobs: int

    @property
    def name(self) -> str:
        """For the tables."""
        return f"{self.in_flight} of {self.seconds:g} s"

    @property
    def ideal(self) -> float:
        """Seconds that all jobs take if each slot is always taken."""
        return -(-self.jobs // self.in_flight) * self.seconds


@dataclass(frozen=True)
class Run:
    """One run of one subject at one level."""

    subject: str
    level: str
    cpu_ms_per_job: float
    jobs_per_second: float
    makespan: float
    #: Makespan by ideal.
    stretch: float
    peak: int
    held: bool
    rss_mb: float
    pss_mb: float

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)


def prompts(count: int, label: str) -> list[str]:
    """So many, all different."""
    return [f"{label} {number}: {PROMPT}" for number in range(count)]


def run(loopback: Loopback, subject: Subject, level: Level) -> Run | str:
    """Start the worker, let it warm up, stop it while the queue is filled, and measure it from when it goes on.

    So its start and the filling cost it nothing. A string says why there is no measurement.
    """
    loopback.begin(latency=0.05)
    worker = subject.start(loopback, level.in_flight)
    try:
        warm_up = min(level.in_flight, 50)
        subject.enqueue(loopback, prompts(warm_up, "warm-up"))
        if not wait_for(lambda: _done(loopback, warm_up), within=90):
            return "did not start"
        _settle(worker.pid)
        pin(worker.pid, under_test=True)
        for process in tree(worker.pid):
            os.kill(process.pid, signal.SIGSTOP)
        loopback.llm.post("/control", json={"latency": level.seconds}).raise_for_status()
        subject.enqueue(loopback, prompts(level.jobs, "job"))
        loopback.llm.post("/stats/reset").raise_for_status()
        before = cpu_seconds(worker.pid)
        with Peak(worker.pid) as peak:
            began = time.monotonic()
            for process in tree(worker.pid):
                os.kill(process.pid, signal.SIGCONT)
            if not wait_for(lambda: _done(loopback, level.jobs), within=10 * level.ideal + 60):
                return f"had {loopback.stats()['calls']} of {level.jobs} calls after ten times the ideal"
            makespan = time.monotonic() - began
            _settle(worker.pid)
        used = cpu_seconds(worker.pid) - before
    finally:
        end(worker, within=15)
    reached = loopback.stats()["peak"]
    return Run(
        subject=subject.name,
        level=level.name,
        cpu_ms_per_job=round(used / level.jobs * 1000, 3),
        jobs_per_second=round(level.jobs / makespan, 1),
        makespan=round(makespan, 2),
        stretch=round(makespan / level.ideal, 3),
        peak=reached,
        held=reached >= HELD * level.in_flight,
        rss_mb=round(peak.memory.rss / 1e6, 1),
        pss_mb=round(peak.memory.pss / 1e6, 1),
    )


def _done(loopback: Loopback, calls: int) -> bool:
    stats = loopback.stats()
    return bool(stats["calls"] >= calls and stats["in_flight"] == 0)


def _settle(pid: int) -> None:
    """Wait until the worker has written all results and does next to nothing."""
    for _ in range(40):
        before = cpu_seconds(pid)
        time.sleep(0.5)
        if cpu_seconds(pid) - before < 0.03:
            return
