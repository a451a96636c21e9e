"""What one API process can do: submits, polls and long-polls, beside the one that is written by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

from bench.environments import PEERS, our_python, peers_python
from bench.fill import PROMPT
from bench.http_load import Connection, as_fast_as_it_goes, at_a_rate, request
from bench.loopback import Loopback
from bench.usage import Memory, cpu_seconds, memory, pin
from tests.processes import end, eventually, free_port

_ROOT: Final = Path(__file__).parents[1]
_CONNECTIONS: Final = 16
#: Of the most that it did, when the latency of a steady load is measured.
_STEADY: Final = 0.7


@dataclass(frozen=True)
class Server:
    """An API process under test."""

    port: int
    pid: int


@contextlib.contextmanager
def ours(loopback: Loopback) -> Iterator[Server]:
    """PromptQ's API: one process, as ``promptq up`` and the image run it."""
    port = free_port()
    settings = {
        "PROMPTQ_REDIS_URL": loopback.redis_url,
        "PROMPTQ_PORT": str(port),
        "PROMPTQ_HOST": "127.0.0.1",
        "OPENAI_BASE_URL": loopback.llm_url,
    }
    command = [our_python("api"), "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "api.wsgi:app"]
    with _server(loopback, command, settings, _ROOT, port) as server:
        yield server


@contextlib.contextmanager
def plain_flask(loopback: Loopback) -> Iterator[Server]:
    """Flask, pydantic, HSET and ``send_task``, on the same kind of gunicorn worker."""
    port = free_port()
    command = [
        *(peers_python("flask"), "-m", "gunicorn", "--worker-class", "gevent", "--workers", "1"),
        *("--bind", f"127.0.0.1:{port}", "--keep-alive", "75", "--no-control-socket", "app:app"),
    ]
    with _server(loopback, command, {"REDIS_URL": loopback.redis_url}, PEERS / "flask", port) as server:
        yield server


@contextlib.contextmanager
def _server(
    loopback: Loopback, command: list[str], settings: dict[str, str], folder: Path, port: int
) -> Iterator[Server]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("PROMPTQ_", "OPENAI_"))}
    with (loopback.folder / "api.log").open("a") as log:
        process = subprocess.Popen(command, cwd=folder, env=outside | settings, stdout=log, stderr=log)
    try:
        eventually(lambda: _answers(port) or process.poll() is not None, within=30)
        assert process.poll() is None, (loopback.folder / "api.log").read_text()[-2000:]
        pin(process.pid, under_test=True)
        yield Server(port, process.pid)
    finally:
        end(process)


def _answers(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/v1/jobs/none", timeout=2).status_code == 404
    except httpx2.HTTPError:
        return False


def submit(number: int) -> bytes:
    """A submit as its simplest caller sends it."""
    return request("POST", "/v1/jobs", json.dumps({"prompt": f"{number}: {PROMPT}"}).encode())


def measure(loopback: Loopback, server: Server, seconds: float) -> dict[str, Any]:
    """Submits and polls a second on one core, and the latency of submits at seven tenths of that."""
    _check(asyncio.run(as_fast_as_it_goes(server.port, submit, connections=4, seconds=1)).statuses, 202)
    loopback.client.flushall()
    before = cpu_seconds(server.pid)
    fast = asyncio.run(as_fast_as_it_goes(server.port, submit, connections=_CONNECTIONS, seconds=seconds))
    used = cpu_seconds(server.pid) - before
    _check(fast.statuses, 202)
    steady = asyncio.run(at_a_rate(server.port, submit, rate=_STEADY * fast.per_second, seconds=seconds))
    job_id = asyncio.run(_one_job(server.port))
    poll = request("GET", f"/v1/jobs/{job_id}")
    polls = asyncio.run(as_fast_as_it_goes(server.port, lambda _: poll, connections=_CONNECTIONS, seconds=seconds))
    _check(polls.statuses, 200)
    loopback.client.flushall()
    return {
        "submits_per_second": round(fast.per_second, 1),
        "cpu_ms_per_submit": round(used / len(fast.latencies) * 1000, 3),
        "steady_p50_ms": round(steady.percentile(0.50) * 1000, 2),
        "steady_p99_ms": round(steady.percentile(0.99) * 1000, 2),
        "steady_refused": sum(count for status, count in steady.statuses.items() if status != 202),
        "polls_per_second": round(polls.per_second, 1),
        "polls_p99_ms": round(polls.percentile(0.99) * 1000, 2),
    }


def hold(loopback: Loopback, server: Server, held: int, seconds: float) -> dict[str, Any]:
    """So many long-polls at once on one process, and what submits it still takes."""
    return asyncio.run(_hold(loopback, server, held, seconds))


async def _hold(loopback: Loopback, server: Server, held: int, seconds: float) -> dict[str, Any]:
    alone = await as_fast_as_it_goes(server.port, submit, connections=_CONNECTIONS, seconds=seconds)
    idle = memory(server.pid)
    asked = Connection.ask
    job_id = await _one_job(server.port)
    poll = request("GET", f"/v1/jobs/{job_id}?wait=60")
    waiting = []
    began = time.perf_counter()
    for _ in range(held):
        connection = await Connection.open(server.port)
        waiting.append(asyncio.create_task(asked(connection, poll)))
        if len(waiting) % 100 == 0:
            await asyncio.sleep(0)
    # Each is in the server's hands when a request that came after all of them is answered.
    await (await Connection.open(server.port)).ask(request("GET", f"/v1/jobs/{job_id}"))
    await asyncio.sleep(2)
    full = memory(server.pid)
    still = sum(not task.done() for task in waiting)
    beside = await as_fast_as_it_goes(server.port, submit, connections=_CONNECTIONS, seconds=seconds)
    opened_in = time.perf_counter() - began
    await (await Connection.open(server.port)).ask(request("POST", f"/v1/jobs/{job_id}/cancel"))
    answers = await asyncio.wait_for(asyncio.gather(*waiting), 60)
    _check({200: sum(status == 200 for status, _ in answers), 0: sum(status != 200 for status, _ in answers)}, 200)
    loopback.client.flushall()
    return {
        "held": still,
        "asked": held,
        "rss_mb": _mb(full),
        "idle_rss_mb": _mb(idle),
        "kb_each": round((full.rss - idle.rss) / held / 1e3, 1),
        "submits_per_second": round(beside.per_second, 1),
        "submits_per_second_alone": round(alone.per_second, 1),
        "seconds": round(opened_in, 1),
    }


def _mb(found: Memory) -> float:
    return round(found.rss / 1e6, 1)


async def _one_job(port: int) -> str:
    connection = await Connection.open(port)
    _, body = await connection.ask(submit(0))
    connection.close()
    return str(json.loads(body)["id"])


def _check(statuses: dict[int, int], expected: int) -> None:
    others = {status: count for status, count in statuses.items() if status != expected and count}
    assert not others, f"answers other than {expected}: {others}"
