"""``python draw.py RESULTS.json PICTURE.png``: CPU per job against calls in flight, ours and the peers."""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

_OURS = "promptq"


def main() -> None:
    """Draw the medians of the workers' runs."""
    source, target = sys.argv[1:]
    found: dict[str, dict[tuple[int, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    levels: list[str] = []
    for run in json.loads(Path(source).read_text())["workers"]:
        if run["level"] not in levels:
            levels.append(run["level"])
        if "failed" not in run:
            found[run["subject"]][levels.index(run["level"]), run["level"]].append(run["cpu_ms_per_job"])
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120)
    for subject, points in found.items():
        places = sorted(points)
        heights = [statistics.median(points[place]) for place in places]
        style = {"linewidth": 2.5, "color": "black"} if subject == _OURS else {"linewidth": 1.2}
        axes.plot([place for place, _ in places], heights, marker="o", label=subject, **style)
    axes.set_xticks(range(len(levels)), levels)
    # One that takes ten times what the others do would leave nothing to see of them.
    heights = sorted(statistics.median(runs) for points in found.values() for runs in points.values())
    top = 1.3 * max(height for height in heights if height < 5 * heights[len(heights) // 2])
    axes.set_ylim(0, top)
    for subject, points in found.items():
        for (place, _), runs in points.items():
            if (height := statistics.median(runs)) > top:
                axes.annotate(f"{subject}: {height:.0f} ms", (place, top), (place + 0.05, 0.95 * top))
    axes.set_xlabel("calls in flight, and how long each takes")
    axes.set_ylabel("CPU of the worker for each job, ms")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(target)


main()
