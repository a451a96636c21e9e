"""From the submit to the arrival of the call at the LLM, on a stack that has nothing else to do."""

from __future__ import annotations

import asyncio
import hashlib
import json
import statistics
import time
from typing import Any, Final

from bench.apis import Server
from bench.fill import PROMPT
from bench.http_load import at_a_rate, request
from bench.loopback import Loopback, wait_for

_PER_SECOND: Final = 50


def measure(loopback: Loopback, server: Server, seconds: float) -> dict[str, Any]:
    """Milliseconds from when a caller sends its request to when the simulator has the call; a worker must run."""
    loopback.begin(latency=0.1, arrivals=True)
    sent: dict[str, float] = {}

    def submit(number: int) -> bytes:
        prompt = f"{number}: {PROMPT}"
        body = json.dumps({"prompt": prompt}).encode()
        sent[_hash(prompt)] = time.time()
        return request("POST", "/v1/jobs", body)

    load = asyncio.run(at_a_rate(server.port, submit, rate=_PER_SECOND, seconds=seconds))
    assert set(load.statuses) == {202}, load.statuses
    assert wait_for(lambda: loopback.stats()["calls"] >= len(sent), within=30)
    arrived = loopback.llm.get("/arrivals").raise_for_status().json()
    loopback.begin(latency=0.1)
    took = sorted((arrived[key] - at) * 1000 for key, at in sent.items())
    return {
        "p50_ms": round(statistics.median(took), 2),
        "p99_ms": round(took[int(0.99 * len(took))], 2),
        "jobs": len(took),
    }


def _hash(prompt: str) -> str:
    """As the simulator names a prompt (``simulator.prompts.prompt_hash``)."""
    value = json.dumps([{"role": "user", "content": prompt}], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(value.encode("ascii")).hexdigest()[:16]
