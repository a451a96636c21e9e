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
from cli.stack import valkey
from tests.processes import end, eventually, free_port


@dataclass(frozen=True)
class Loopback:
    """The two, and a folder for logs."""

    redis_url: str
    redis_pid: int
    llm_url: str
    llm_pid: int
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
        started = []
        for command in (
            list(valkey.command(valkey.find_server(), port)),
            [sys.executable, "-m", "simulator", "--ready-file", str(ready)],
        ):
            with (folder / "log").open("a") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, cwd=None if "-m" in command else folder)
            stack.callback(end, process)
            started.append(process)
        url = f"redis://127.0.0.1:{port}/0"
        client = stack.enter_context(redis.Redis.from_url(url))
        eventually(lambda: _answers(client), within=20)
        eventually(ready.exists, within=20)
        for process in started:
            pin(process.pid, under_test=False)
        llm_url = json.loads(ready.read_text())["url"]
        llm = stack.enter_context(httpx2.Client(base_url=llm_url.removesuffix("/v1"), timeout=30))
        yield Loopback(url, started[0].pid, llm_url, started[1].pid, folder, client, llm)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def wait_for(read: Any, *, within: float, every: float = 0.1) -> bool:
    """Whether it came true in time; asked seldom, so that asking costs nothing."""
    deadline = time.monotonic() + within
    while not read():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
