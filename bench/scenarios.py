"""What ``make bench`` runs, and how often."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench import apis, depths, latencies
from bench import streams as streaming
from bench.loopback import Loopback, wait_for
from bench.subjects import EVERYBODY, PROMPTQ, QUIET, Subject
from bench.workers import Level, prompts, run
from tests.processes import end

Say = Callable[[str], None]

#: Levels of the workers, with how many rounds; the last of each pair for ``--quick``.
LEVELS: Final = (
    (Level(50, 1, 500), 3, 1),
    (Level(500, 1, 5000), 3, 1),
    (Level(500, 10, 1500), 1, 0),
    (Level(1000, 10, 3000), 1, 0),
    (Level(2000, 10, 6000), 1, 0),
)
_DEPTHS: Final = (1_000, 100_000, 1_000_000)


@dataclass(frozen=True)
class Bench:
    """Where a scenario runs, and how thoroughly."""

    loopback: Loopback
    quick: bool
    say: Say
    #: At most so many rounds of each level; None: as many as it has by itself.
    rounds: int | None = None
    #: Workers of this name alone; None: all.
    only: str | None = None

    def times(self, rounds: int, quick: int = 1) -> int:
        """How often something that is usually done so many times is done now."""
        usual = quick if self.quick else rounds
        return usual if self.rounds is None else min(usual, self.rounds)


def workers(bench: Bench) -> Any:
    """CPU and memory of the worker for each job, and the peak in flight: ours and the peers' in turn."""
    found: list[dict[str, Any]] = []
    for level, rounds, quick_rounds in LEVELS:
        subjects = [one for one in EVERYBODY if level.in_flight <= one.most and bench.only in (None, one.name)]
        if bench.quick:
            # Those that start a process for each slot take their time.
            level, subjects = _shortened(level), [one for one in subjects if one.most > level.in_flight]
        for number in range(bench.times(rounds, quick_rounds)):
            # Those that start a process for each slot take most of the time, and are far off: once is enough.
            found += _round(bench, level, [one for one in subjects if number == 0 or one.most > level.in_flight])
    return found


def events(bench: Bench) -> Any:
    """What it costs to be seen in Flower: our worker with its events and without them."""
    level = Level(500, 1, 2500 if bench.quick else 5000)
    found: list[dict[str, Any]] = []
    for _ in range(bench.times(3)):
        found += _round(bench, level, (PROMPTQ, QUIET))
    return found


def _shortened(level: Level) -> Level:
    return Level(level.in_flight, level.seconds, level.jobs // 2)


def _round(bench: Bench, level: Level, subjects: Iterable[Subject]) -> list[dict[str, Any]]:
    found = []
    for subject in subjects:
        done = run(bench.loopback, subject, level)
        if isinstance(done, str):
            bench.say(f"{subject.name}, {level.name}: {done}")
            found.append({"subject": subject.name, "level": level.name, "failed": done})
            continue
        held = "" if done.held else f", held {done.peak} only"
        bench.say(f"{subject.name}, {level.name}: {done.cpu_ms_per_job} ms of CPU a job{held}")
        found.append(done.as_json())
    return found


def submits(bench: Bench) -> Any:
    """Submits and polls of one API process on one core, ours and plain Flask in turn."""
    found: dict[str, list[dict[str, Any]]] = {"promptq": [], "plain flask": []}
    for _ in range(bench.times(3)):
        for name, serve in (("promptq", apis.ours), ("plain flask", apis.plain_flask)):
            with serve(bench.loopback) as server:
                figures = apis.measure(bench.loopback, server, 4 if bench.quick else 10)
            bench.say(f"{name}: {figures['submits_per_second']} submits/s, {figures['polls_per_second']} polls/s")
            found[name].append(figures)
    return found


def longpolls(bench: Bench) -> Any:
    """Long-polls held on one API process, with their memory, and the submits beside them."""
    found = []
    for held in (2000,) if bench.quick else (2000, 5000):
        with apis.ours(bench.loopback) as server:
            figures = apis.hold(bench.loopback, server, held, 4 if bench.quick else 8)
        bench.say(f"{figures['held']} of {held} long-polls held in {figures['rss_mb']} MB")
        found.append(figures)
    return found


@contextlib.contextmanager
def _idle_stack(bench: Bench) -> Iterator[apis.Server]:
    """An API with a worker that is warmed up and has nothing to do."""
    bench.loopback.begin(latency=0.05)
    worker = PROMPTQ.start(bench.loopback, 100)
    try:
        PROMPTQ.enqueue(bench.loopback, prompts(20, "warm-up"))
        assert wait_for(lambda: bench.loopback.stats()["calls"] >= 20, within=60)
        with apis.ours(bench.loopback) as server:
            yield server
    finally:
        end(worker)


def latency(bench: Bench) -> Any:
    """From the submit to the LLM, on an idle stack."""
    with _idle_stack(bench) as server:
        latencies.measure(bench.loopback, server, 2)
        figures = latencies.measure(bench.loopback, server, 10 if bench.quick else 60)
    bench.say(f"submit to LLM: p50 {figures['p50_ms']} ms, p99 {figures['p99_ms']} ms")
    return figures


def streams(bench: Bench) -> Any:
    """The first piece of a streamed text, beside the LLM asked directly."""
    with _idle_stack(bench) as server:
        streaming.measure(bench.loopback, server, 1)
        figures = streaming.measure(bench.loopback, server, 5 if bench.quick else 20)
    bench.say(f"first piece: {figures['added_first_p50_ms']} ms later (p50), {figures['added_first_p99_ms']} ms (p99)")
    return figures


def redis(bench: Bench) -> Any:
    """Bytes in Redis and CPU of Redis for each job."""
    figures = depths.per_job(bench.loopback)
    bench.say(f"{figures['queued_bytes']} bytes for a queued job, {figures['ended_bytes']} for one that has ended")
    return figures


def depth(bench: Bench) -> Any:
    """Submit, claim and list with many jobs waiting."""
    return depths.with_many_waiting(bench.loopback, _DEPTHS[:2] if bench.quick else _DEPTHS, bench.say)


SCENARIOS: Final[Mapping[str, Callable[[Bench], Any]]] = {
    "submits": submits,
    "longpolls": longpolls,
    "latency": latency,
    "streams": streams,
    "redis": redis,
    "depth": depth,
    "events": events,
    "workers": workers,
}


def medians(runs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Of several runs the median of each number, and under ``spread`` the least and the most of each."""
    rows = [row for row in runs if "failed" not in row]
    names = [name for name, value in rows[0].items() if type(value) in (int, float)] if rows else []
    values = {name: [float(row[name]) for row in rows] for name in names}
    return {name: statistics.median(found) for name, found in values.items()} | {
        "runs": len(rows),
        "spread": {name: (min(found), max(found)) for name, found in values.items()},
    }
