"""How soon a full worker refills a freed slot: ``python -m bench.refill``.

Starts the whole stack with ten slots, submits a hundred calls of 0.3 s at once, and prints the makespan beside the
ideal.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from tests import processes

_SLOTS, _CALLS, _SECONDS = 10, 100, 0.3


def main() -> None:
    """Measure once and print the figures as JSON."""
    options = ("--concurrency", str(_SLOTS), "--simulator-latency", str(_SECONDS), "--no-flower")
    with (
        tempfile.TemporaryDirectory() as folder,
        processes.stack(Path(folder), *options) as stack,
        stack.client() as client,
    ):
        began = time.monotonic()
        jobs = [client.post("/v1/jobs", json={"prompt": f"prompt {number}"}).json() for number in range(_CALLS)]
        for job in jobs:
            ended = client.get(f"/v1/jobs/{job['id']}", params={"wait": 60}).raise_for_status().json()
            assert ended["status"] == "completed", ended
        took = time.monotonic() - began
        peak = stack.stats()["peak"]
    ideal = _CALLS * _SECONDS / _SLOTS
    print(json.dumps({"makespan_seconds": round(took, 2), "ideal_seconds": ideal, "peak_in_flight": peak}))


if __name__ == "__main__":
    main()
