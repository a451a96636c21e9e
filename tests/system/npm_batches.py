"""npm's ``openai`` as the client of files and batches. ``tests/system/run`` installs it and names this file."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.integration.batching import jsonl, line
from tests.integration.driving import unique
from tests.processes import Stack

SCRIPT = Path(__file__).parent / "webhooks" / "batches.mjs"


def test_files_and_batches(stack: Stack, tmp_path: Path) -> None:
    """Upload, create, retrieve, list, content and cancel, which is refused of a batch that has ended and ends one that
    runs with each of its lines in one of its files, as the SDK for Node.js has them."""
    prompts = {f"line-{number}": unique() for number in range(5)}
    lines = jsonl([line(name, prompt) for name, prompt in prompts.items()])
    hanging = [f"hanging-{number}" for number in range(3)]
    running = tmp_path / "running.jsonl"
    running.write_bytes(jsonl([line("quick", unique()), *(line(name, unique(), "sim-hang") for name in hanging)]))
    ran = subprocess.run(
        ["node", str(SCRIPT), f"{stack.api}/v1", stack.api_key, str(running)],
        input=lines,
        capture_output=True,
        timeout=90,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    said = json.loads(ran.stdout)
    assert said["filename"] == "lines.jsonl"
    assert said["batch"]["status"] == "completed"
    assert said["batch"]["request_counts"] == {"total": 5, "completed": 5, "failed": 0}
    assert said["batch"]["id"] in said["listed"]
    assert said["refused"] == {"name": "ConflictError", "status": 409, "code": "batch_not_cancellable"}
    answers = [json.loads(one) for one in said["content"].splitlines()]
    texts = {one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"] for one in answers}
    assert texts == {name: f"Simulated answer to: {prompt}" for name, prompt in prompts.items()}
    assert (said["begun"]["status"], said["cancelling"]["status"]) == ("in_progress", "cancelling")
    cancelled = said["cancelled"]
    assert (cancelled["id"], cancelled["status"]) == (said["begun"]["id"], "cancelled")
    assert cancelled["cancelling_at"] <= cancelled["cancelled_at"]
    assert cancelled["request_counts"] == {"total": 4, "completed": 1, "failed": 3}
    output, errors = (
        {one["custom_id"]: one for one in map(json.loads, said["found"][name].splitlines())}
        for name in ("output", "errors")
    )
    assert (list(output), sorted(errors)) == (["quick"], hanging)
    assert {one["error"]["code"] for one in errors.values()} == {"batch_cancelled"}
