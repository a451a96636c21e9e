"""The tables of docs/performance.md, in Markdown: ``python -m bench.tables [RESULTS.json]``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.report import bars, by_level
from bench.scenarios import medians


def lines(results: dict[str, Any]) -> Iterator[str]:
    """All tables, with what they were measured on."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    yield f"{machine['cpu']}, {machine['cores']} cores; Python {machine['python']}; {versions};"
    rounds = results.get("rounds") or "as many as usual"
    yield f"commit `{machine['commit']}`; rounds: {rounds}; {results['seconds'] // 60} minutes."
    yield ""
    yield "| bar | must | goal | got | |"
    yield "|---|---:|---:|---:|---|"
    for bar in bars(results):
        got = "-" if bar.got is None else f"{bar.got:g}"
        yield f"| {bar.what} | {bar.must:g} | {bar.goal:g} | {got} | {bar.verdict} |"
    yield ""
    yield "| in flight | worker | CPU, ms a job | jobs/s | makespan / ideal | peak in flight | memory, MB |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for level, subjects in by_level(results.get("workers", [])).items():
        for subject, row in subjects.items():
            if not row["runs"]:
                yield f"| {level} | {subject} | failed | | | | |"
                continue
            star = "" if row["held"] else " *"
            memory = row["rss_mb"] if row["rss_mb"] < 1.5 * row["pss_mb"] else row["pss_mb"]
            pace = f"{row['cpu_ms_per_job']:.1f} | {row['jobs_per_second']:.0f} | {row['stretch']:.2f}"
            yield f"| {level} | {subject} | {pace} | {row['peak']:.0f}{star} | {memory:.0f} |"
    yield ""
    yield "| API, one process on one core | submits/s | CPU, ms | p50 and p99 at 70 %, ms | polls/s |"
    yield "|---|---:|---:|---:|---:|"
    for name, rows in results.get("submits", {}).items():
        row = medians(rows)
        steady = f"{row['steady_p50_ms']:.1f}, {row['steady_p99_ms']:.1f}"
        yield (
            f"| {name} | {row['submits_per_second']:.0f} | {row['cpu_ms_per_submit']:.2f} | {steady} | "
            f"{row['polls_per_second']:.0f} |"
        )
    yield ""
    yield "| jobs waiting | submit, µs | claim, µs | a page of 20, µs |"
    yield "|---:|---:|---:|---:|"
    for waiting, row in results.get("depth", {}).items():
        yield f"| {int(waiting):,} | {row['submit']:.0f} | {row['claim']:.0f} | {row['list']:.0f} |"
    yield ""
    for row in results.get("longpolls", []):
        beside = f"{row['submits_per_second']:.0f} submits/s, {row['submits_per_second_alone']:.0f} without them"
        yield f"- {row['held']:,} long-polls on one API process: {row['rss_mb']:.0f} MB; beside them {beside}."
    if "latency" in results:
        row = results["latency"]
        yield f"- From a submit to the LLM, at 50 jobs/s: p50 {row['p50_ms']} ms, p99 {row['p99_ms']} ms."
    if "redis" in results:
        row = results["redis"]
        yield (
            f"- Redis: {row['queued_bytes']:,} bytes for a queued job, {row['ended_bytes']:,} for one that has ended, "
            f"{row['cpu_ms_per_job']} ms of its CPU for each."
        )


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(prog="python -m bench.tables", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=Path("bench/results.json"), metavar="RESULTS.json")
    print("\n".join(lines(json.loads(parser.parse_args().results.read_text()))))


if __name__ == "__main__":
    main()
