"""What every scenario runs against: a Redis of its own and the LLM simulator, on loopback."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import redis

from bench.usage import pin
from tests.processes import end, eventually, free_port, start_redis


@dataclass(frozen=True)
class Loopback:
    """The two, and a folder for logs."""

    redis_url: str
    redis_pid: int
    llm_url: str
    folder: Path
    client: redis.Redis
    llm: httpx2.Client

    def stats(self) -> dict[str, Any]:
        """What the simulator has counted since ``begin``."""
        return self.llm.get("/stats", params={"detail": "false"}).raise_for_status().json()  # type: ignore[no-any-return]

    def begin(self, *, latency: float, arrivals: bool = False) -> None:
        """Empty the Redis and forget the calls; each takes ``latency`` seconds from now on."""
        self.client.flushall()
        self.llm.post("/control", json={"latency": latency, "arrivals": arrivals}).raise_for_status()
        self.llm.post("/stats/reset").raise_for_status()


@contextlib.contextmanager
def loopback() -> Iterator[Loopback]:
    """Both, pinned to the cores that the one under test does not have."""
    with tempfile.TemporaryDirectory(prefix="promptq-bench-") as name, contextlib.ExitStack() as stack:
        folder, port, ready = Path(name), free_port(), Path(name) / "simulator.json"
        server = start_redis(folder / "redis", port)
        stack.callback(end, server)
        with (folder / "simulator.log").open("w") as log:
            command = [sys.executable, "-m", "simulator", "--ready-file", str(ready)]
            simulator = subprocess.Popen(command, stdout=log, stderr=log)
        stack.callback(end, simulator)
        eventually(ready.exists, within=20)
        for process in (server, simulator):
            pin(process.pid, under_test=False)
        url = f"redis://127.0.0.1:{port}/0"
        client = stack.enter_context(redis.Redis.from_url(url))
        llm_url = json.loads(ready.read_text())["url"]
        llm = stack.enter_context(httpx2.Client(base_url=llm_url.removesuffix("/v1"), timeout=30))
        yield Loopback(url, server.pid, llm_url, folder, client, llm)


def wait_for(read: Any, *, within: float, every: float = 0.1) -> bool:
    """Whether it came true in time; asked seldom, so that asking costs nothing."""
    deadline = time.monotonic() + within
    while not read():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
