"""How much of a core the simulator needs to carry many calls: ``python -m bench.simulator --in-flight 1000``.

Starts a simulator on a free port, keeps so many calls of a second each in flight for a while, and prints what the
simulator's process spent. The load comes from this process; both share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure once and print the figures as JSON."""
    parser = argparse.ArgumentParser(description="Measure the simulator's CPU under load (Linux; loopback only).")
    parser.add_argument("--in-flight", type=int, default=1000, help="calls in flight (default 1000)")
    parser.add_argument("--seconds", type=float, default=10, help="how long (default 10)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.json"
        command = [sys.executable, "-m", "simulator", "--port", "0", "--latency", "1", "--ready-file", str(ready)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while not ready.exists():
                time.sleep(0.05)
            url = json.loads(ready.read_text())["url"]
            print(json.dumps(asyncio.run(_load(url, process.pid, arguments.in_flight, arguments.seconds)), indent=2))
        finally:
            process.terminate()
            process.wait(10)


async def _load(url: str, pid: int, in_flight: int, seconds: float) -> dict[str, Any]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        end = time.monotonic() + seconds
        began, spent = time.monotonic(), _cpu_seconds(pid)
        counts = await asyncio.gather(*(_ask_until(session, url, end, number) for number in range(in_flight)))
        took, spent = time.monotonic() - began, _cpu_seconds(pid) - spent
        async with session.get(url.removesuffix("/v1") + "/stats") as answer:
            stats = await answer.json()
    calls = sum(counts)
    return {
        "in_flight_peak": stats["peak"],
        "calls": calls,
        "calls_per_second": round(calls / took),
        "core_share_percent": round(100 * spent / took, 1),
        "cpu_microseconds_per_call": round(1e6 * spent / calls),
    }


async def _ask_until(session: aiohttp.ClientSession, url: str, end: float, number: int) -> int:
    body = {"model": "sim", "messages": [{"role": "user", "content": f"prompt {number}"}]}
    calls = 0
    while time.monotonic() < end:
        async with session.post(f"{url}/chat/completions", json=body) as answer:
            await answer.read()
            answer.raise_for_status()
        calls += 1
    return calls


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


if __name__ == "__main__":
    main()
