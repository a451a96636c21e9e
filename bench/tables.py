"""The tables of docs/performance.md, in Markdown: ``python -m bench.tables [RESULTS.json]``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.report import sheets


def lines(results: dict[str, Any]) -> Iterator[str]:
    """All tables, with what they were measured on."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    yield f"{machine['cpu']}, {machine['cores']} cores; Python {machine['python']}; {versions};"
    rounds = results.get("rounds") or "as many as usual"
    yield f"commit `{machine['commit']}`; rounds: {rounds}; {results['seconds'] // 60} minutes."
    for sheet in sheets(results):
        if sheet.rows:
            yield from ("", f"**{sheet.title}**", "")
            yield f"| {' | '.join(sheet.columns)} |"
            yield "|---" + "|---:" * (len(sheet.columns) - 1) + "|"
            yield from (f"| {' | '.join(row)} |" for row in sheet.rows)


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(prog="python -m bench.tables", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=Path("bench/results.json"), metavar="RESULTS.json")
    print("\n".join(lines(json.loads(parser.parse_args().results.read_text()))))


if __name__ == "__main__":
    main()
