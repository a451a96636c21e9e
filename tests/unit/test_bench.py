"""The bench's own sums; what it measures is no test's matter."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bench import capacity
from bench.http_load import Load, request
from bench.report import Bar, bars, by_level
from bench.scenarios import LEVELS, medians
from bench.workers import Level


def run(subject: str, level: str, cpu: float, **more: Any) -> dict[str, Any]:
    """One run of a worker, as it stands in the JSON."""
    row = {"subject": subject, "level": level, "cpu_ms_per_job": cpu, "jobs_per_second": 9.0, "makespan": 30.0}
    return row | {"stretch": 1.1, "peak": 990, "held": True, "rss_mb": 140.0, "pss_mb": 120.0} | more


def test_medians_leave_out_what_failed() -> None:
    """The median of each number, and its spread; a run that failed has none."""
    found = medians([run("a", "l", 1.0), run("a", "l", 5.0), run("a", "l", 2.0), {"subject": "a", "failed": "x"}])
    assert (found["cpu_ms_per_job"], found["runs"], found["spread"]["cpu_ms_per_job"]) == (2.0, 3, (1.0, 5.0))
    assert medians([{"failed": "x"}])["runs"] == 0


def test_a_level_is_held_only_if_each_run_held_it() -> None:
    """One run that did not reach the level marks it."""
    found = by_level([run("a", "l", 1.0), run("a", "l", 1.0, held=False), run("b", "l", 1.0)])
    assert (found["l"]["a"]["held"], found["l"]["b"]["held"]) == (False, True)


def test_bars_compare_within_one_run() -> None:
    """Ratios of medians; what was not measured has no verdict."""
    five_hundred = LEVELS[1][0].name
    workers = [
        run("promptq", five_hundred, 4.0),
        run("celery gevent", five_hundred, 10.0),
        run("arq", five_hundred, 5.0),
    ]
    found = {bar.what: bar for bar in bars({"workers": workers})}
    assert found["CPU per job at 500, against Celery gevent"].got == 0.4
    assert found["the same, against arq"].verdict == "must"
    assert found["long-polls held"].verdict == "-"


@pytest.mark.parametrize(
    ("got", "more", "verdict"),
    [(0.9, False, "goal"), (1.5, False, "must"), (2.1, False, "missed"), (2.1, True, "goal"), (0.5, True, "missed")],
)
def test_a_bar_is_reached_or_not(got: float, more: bool, verdict: str) -> None:
    """``goal`` before ``must`` before ``missed``, whichever way is better."""
    must, goal = (1.0, 2.0) if more else (2.0, 1.0)
    assert Bar("x", must, goal, got, more=more).verdict == verdict


def test_the_ideal_is_whole_rounds_of_full_slots() -> None:
    """Jobs beyond the last full round take a round of their own."""
    assert (Level(50, 1, 500).ideal, Level(50, 2, 501).ideal) == (10, 22)


def test_a_request_that_was_refused_has_no_latency() -> None:
    """It counts as one that took for ever."""
    load = Load(seconds=2.0, latencies=[0.1] * 98 + [math.inf] * 2)
    assert (load.per_second, load.percentile(0.5), load.percentile(0.99)) == (50, 0.1, math.inf)


def test_a_request_is_http() -> None:
    """A head that says how long the body is, and the body."""
    head, _, body = request("POST", "/x", b"{}").partition(b"\r\n\r\n")
    assert body == b"{}"
    assert b"POST /x HTTP/1.1\r\n" in head
    assert b"Content-Length: 2" in head


def test_capacity_is_planned_by_slots_and_by_cpu() -> None:
    """Long calls need slots, short ones CPU; an API is never alone; Redis' share follows the rate alone."""
    costs = capacity.Costs(worker_ms=6, submit_ms=1.5, poll_ms=1.0, redis_ms=0.2, queued_bytes=1000, ended_bytes=2000)
    found = {(need.jobs_a_minute, need.seconds): need for need in capacity.needs(costs)}
    small, long, short = found[10, 2], found[100_000, 60], found[100_000, 2]
    assert (small.workers, small.apis, small.in_flight) == (1, 2, 1)
    assert (long.in_flight, long.workers) == (100_000, 100)
    assert (short.in_flight, short.workers) == (3334, 17)
    assert long.redis_busy == short.redis_busy == pytest.approx(0.333, abs=0.001)
    assert short.apis == 10
