"""What a request costs before anything is done for it: ``python -m bench.floor``.

CPU of one gunicorn process for a submit that a bare WSGI app answers, and one that Flask reads as JSON and answers.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import httpx2
from flask import Flask, request

from bench.apis import submit
from bench.http_load import as_fast_as_it_goes
from bench.usage import cpu_seconds, pin
from tests.processes import end, eventually, free_port

flask = Flask(__name__)


def bare(_: Any, start_response: Any) -> Iterable[bytes]:
    """Answer without looking."""
    start_response("202 Accepted", [("Content-Type", "application/json"), ("Content-Length", "2")])
    return [b"{}"]


@flask.post("/v1/jobs")
def accept() -> Any:
    """Read the body, and no more."""
    request.get_json()
    return {}, 202


def main() -> None:
    """Measure both and print a line of JSON."""
    print(json.dumps({name: _measure(name) for name in ("bare", "flask")}))


def _measure(name: str) -> dict[str, float]:
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--worker-class", "gevent", "--workers", "1", "--keep-alive", "75"]
    command += ["--bind", f"127.0.0.1:{port}", "--no-control-socket", "--log-level", "error", f"bench.floor:{name}"]
    server = subprocess.Popen(command)
    try:
        eventually(lambda: _answers(port), within=20)
        pin(server.pid, under_test=True)
        before = cpu_seconds(server.pid)
        load = asyncio.run(as_fast_as_it_goes(port, submit, connections=16, seconds=5))
        used = cpu_seconds(server.pid) - before
    finally:
        end(server)
    return {"per_second": round(load.per_second), "cpu_ms": round(used / len(load.latencies) * 1000, 3)}


def _answers(port: int) -> bool:
    try:
        return httpx2.post(f"http://127.0.0.1:{port}/v1/jobs", json={}, timeout=1).status_code == 202
    except httpx2.HTTPError:
        return False


if __name__ == "__main__":
    main()
