"""``promptq batch`` on a running stack: from a file of prompts to a file of results, with interruptions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.integration.driving import calls_of, messages, unique
from tests.integration.test_cli_operations import promptq
from tests.processes import Stack, eventually


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers(path: Path) -> list[str]:
    """The texts that the simulator has answered, in order."""
    return [line["response"]["body"]["choices"][0]["message"]["content"] for line in results(path)]


def test_prompts_become_results_in_their_order(stack: Stack, tmp_path: Path) -> None:
    """Each prompt is asked once, and its answer stands where the prompt did; a second run asks nothing."""
    asked = [unique() for _ in range(25)]
    table = tmp_path / "prompts.csv"
    table.write_text("prompt,number\n" + "".join(f"{prompt},{number}\n" for number, prompt in enumerate(asked)))
    out = tmp_path / "results.jsonl"
    done = promptq(stack, "batch", "run", str(table), "-o", str(out), "-m", "sim")
    assert done.returncode == 0, done.stderr
    assert "25 answered, 0 failed" in done.stderr
    assert answers(out) == [f"Simulated answer to: {prompt}" for prompt in asked]
    assert [line["metadata"] for line in results(out)] == [{"number": str(number)} for number in range(25)]
    before = out.read_bytes()
    again = promptq(stack, "batch", "run", str(table), "-o", str(out), "-m", "sim")
    assert (again.returncode, out.read_bytes()) == (0, before)
    assert "nothing left to do" in again.stderr
    assert {calls_of(stack, messages(prompt)) for prompt in asked} == {1}


def test_what_failed_is_run_again_and_merged(stack: Stack, tmp_path: Path) -> None:
    """Lines that fail are told of with exit code 1; --retry-failed runs those alone, and merges the results."""
    good, flaky, bad = unique(), unique(), unique()
    lines = [
        {"prompt": good, "model": "sim"},
        {"prompt": flaky, "model": "sim-flaky-3"},
        {"prompt": bad, "model": "sim-400"},
    ]
    prompts, out = write(tmp_path / "prompts.jsonl", lines), tmp_path / "results.jsonl"
    first = promptq(stack, "batch", "run", str(prompts), "-o", str(out))
    assert first.returncode == 1
    assert "1 answered, 2 failed" in first.stderr
    assert "--retry-failed" in first.stderr
    again = promptq(stack, "batch", "run", str(prompts), "-o", str(out), "--retry-failed")
    assert "2 answered, 1 failed" in again.stderr
    assert [line["custom_id"] for line in results(out)] == ["line-1", "line-2", "line-3"]
    assert [(line["response"] or {}).get("status_code") for line in results(out)] == [200, 200, 400]
    assert [calls_of(stack, messages(prompt)) for prompt in (good, flaky, bad)] == [1, 4, 2]


def test_what_failed_is_told_by_the_lines_of_the_file(stack: Stack, tmp_path: Path) -> None:
    """A response that says it failed is run again; a broken line stands in its place, with its number in the file."""
    good, bad = unique(), unique()
    body = {"url": "/v1/responses", "method": "POST"}
    lines = [
        json.dumps({"custom_id": "good", **body, "body": {"model": "sim", "input": good}}),
        '{"custom_id": "good", "body": broken',
        json.dumps({"custom_id": "bad", **body, "body": {"model": "sim-failed", "input": bad}}),
    ]
    prompts, out = tmp_path / "lines.jsonl", tmp_path / "results.jsonl"
    prompts.write_text("\n\n" + "\r\n \n".join(lines))
    for count in (1, 2):
        done = promptq(stack, "batch", "run", str(prompts), "-o", str(out), *["--retry-failed"][: count - 1])
        assert done.returncode == 1, done.stderr
        assert "completed: 1 answered, 2 failed" in done.stderr
        assert "--retry-failed" in done.stderr
        told = [(line["custom_id"], line["error"] and line["error"].get("line")) for line in results(out)]
        assert told == [("good", None), (None, 5), ("bad", None)]
        assert [calls_of(stack, prompt) for prompt in (good, bad)] == [1, count]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_is_gone_on_with(
    stack: Stack, client: httpx2.Client, tmp_path: Path, how: signal.Signals
) -> None:
    """Ctrl-C, or a kill, leaves the batch running; the same command goes on with it and no prompt is asked twice."""
    asked = [unique() for _ in range(200)]
    prompts, out = tmp_path / "list.txt", tmp_path / "results.jsonl"
    prompts.write_text("\n".join(asked))
    words = ["batch", "run", str(prompts), "-o", str(out), "-m", "sim"]
    environ = os.environ | {"PROMPTQ_URL": stack.api, "PROMPTQ_API_KEY": stack.api_key}
    running = subprocess.Popen(
        [sys.executable, "-m", "cli", *words], env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    state = tmp_path / "results.jsonl.promptq" / "state.json"
    eventually(lambda: state.exists() and json.loads(state.read_text())["rounds"][0]["batch_id"], within=30)
    running.send_signal(how)
    _, told = running.communicate(timeout=30)
    if how is signal.SIGINT:
        assert running.returncode == 130
        assert "goes on without us" in told
    batch_id = json.loads(state.read_text())["rounds"][0]["batch_id"]
    done = promptq(stack, *words)
    assert done.returncode == 0, done.stderr
    assert answers(out) == [f"Simulated answer to: {prompt}" for prompt in asked]
    assert json.loads(state.read_text())["rounds"][0]["batch_id"] == batch_id
    assert {calls_of(stack, messages(prompt)) for prompt in asked} == {1}
    listed = [batch["id"] for batch in client.get("/v1/batches?limit=100").json()["data"]]
    assert listed.count(batch_id) == 1


def test_batches_are_shown_listed_and_cancelled(stack: Stack, tmp_path: Path) -> None:
    """status, list and cancel show what the API has; a cancelled run leaves what is done, and exits with 1."""
    prompts, out = tmp_path / "list.txt", tmp_path / "results.jsonl"
    prompts.write_text("\n".join(unique() for _ in range(3)))
    words = ["batch", "run", str(prompts), "-o", str(out), "-m", "sim-hang"]
    environ = os.environ | {"PROMPTQ_URL": stack.api, "PROMPTQ_API_KEY": stack.api_key}
    running = subprocess.Popen([sys.executable, "-m", "cli", *words], env=environ, stderr=subprocess.PIPE, text=True)
    state = tmp_path / "results.jsonl.promptq" / "state.json"
    eventually(lambda: state.exists() and json.loads(state.read_text())["rounds"][0]["batch_id"], within=30)
    batch_id = json.loads(state.read_text())["rounds"][0]["batch_id"]

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(promptq(stack, "batch", "status", batch_id, "--json").stdout)
        return found

    eventually(shown, lambda batch: batch["status"] == "in_progress", within=30)
    assert batch_id in promptq(stack, "batch").stdout
    plain = promptq(stack, "batch", "status", batch_id).stdout
    assert "in_progress" in plain
    assert "of 3" in plain
    cancelled = promptq(stack, "batch", "cancel", batch_id)
    assert cancelled.returncode == 0, cancelled.stderr
    _, told = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "cancelled: 0 answered, 3 failed" in told
    assert {line["error"]["code"] for line in results(out)} == {"batch_cancelled"}
    again = promptq(stack, "batch", "cancel", batch_id)
    assert (again.returncode, "cancelled" in again.stdout) == (0, True)


def test_a_batch_that_is_refused_at_once_can_be_mended(stack: Stack, tmp_path: Path) -> None:
    """An option that the API refuses leaves nothing behind: the mended command begins."""
    source, output = write(tmp_path / "prompts.jsonl", [{"prompt": unique()}]), tmp_path / "results.jsonl"
    command = ("batch", "run", str(source), "-o", str(output), "-m", "sim", "--window")
    refused = promptq(stack, *command, "1.5h")
    assert refused.returncode == 1
    assert "completion_window" in refused.stderr
    assert "goes on" not in refused.stderr
    mended = promptq(stack, *command, "90m")
    assert mended.returncode == 0, mended.stderr
    assert len(results(output)) == 1


def test_a_file_that_is_refused_as_a_whole_says_why(stack: Stack, tmp_path: Path) -> None:
    """A custom_id that stands twice fails the batch: its errors are shown, nothing is written, and nothing is left."""
    lines = [{"prompt": unique(), "custom_id": "same"} for _ in range(2)]
    prompts, out = write(tmp_path / "prompts.jsonl", lines), tmp_path / "results.jsonl"
    done = promptq(stack, "batch", "run", str(prompts), "-o", str(out), "-m", "sim")
    assert done.returncode == 1
    assert "refused as a whole" in done.stderr
    assert "same" not in done.stdout
    assert list(tmp_path.iterdir()) == [prompts]
