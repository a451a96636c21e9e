"""The figures as tables, and the bars that they are held against."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.scenarios import LEVELS, medians
from bench.subjects import ARQ, CELERY, OURS, QUIET

_STEPS = ("submit", "claim", "list")


@dataclass(frozen=True)
class Bar:
    """What was asked for, and what came."""

    what: str
    must: float
    goal: float
    got: float | None
    #: Whether more is better.
    more: bool = False

    @property
    def verdict(self) -> str:
        """``goal``, ``must``, ``missed``, or ``-`` where it was not measured."""
        if self.got is None:
            return "-"
        if self.got >= self.goal if self.more else self.got <= self.goal:
            return "goal"
        return "must" if (self.got >= self.must if self.more else self.got <= self.must) else "missed"


def by_level(found: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Medians of the workers' runs, by level and subject."""
    grouped: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in found:
        grouped[row["level"]][row["subject"]].append(row)
    return {
        level: {
            subject: medians(rows) | {"held": all(row.get("held") for row in rows)} for subject, rows in each.items()
        }
        for level, each in grouped.items()
    }


def bars(results: Mapping[str, Any]) -> list[Bar]:
    """The bars of issue 7."""
    workers = by_level(results.get("workers", []))
    names = [level.name for level, _, _ in LEVELS]

    def cpu(level: str, subject: str) -> float | None:
        return workers.get(level, {}).get(subject, {}).get("cpu_ms_per_job")

    thousand = workers.get(names[3], {}).get(OURS, {})
    submits = {name: medians(rows) for name, rows in results.get("submits", {}).items()}
    held = {row["asked"]: row for row in results.get("longpolls", [])}
    latency = results.get("latency", {})
    events = by_level(results.get("events", [])).get(names[1], {})
    return [
        Bar(
            "CPU per job at 500, against Celery gevent",
            0.55,
            0.40,
            ratio(cpu(names[1], OURS), cpu(names[1], CELERY.name)),
        ),
        Bar("the same, against arq", 1.0, 0.70, ratio(cpu(names[1], OURS), cpu(names[1], ARQ.name))),
        Bar("our CPU per job at 1,000, against 50", 1.25, 1.10, ratio(cpu(names[3], OURS), cpu(names[0], OURS))),
        Bar("our CPU per job at 2,000, against 50", 1.25, 1.10, ratio(cpu(names[4], OURS), cpu(names[0], OURS))),
        Bar("1,000 calls of 10 s: peak in flight", 950, 950, thousand.get("peak"), more=True),
        Bar("1,000 calls of 10 s: makespan against the ideal", 1.20, 1.10, thousand.get("stretch")),
        Bar("1,000 calls of 10 s: memory, MB", 200, 150, thousand.get("rss_mb")),
        Bar("submits on one core, against plain Flask", 2.0, 3.0, _of(submits, "submits_per_second"), more=True),
        Bar("p99 of a submit at 70 % of that, ms", 50, 20, submits.get(OURS, {}).get("steady_p99_ms")),
        Bar("submit to LLM, p50, ms", 10, 5, latency.get("p50_ms")),
        Bar("submit to LLM, p99, ms", 40, 20, latency.get("p99_ms")),
        Bar("long-polls held", 2000, 5000, max((row["held"] for row in held.values()), default=None), more=True),
        Bar("memory with 2,000 of them, MB", 300, 300, held.get(2000, {}).get("rss_mb")),
        Bar(
            "submits beside 2,000 of them, against none",
            0.5,
            0.5,
            ratio(held.get(2000, {}).get("submits_per_second"), held.get(2000, {}).get("submits_per_second_alone")),
            more=True,
        ),
        *(
            Bar(f"{step} at the most waiting, against 1,000", 1.2, 1.1, _deep(results.get("depth", {}), step))
            for step in _STEPS
        ),
        Bar(
            "CPU per job with events, against none",
            1.15,
            1.05,
            ratio(events.get(OURS, {}).get("cpu_ms_per_job"), events.get(QUIET.name, {}).get("cpu_ms_per_job")),
        ),
    ]


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """One by the other, where both were measured."""
    return None if ours is None or not theirs else round(ours / theirs, 3)


def _of(submits: Mapping[str, Mapping[str, Any]], name: str) -> float | None:
    return ratio(submits.get(OURS, {}).get(name), submits.get("plain flask", {}).get(name))


def _deep(found: Mapping[Any, Mapping[str, float]], step: str) -> float | None:
    levels = sorted(found, key=int)
    return ratio(found[levels[-1]][step], found[levels[0]][step]) if len(levels) > 1 else None


@dataclass(frozen=True)
class Sheet:
    """A table: its columns, and its cells as text."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def sheets(results: Mapping[str, Any]) -> Iterator[Sheet]:
    """What was measured, for the terminal and for the docs; nothing of what was not."""
    columns: tuple[str, ...] = ("bar", "must", "goal", "got", "")
    yield Sheet("Bars", columns, [_bar(bar) for bar in bars(results) if bar.got is not None])
    columns = ("in flight", "worker", "CPU, ms a job", "jobs/s", "makespan / ideal", "peak in flight", "memory, MB")
    rows = [
        (level, subject, *_cells(row))
        for level, subjects in by_level(results.get("workers", [])).items()
        for subject, row in subjects.items()
    ]
    yield Sheet("Workers; * did not hold the level", columns, rows)
    columns = ("API, one process on one core", "submits/s", "CPU, ms", "p50, p99 at 70 %, ms", "polls/s")
    yield Sheet("API", columns, [_api(name, medians(rows)) for name, rows in results.get("submits", {}).items()])
    columns = ("long-polls on one API process", "memory, MB", "submits/s beside them", "submits/s without them")
    names = ("held", "rss_mb", "submits_per_second", "submits_per_second_alone")
    polls = [tuple(f"{row[name]:,.0f}" for name in names) for row in results.get("longpolls", [])]
    yield Sheet("Long-polls", columns, polls)
    columns = ("jobs waiting", "submit, µs", "claim, µs", "a page of 20, µs")
    depth = results.get("depth", {}).items()
    times = [(f"{int(waiting):,}", *(f"{row[step]:.0f}" for step in _STEPS)) for waiting, row in depth]
    yield Sheet("A long queue", columns, times)
    if "latency" in results:
        row = results["latency"]
        yield Sheet(
            "From a submit to the LLM, 50 jobs/s", ("p50, ms", "p99, ms"), [(str(row["p50_ms"]), str(row["p99_ms"]))]
        )
    if "streams" in results:
        row = results["streams"]
        columns = ("stream", "first piece, p50, ms", "p99, ms", "end, p50, ms")
        streams = [
            (name, *(f"{row[f'{key}_{what}_ms']:.1f}" for what in ("first_p50", "first_p99", "last_p50")))
            for name, key in (("the LLM directly", "direct"), ("through PromptQ", "promptq"), ("added", "added"))
        ]
        yield Sheet("Streams, 10 begun a second", columns, streams)
    if "redis" in results:
        row = results["redis"]
        columns = ("queued job, bytes", "ended job, bytes", "CPU of Redis, ms a job")
        cells = (f"{row['queued_bytes']:,}", f"{row['ended_bytes']:,}", str(row["cpu_ms_per_job"]))
        yield Sheet("Redis", columns, [cells])


def show(results: Mapping[str, Any], console: Console) -> None:
    """Print what was measured."""
    for sheet in sheets(results):
        if sheet.rows:
            table = Table(title=sheet.title)
            for place, name in enumerate(sheet.columns):
                table.add_column(name, justify="right" if place else "left")
            for row in sheet.rows:
                table.add_row(*row)
            console.print(table)


def _bar(bar: Bar) -> tuple[str, ...]:
    return bar.what, f"{bar.must:g}", f"{bar.goal:g}", "-" if bar.got is None else f"{bar.got:g}", bar.verdict


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    if not row["runs"]:
        return ("failed", "", "", "", "")
    low, high = row["spread"]["cpu_ms_per_job"]
    spread = f" ({low:.1f} to {high:.1f})" if row["runs"] > 1 else ""
    # Of many processes what they share is counted once.
    memory = row["rss_mb"] if row["rss_mb"] < 1.5 * row["pss_mb"] else row["pss_mb"]
    return (
        f"{row['cpu_ms_per_job']:.1f}{spread}",
        f"{row['jobs_per_second']:.0f}",
        f"{row['stretch']:.2f}",
        f"{row['peak']:.0f}{'' if row['held'] else ' *'}",
        f"{memory:.0f}",
    )


def _api(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    steady = f"{row['steady_p50_ms']:.1f}, {row['steady_p99_ms']:.1f}"
    submits, polls = f"{row['submits_per_second']:.0f}", f"{row['polls_per_second']:.0f}"
    return name, submits, f"{row['cpu_ms_per_submit']:.2f}", steady, polls
