"""A batch of 50,000 lines through the whole stack: ``python -m bench.batches [--lines N] [--bytes N] [--batches N] …``.

``--lines 4000 --bytes 50000`` makes the largest file of long lines. How long it takes, how much memory API, worker and
Redis take at most, and how long an ``interactive`` job waits meanwhile, beside one on the same stack before. Everything
on loopback, against the simulator; ends by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Final

import httpx2
import redis

from bench.fill import PROMPT
from bench.usage import Peak, memory
from tests import processes
from tests.processes import Stack

_EVERY: Final = 3.0
_LONGEST: Final = 1800.0


def main() -> None:
    """Run it and print a line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.batches", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lines", type=int, default=50_000, help="lines of the batch (50,000)")
    parser.add_argument("--slots", type=int, default=500, help="slots of the one worker (500)")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each call takes (1)")
    parser.add_argument("--bytes", type=int, default=len(PROMPT), help=f"bytes of each prompt ({len(PROMPT)})")
    parser.add_argument("--batches", type=int, default=1, help="batches of such a file at once (1)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="promptq-bench-") as folder:
        options = ("--concurrency", str(chosen.slots), "--simulator-latency", str(chosen.seconds), "--no-flower")
        with processes.stack(Path(folder), *options) as stack, stack.client(timeout=120) as client:
            path = _write(Path(folder) / "lines.jsonl", chosen.lines, chosen.bytes)
            print(json.dumps(_measure(stack, client, path, chosen.lines, chosen.batches)), flush=True)


def _measure(stack: Stack, client: httpx2.Client, path: Path, lines: int, batches: int) -> dict[str, Any]:
    alone = [_interactive(client) for _ in range(5)]
    pids = {name: pid for name, pid in stack.processes.items() if name.startswith(("api", "worker"))}
    idle = {name: memory(pid).rss for name, pid in pids.items()}
    with redis.Redis.from_url(stack.redis) as store, contextlib.ExitStack() as watching:
        store.config_resetstat()
        empty = int(store.info("memory")["used_memory"])
        peaks = {name: watching.enter_context(Peak(pid)) for name, pid in pids.items()}
        most = watching.enter_context(_RedisPeak(store))
        began = time.monotonic()
        made = [_start(client, path) for _ in range(batches)]
        uploaded = time.monotonic() - began
        beside: list[float] = []
        for batch_id in made:
            while (batch := client.get(f"/v1/batches/{batch_id}").raise_for_status().json())["status"] != "completed":
                assert batch["status"] in ("validating", "in_progress", "finalizing"), batch
                assert time.monotonic() - began < _LONGEST, batch
                if batch["status"] == "in_progress":
                    beside.append(_interactive(client))
                time.sleep(_EVERY)
            assert batch["request_counts"] == {"total": lines, "completed": lines, "failed": 0}, batch
        seconds = time.monotonic() - began
        size = sum(_download(client, client.get(f"/v1/batches/{one}").json()["output_file_id"]) for one in made)
    return {
        "batches": batches,
        "lines": lines,
        "input_mb": round(path.stat().st_size / 1e6, 1),
        "seconds": round(seconds, 1),
        "upload_seconds": round(uploaded, 1),
        "lines_per_second": round(batches * lines / seconds, 1),
        "output_mb": round(size / 1e6, 1),
        "idle_mb": {name: round(rss / 1e6, 1) for name, rss in idle.items()},
        "peak_mb": {name: round(peak.memory.rss / 1e6, 1) for name, peak in peaks.items()},
        "redis_empty_mb": round(empty / 1e6, 1),
        "redis_peak_mb": round(most.bytes / 1e6, 1),
        "interactive_alone_s": round(statistics.median(alone), 3),
        "interactive_beside_s": {
            "median": round(statistics.median(beside), 3),
            "worst": round(max(beside), 3),
            "jobs": len(beside),
        },
    }


class _RedisPeak:
    """The most memory that Redis has used while the ``with`` lasts."""

    def __init__(self, store: redis.Redis) -> None:
        self._store, self._over, self.bytes = store, threading.Event(), 0
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> _RedisPeak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self.bytes = max(self.bytes, int(self._store.info("memory")["used_memory"]))


def _write(path: Path, lines: int, size: int) -> Path:
    prompt = (PROMPT * (1 + size // len(PROMPT)))[:size]
    with path.open("w") as file:
        for number in range(lines):
            body = {"model": "sim", "messages": [{"role": "user", "content": f"{number}: {prompt}"}]}
            line = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    return path


def _start(client: httpx2.Client, path: Path) -> str:
    with path.open("rb") as file:
        answer = client.post("/v1/files", files={"file": ("lines.jsonl", file)}, data={"purpose": "batch"})
    made = {
        "input_file_id": answer.raise_for_status().json()["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    return str(client.post("/v1/batches", json=made).raise_for_status().json()["id"])


def _interactive(client: httpx2.Client) -> float:
    """Seconds from a submit to its answer, of a job that somebody waits for."""
    began = time.monotonic()
    sent = {"prompt": f"interactive {uuid.uuid4().hex}", "queue": "interactive"}
    job_id = client.post("/v1/jobs", json=sent).raise_for_status().json()["id"]
    assert client.get(f"/v1/jobs/{job_id}", params={"wait": 60}).raise_for_status().json()["status"] == "completed"
    return time.monotonic() - began


def _download(client: httpx2.Client, file_id: str) -> int:
    with client.stream("GET", f"/v1/files/{file_id}/content") as answer:
        return sum(len(chunk) for chunk in answer.iter_bytes())


if __name__ == "__main__":
    main()
