"""What a file of 200 MB costs an API process on its way up and down: ``python -m bench.files [--megabytes N]``.

Its memory beside idle, with the directory as the storage, and the longest that another caller waits meanwhile.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import httpx2

from bench.usage import Peak, memory
from tests import processes
from tests.processes import Stack


def main() -> None:
    """Measure, and print a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.files", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200, help="size of the file (200)")
    size = parser.parse_args().megabytes * 1024 * 1024
    with tempfile.TemporaryDirectory(prefix="promptq-bench-") as name:
        folder, over, waits = Path(name), threading.Event(), [0.0]
        with (folder / "big").open("wb") as file:
            file.truncate(size)
        with processes.stack(folder, "--no-flower") as stack, stack.client(timeout=120) as client:
            pid = stack.processes["api"]
            idle = memory(pid).rss
            other = threading.Thread(target=_ask, args=(stack, over, waits))
            other.start()
            with Peak(pid) as peak:
                seconds = _up_and_down(client, folder / "big")
            over.set()
            other.join()
    figures = {"idle_mb": round(idle / 1e6, 1), "above_idle_mb": round((peak.memory.rss - idle) / 1e6, 1)}
    print(json.dumps(figures | {"slowest_other_caller_s": round(max(waits), 3), "seconds": round(seconds, 1)}))


def _up_and_down(client: httpx2.Client, path: Path) -> float:
    began = time.monotonic()
    with path.open("rb") as file:
        sent = client.post("/v1/files", files={"file": ("big", file)}, data={"purpose": "user_data"})
    with client.stream("GET", f"/v1/files/{sent.raise_for_status().json()['id']}/content") as answer:
        assert sum(len(chunk) for chunk in answer.iter_bytes()) == path.stat().st_size
    return time.monotonic() - began


def _ask(stack: Stack, over: threading.Event, waits: list[float]) -> None:
    with stack.client() as client:
        while not over.wait(0.02):
            began = time.monotonic()
            client.get("/v1/jobs", params={"limit": 1}).raise_for_status()
            waits.append(time.monotonic() - began)


if __name__ == "__main__":
    main()
