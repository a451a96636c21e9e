"""``make demo``: the whole stack on free ports and the simulator, used the way its users would, then stopped."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx2
import openai
from openai.types.webhooks import ResponseCompletedWebhookEvent
from rich.console import Console

from cli.client.receiver import Receiver

_PROMPTS: Final = (
    "Explain Kubernetes in simple terms.",
    "Write a haiku about queues.",
    "What is a fencing token?",
    "Pourquoi le ciel est-il bleu ? ☀",
)
_START_LIMIT: Final = 120.0
_WEBHOOK_LIMIT: Final = 30.0
_console = Console(highlight=False)


def main() -> int:
    """Run the demo; 0 if every prompt was answered and the stack stopped cleanly."""
    # Ended from outside, it takes its stack along, which is in a session of its own.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    with tempfile.TemporaryDirectory(prefix="promptq-demo-") as folder:
        ready = Path(folder) / "ready.json"
        # Neither a key nor an address of the environment is used: a demo spends nobody's money.
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PROMPTQ_"))}
        command = [
            *(sys.executable, "-m", "cli", "up", "--simulator", "--port", "0", "--flower-port", "0", "--workers", "2"),
            *("--data-dir", str(Path(folder) / "data"), "--ready-file", str(ready)),
        ]
        up = subprocess.Popen(command, env=outside, start_new_session=True)
        try:
            stack = _wait_until_ready(up, ready)
            if stack is None:
                _console.print("[red]The stack did not start.[/]")
                return 1
            answered = _use(stack)
        finally:
            _say("Stopping the stack")
            if up.poll() is None:
                up.send_signal(signal.SIGTERM)
            try:
                stopped = up.wait(60)
            except subprocess.TimeoutExpired:
                # Its guard ends the rest.
                up.kill()
                stopped = up.wait()
    if stopped != 0:
        _console.print(f"[red]The stack did not stop cleanly (exit code {stopped}).[/]")
        return 1
    _console.print(f"[green]Done:[/] {answered} prompts answered. Next: [bold]make up[/], then README.md.")
    return 0


def _wait_until_ready(up: subprocess.Popen[bytes], ready: Path) -> dict[str, Any] | None:
    deadline = time.monotonic() + _START_LIMIT
    while time.monotonic() < deadline and up.poll() is None:
        if ready.exists():
            return dict(json.loads(ready.read_text()))
        time.sleep(0.1)
    return None


def _use(stack: dict[str, Any]) -> int:
    api = stack["api"]
    client = openai.OpenAI(base_url=f"{api}/v1", api_key=stack["api_key"])

    _say("1. Submit and poll, with the unchanged openai SDK", "client.responses.create(..., background=True)")
    submitted = [client.responses.create(model="sim", input=prompt, background=True) for prompt in _PROMPTS]
    for prompt, response in zip(_PROMPTS, submitted, strict=True):
        seen = [response.status]
        while response.status in ("queued", "in_progress"):
            time.sleep(0.05)
            response = client.responses.retrieve(response.id)
            if response.status != seen[-1]:
                seen.append(response.status)
        _answer(prompt, response.output_text, f"{response.id}: {' → '.join(str(status) for status in seen)}")

    _say(
        "2. Ask and wait on one connection, with curl",
        f"curl -X POST {api}/generate -H 'Content-Type: application/json' -d '{json.dumps({'prompt': _PROMPTS[0]})}'",
    )
    with httpx2.Client(base_url=api, headers={"Authorization": f"Bearer {stack['api_key']}"}, timeout=60) as http:
        _answer(_PROMPTS[0], http.post("/generate", json={"prompt": _PROMPTS[0]}).raise_for_status().json()["response"])

        _say("3. Any endpoint as a job, with a long-poll for its end", f"curl {api}/v1/jobs/ID?wait=30")
        accepted = http.post("/v1/jobs", json={"prompt": _PROMPTS[1], "queue": "bulk"}).raise_for_status()
        job = http.get(accepted.headers["Location"], params={"wait": 30}).raise_for_status().json()
        took = job["finished_at"] - job["created_at"]
        text = job["result"]["choices"][0]["message"]["content"]
        _answer(_PROMPTS[1], text, f"{job['id']}: {job['status']} after {took:.2f} s, attempt {job['attempt']}")

    _say("4. The same prompt to the synchronous chat door", "client.chat.completions.create(...)")
    chat = client.chat.completions.create(model="sim", messages=[{"role": "user", "content": _PROMPTS[2]}])
    _answer(_PROMPTS[2], chat.choices[0].message.content or "")

    _webhook(client)

    calls = httpx2.get(stack["llm"].removesuffix("/v1") + "/stats").raise_for_status().json()["calls"]
    answered = len(_PROMPTS) + 4
    if calls != answered:
        raise SystemExit(f"{answered} prompts made {calls} calls of the LLM")
    _say("6. Watch", "every task by name and job id, never by prompt")
    _console.print(f"   Flower        {stack['flower']} (log in as {stack['flower_login']})", soft_wrap=True)
    _console.print(f"   API reference {api}/docs", soft_wrap=True)
    _console.print(f"   LLM calls     {calls}, one for each prompt")
    return answered


def _webhook(client: openai.OpenAI) -> None:
    """Have a job's end told to a receiver of our own, which believes nothing that the SDK does not verify."""
    _say(
        "5. Be told by a signed webhook",
        "client.webhooks.create(...), then client.webhooks.unwrap(body, headers, secret=...)",
    )
    arrived: queue.SimpleQueue[tuple[Mapping[str, str], bytes]] = queue.SimpleQueue()

    def take(headers: Mapping[str, str], body: bytes) -> bool:
        arrived.put((headers, body))
        return True

    with Receiver(0, take) as receiver:
        endpoint = client.webhooks.create(name="demo", url=receiver.url, event_types=["response.completed"])
        response = client.responses.create(model="sim", input=_PROMPTS[3], background=True)
        try:
            headers, body = arrived.get(timeout=_WEBHOOK_LIMIT)
        except queue.Empty:
            raise SystemExit("no webhook has arrived") from None
        event = client.webhooks.unwrap(body, headers, secret=endpoint.signing_secret)
        if not isinstance(event, ResponseCompletedWebhookEvent) or event.data.id != response.id:
            raise SystemExit("the webhook is not that of the response")
        text = client.responses.retrieve(event.data.id).output_text
        client.webhooks.delete(endpoint.id)
    _answer(_PROMPTS[3], text, f"{event.type} of {event.data.id}, verified by the SDK")


def _say(title: str, how: str = "") -> None:
    _console.print(f"\n[bold cyan]{title}[/]" + (f"\n   [dim]{how}[/]" if how else ""), soft_wrap=True)


def _answer(prompt: str, text: str, about: str = "") -> None:
    _console.print(f"   [bold]?[/] {prompt}\n   [green]![/] {text}", soft_wrap=True)
    if about:
        _console.print(f"     [dim]{about}[/]", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
