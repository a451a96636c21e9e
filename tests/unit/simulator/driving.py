"""One simulator process, and the ways to talk to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from openai import OpenAI

ROOT = Path(__file__).parents[3]
DEADLINE = 10.0
ODD_TEXT = 'nul:\x00 tab:\t quote:" ünï 漢字 🧪 \u2028 e\u0301 \x7f end'
NORMAL = {
    "latency": 0.0,
    "tokens_per_second": None,
    "error_rate": 0.0,
    "down": False,
    "arrivals": False,
    "chat_alone": False,
}


class Simulator:
    """One simulator process and the ways to talk to it."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url
        self.root = url.removesuffix("/v1")

    def request(self, path: str, body: object = None, *, raw: bytes | None = None) -> Any:
        """Send a GET, or a POST when there is a body, and return the JSON of the answer."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        with urlopen(Request(self.root + path, data=data), timeout=DEADLINE) as answer:
            return json.load(answer)

    def control(self, **changes: object) -> Any:
        return self.request("/control", changes)

    def stats(self) -> Any:
        return self.request("/stats")


@contextmanager
def running(tmp: Path, *arguments: str) -> Iterator[Simulator]:
    """Run a simulator on a free port, and end it by its pid."""
    ready = tmp / "ready.json"
    command = [sys.executable, "-m", "simulator", "--port", "0", "--ready-file", str(ready), *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            told = json.loads(ready.read_text())
            assert told["url"] in line
            assert told == {"url": f"http://127.0.0.1:{told['port']}/v1", "port": told["port"], "pid": process.pid}
            yield Simulator(process, told["url"])
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGTERM)
                process.wait(DEADLINE)


def chat(client: OpenAI, model: str, text: str = "hello", **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **options)
