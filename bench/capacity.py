"""How many pods and how much Redis a load takes: ``python -m bench.capacity [RESULTS.json]``.

Computed from what ``python -m bench`` measured on one machine; a table in Markdown. The sums are those of
docs/capacity.md: worker pods by slots and by CPU for each job, Redis by its own time for each job and by what it
keeps.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.report import by_level
from bench.scenarios import LEVELS, medians
from bench.subjects import OURS

JOBS_A_MINUTE: Final = (10, 1_000, 100_000)
SECONDS_A_CALL: Final = (2, 10, 60)
#: Slots of a worker pod (PROMPTQ_CONCURRENCY).
SLOTS: Final = 1_000
#: Of a pod's core, and of Redis' one thread, so much is planned with; the rest is for bursts.
PLANNED: Final = 0.6
#: Polls of a job until it has ended, if its caller long-polls.
POLLS_A_JOB: Final = 2
#: What Redis keeps an ended job for (PROMPTQ_RESULT_TTL), in hours.
KEPT_HOURS: Final = 24


@dataclass(frozen=True)
class Costs:
    """What was measured."""

    worker_ms: float
    submit_ms: float
    poll_ms: float
    redis_ms: float
    queued_bytes: float
    ended_bytes: float


@dataclass(frozen=True)
class Need:
    """What a load needs."""

    jobs_a_minute: int
    seconds: float
    in_flight: int
    workers: int
    apis: int
    #: Of one Redis' time, at the load.
    redis_busy: float
    redis_gb: float


def costs(results: dict[str, Any]) -> Costs:
    """Read the results of a bench."""
    workers = by_level(results["workers"])
    submits = medians(results["submits"][OURS])
    worker_ms = max(workers[level.name][OURS]["cpu_ms_per_job"] for level, _, _ in LEVELS if level.name in workers)
    return Costs(
        worker_ms=worker_ms,
        submit_ms=submits["cpu_ms_per_submit"],
        poll_ms=1000 / submits["polls_per_second"],
        redis_ms=results["redis"]["cpu_ms_per_job"],
        queued_bytes=results["redis"]["queued_bytes"],
        ended_bytes=results["redis"]["ended_bytes"],
    )


def needs(measured: Costs) -> Iterator[Need]:
    """Each load of the table."""
    for jobs in JOBS_A_MINUTE:
        for seconds in SECONDS_A_CALL:
            a_second = jobs / 60
            in_flight = math.ceil(a_second * seconds)
            worker_cores = a_second * measured.worker_ms / 1000
            api_cores = a_second * (measured.submit_ms + POLLS_A_JOB * measured.poll_ms) / 1000
            yield Need(
                jobs_a_minute=jobs,
                seconds=seconds,
                in_flight=in_flight,
                workers=max(math.ceil(in_flight / SLOTS), math.ceil(worker_cores / PLANNED)),
                apis=max(2, math.ceil(api_cores / PLANNED)),
                redis_busy=a_second * measured.redis_ms / 1000,
                redis_gb=(in_flight * measured.queued_bytes + jobs * 60 * KEPT_HOURS * measured.ended_bytes) / 1e9,
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.capacity", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=Path("bench/results.json"), metavar="RESULTS.json")
    measured = costs(json.loads(parser.parse_args().results.read_text()))
    print("| jobs a minute | seconds a call | in flight | worker pods | API pods | Redis busy | Redis memory |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for need in needs(measured):
        busy = "under 1 %" if need.redis_busy < 0.01 else f"{need.redis_busy:.0%}"
        memory = f"{need.redis_gb:.1f} GB" if need.redis_gb >= 1 else f"{need.redis_gb * 1000:.0f} MB"
        load = f"{need.jobs_a_minute:,} | {need.seconds:g} | {need.in_flight:,}"
        print(f"| {load} | {need.workers:,} | {need.apis} | {busy} | {memory} |")
    most = PLANNED / measured.redis_ms * 1000
    print(f"\nOne Redis ends at {most * 60:,.0f} jobs a minute ({PLANNED:.0%} of its one thread).")


if __name__ == "__main__":
    main()
