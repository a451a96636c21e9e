"""``python -m tests.faults.soak``: many jobs, for long, with faults at random; then everything is checked.

Two runs: in the first Redis is restarted with SIGTERM under ``appendfsync everysec``, in the second it is killed (-9)
under ``PROMPTQ_DURABILITY=fsync``. Prints a table, and ends with 1 if a job was lost, unexpected, ended twice or
wrongly failed.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Final

import httpx2
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tests.faults.chaos import Chaos
from tests.faults.cluster import Cluster
from tests.faults.history import TERMINAL, History, Report, records_of
from tests.faults.submitting import Order, Submitter, orders
from tests.unit.making import check_invariants

_LEASE: Final = 5.0
_WORKERS: Final = 3
_SUBMITTERS: Final = 16
_OBSERVERS: Final = 4
#: Kinds of jobs and their shares: quick and slow answers, errors that pass, and requests that the LLM refuses for good.
_MODELS: Final = {"sim": 40, "sim-slow-0.5": 25, "sim-slow-2": 15, "sim-slow-5": 5, "sim-flaky-1": 12, "sim-400": 3}
_FATAL: Final = ("lost", "unexpected", "double", "wrongly_failed")


@dataclass(frozen=True)
class Run:
    """How long, how much, and which way Redis dies."""

    jobs: int
    seconds: float
    hard: bool
    seed: int

    @property
    def name(self) -> str:
        """What the table calls it."""
        return "kill -9 of Redis, fsync" if self.hard else "SIGTERM of Redis, everysec"


class Soak:
    """One run."""

    def __init__(self, run: Run, folder: Path) -> None:
        self._run = run
        self._chance = random.Random(run.seed)
        settings = {"PROMPTQ_DURABILITY": "fsync"} if run.hard else {}
        self._cluster = Cluster(
            folder,
            PROMPTQ_LEASE_SECONDS=f"{_LEASE:g}",
            PROMPTQ_CONCURRENCY="60",
            PROMPTQ_RETRY_MAX="2",
            PROMPTQ_RETRY_BASE="1",
            PROMPTQ_RETRY_IN_SLOT="0.5",
            **settings,
        )
        self._chaos = Chaos(cluster=self._cluster, chance=self._chance, lease=_LEASE, hard=run.hard)
        self._history = History()
        self._to_observe: Queue[str] = Queue()
        self._over = threading.Event()

    def play(self, tell: Any) -> dict[str, Any]:
        """Run it; ``tell`` is called with a line about how it goes. Answers the figures."""
        began = time.monotonic()
        if self._run.hard:
            self._cluster.start_redis(fsync=True)
        with self._cluster as cluster, cluster.client(timeout=10) as client:
            cluster.start_scheduler("scheduler-2")
            for _ in range(_WORKERS):
                self._chaos.start_worker()
            submitter = Submitter(client, self._history)
            with ThreadPoolExecutor(_SUBMITTERS + _OBSERVERS + 3) as pool:
                background = [pool.submit(self._chaos.run), pool.submit(self._chaos.watch_recoveries, self._over)]
                background += [pool.submit(self._observe, client) for _ in range(_OBSERVERS)]
                background.append(pool.submit(self._report_progress, tell, began))
                submitting = [pool.submit(self._submit, submitter, part) for part in self._portions()]
                try:
                    for part in submitting:
                        part.result()
                    self._chaos.stop()
                    background[0].result()
                    tell("all submitted; waiting for the ends")
                    cluster.wait_until_idle(within=300)
                finally:
                    # Whatever went wrong, nobody shall be left who waits for more.
                    self._chaos.stop()
                    self._over.set()
                for task in background:
                    task.result()
            tell("checking")
            submitter.see_the_end(within=600)
            with cluster.store() as store:
                check_invariants(store)
                records = records_of(store)
            stats = cluster.stats()
            report = self._history.check(calls=stats["by_prompt"], records=records)
        return self._figures(report, stats, len(records), time.monotonic() - began)

    def _portions(self) -> list[list[tuple[float, Order]]]:
        """What each thread submits, and when (seconds from the start)."""
        models = self._chance.choices(list(_MODELS), list(_MODELS.values()), k=self._run.jobs)
        wanted = [
            orders(1, keys=self._chance.random() < 0.9, model=model, good=model != "sim-400")[0] for model in models
        ]
        timed = [(number * self._run.seconds / len(wanted), order) for number, order in enumerate(wanted)]
        return [timed[start::_SUBMITTERS] for start in range(_SUBMITTERS)]

    def _submit(self, submitter: Submitter, portion: list[tuple[float, Order]]) -> None:
        began = time.monotonic()
        for due, order in portion:
            if self._over.is_set():
                return
            time.sleep(max(0.0, began + due - time.monotonic()))
            # Without a key nobody can repeat a submit of which nothing is known.
            job_id = submitter.submit(order) if order.key is None else submitter.insist(order, within=120)
            if job_id is not None:
                self._to_observe.put(job_id)

    def _observe(self, client: httpx2.Client) -> None:
        """Write down ends as soon as they are shown, so that one that changes later is noticed."""
        while not self._over.is_set():
            try:
                job_id = self._to_observe.get(timeout=0.5)
            except Empty:
                continue
            job = _shown(client, job_id)
            if job is None or job["status"] not in TERMINAL:
                self._to_observe.put(job_id)
                time.sleep(0.02)
            else:
                self._history.observe(job)

    def _report_progress(self, tell: Any, began: float) -> None:
        while not self._over.wait(5):
            accepted, faults = len(self._history.job_ids()), sum(self._chaos.done.values())
            tell(
                f"{time.monotonic() - began:.0f} s: {accepted} of {self._run.jobs} accepted, "
                f"{self._to_observe.qsize()} not seen to end, {faults} faults"
            )

    def _figures(self, report: Report, stats: dict[str, Any], jobs: int, seconds: float) -> dict[str, Any]:
        recoveries = self._chaos.recoveries
        return {
            "run": self._run.name,
            "seed": self._run.seed,
            "jobs": jobs,
            "minutes": round(seconds / 60, 1),
            "faults": dict(sorted(self._chaos.done.items())),
            "llm_calls": stats["calls"],
            **{kind: len(report.violations.get(kind, ())) for kind in (*_FATAL, "overpaid")},  # type: ignore[call-overload]
            "undecided": len(self._history.undecided()),
            "recovered": len(recoveries),
            "recovery_median_seconds": round(statistics.median(recoveries), 1) if recoveries else None,
            "recovery_max_seconds": round(max(recoveries), 1) if recoveries else None,
            "lease_seconds": _LEASE,
            "violations": {kind: found[:20] for kind, found in report.violations.items()},
        }


def _shown(client: httpx2.Client, job_id: str) -> dict[str, Any] | None:
    """The job as the API shows it; None while the API is away or without Redis."""
    try:
        answer = client.get(f"/v1/jobs/{job_id}")
    except httpx2.HTTPError:
        return None
    return dict(answer.json()) if answer.status_code == 200 else None


def _runs(options: argparse.Namespace) -> Iterator[Run]:
    for name, hard in (("everysec", False), ("fsync", True)):
        if options.only in (None, name):
            yield Run(options.jobs, 60 * options.minutes, hard, options.seed)


def main() -> int:
    """Play the runs, print a line of JSON for each and a table of both."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--jobs", type=int, default=20_500, help="jobs in each run (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=10, help="over which they come (default: %(default)s)")
    parser.add_argument("--only", choices=("everysec", "fsync"), help="one of the two runs")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the faults; printed")
    parser.add_argument("--folder", type=Path, help="where logs and data stay (default: a temporary one)")
    options = parser.parse_args()
    # As Ctrl-C does: what was started is ended on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=True)
    found = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    for run in _runs(options):
        with tempfile.TemporaryDirectory() as temporary, Progress(*columns, console=console) as progress:
            task = progress.add_task(run.name)
            folder = (options.folder or Path(temporary)) / ("fsync" if run.hard else "everysec")

            def tell(text: str, *, name: str = run.name, task: Any = task, progress: Progress = progress) -> None:
                progress.update(task, description=f"{name}: {text}")
                if not console.is_terminal:
                    print(text, file=sys.stderr, flush=True)

            found.append(Soak(run, folder).play(tell))
        print(json.dumps(found[-1]), flush=True)
    print(_table(found))
    return int(any(figures[kind] for figures in found for kind in _FATAL))


def _table(found: list[dict[str, Any]]) -> str:
    """The figures as Markdown, a column for each run."""
    rows = [name for name in found[0] if name != "violations"]
    lines = [
        "| | " + " | ".join(str(figures["run"]) for figures in found) + " |",
        "|---|" + "---|" * len(found),
    ]
    for name in rows[1:]:
        values = [figures[name] for figures in found]
        shown = [
            ", ".join(f"{fault} {times}" for fault, times in value.items()) if isinstance(value, dict) else str(value)
            for value in values
        ]
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
