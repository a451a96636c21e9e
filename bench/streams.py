"""What a stream costs on its way: the first piece of text, and all of it, beside the LLM asked directly."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from bench.apis import Server
from bench.fill import PROMPT
from bench.http_load import request
from bench.loopback import Loopback

#: Streams begun a second, far below what either side can do: it is the way that is measured, not a crowd.
_PER_SECOND: Final = 10
#: The LLM's: it thinks, and then writes some 50 pieces of text a second.
_LATENCY: Final = 0.1
_TOKENS_PER_SECOND: Final = 100
#: Directly and through us by turns, so that what else the machine does meets both.
_TURNS: Final = 4


@dataclass
class Times:
    """Milliseconds from the request to the first piece of text and to the end, of each stream."""

    first: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)


def measure(loopback: Loopback, server: Server, seconds: float) -> dict[str, Any]:
    """First piece and end, directly and through us, on a stack that has nothing else to do; a worker must run."""
    loopback.begin(latency=_LATENCY)
    loopback.llm.post("/control", json={"tokens_per_second": _TOKENS_PER_SECOND}).raise_for_status()
    llm_port = urlsplit(loopback.llm_url).port
    assert llm_port is not None
    try:
        direct, through = Times(), Times()
        for _ in range(_TURNS):
            asyncio.run(_streams(llm_port, seconds / _TURNS, direct))
            asyncio.run(_streams(server.port, seconds / _TURNS, through))
    finally:
        loopback.llm.post("/control", json={"tokens_per_second": None}).raise_for_status()
    figures: dict[str, Any] = {"streams": len(through.first)}
    for name, times in (("direct", direct), ("promptq", through)):
        figures |= {f"{name}_first_p50_ms": _at(times.first, 0.5), f"{name}_first_p99_ms": _at(times.first, 0.99)}
        figures |= {f"{name}_last_p50_ms": _at(times.last, 0.5)}
    figures["added_first_p50_ms"] = round(figures["promptq_first_p50_ms"] - figures["direct_first_p50_ms"], 2)
    figures["added_first_p99_ms"] = round(figures["promptq_first_p99_ms"] - figures["direct_first_p99_ms"], 2)
    figures["added_last_p50_ms"] = round(figures["promptq_last_p50_ms"] - figures["direct_last_p50_ms"], 2)
    return figures


def _at(values: list[float], share: float) -> float:
    ordered = sorted(values)
    if share == 0.5:
        return round(statistics.median(ordered), 2)
    return round(ordered[int(share * len(ordered))], 2)


async def _streams(port: int, seconds: float, times: Times) -> None:
    began = time.perf_counter()
    tasks = []
    for number in range(int(_PER_SECOND * seconds)):
        if (wait := began + number / _PER_SECOND - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(_stream(port, number, times)))
    await asyncio.gather(*tasks)


async def _stream(port: int, number: int, times: Times) -> None:
    body = {"model": "sim", "input": f"{number}: {PROMPT}", "stream": True}
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.perf_counter()
    writer.write(request("POST", "/v1/responses", json.dumps(body).encode()))
    await reader.readuntil(b"response.output_text.delta")
    times.first.append((time.perf_counter() - began) * 1000)
    await reader.readuntil(b"event: response.completed")
    times.last.append((time.perf_counter() - began) * 1000)
    writer.close()
