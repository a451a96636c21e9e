"""``python -m bench``: measure PromptQ beside what people write by hand. Linux; loopback only."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console

from bench.loopback import loopback
from bench.machine import describe
from bench.report import show
from bench.scenarios import SCENARIOS, Bench
from bench.subjects import EVERYBODY


def main() -> int:
    """Run the chosen scenarios, print the tables and write the JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure PromptQ beside what people write by hand, on loopback, against the LLM simulator.",
        epilog="Scenarios: "
        + "; ".join(f"{name}: {(scenario.__doc__ or '').splitlines()[0]}" for name, scenario in SCENARIOS.items()),
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="all of them, unless some are named")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="at most so many rounds of each (usually 3, or 1 of 10 s)"
    )
    parser.add_argument("--quick", action="store_true", help="shorter and fewer rounds, in less than three minutes")
    parser.add_argument(
        "--json", type=Path, default=Path("bench/results.json"), metavar="FILE", help="where the figures go"
    )
    parser.add_argument("--only", choices=[one.name for one in EVERYBODY], help="of the workers this one alone")
    chosen = parser.parse_args()
    if unknown := set(chosen.scenarios) - SCENARIOS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(SCENARIOS)}")
    if not sys.platform.startswith("linux"):
        parser.error("processes are pinned and measured as Linux does it")
    console, began = Console(), time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.0f} s[/dim]  {text}", highlight=False)

    results = {"machine": describe(), "quick": chosen.quick, "rounds": chosen.rounds}
    with loopback() as running:
        for name in chosen.scenarios or SCENARIOS:
            say(f"[bold]{name}[/bold]: {(SCENARIOS[name].__doc__ or '').splitlines()[0]}")
            results[name] = SCENARIOS[name](Bench(running, chosen.quick, say, chosen.rounds, chosen.only))
            results["seconds"] = round(time.monotonic() - began)
            # After each: an hour's figures are not lost with the last of them.
            chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    show(results, console)
    say(f"figures in {chosen.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
