"""`promptq webhooks`."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from tests import processes
from tests.integration.driving import submit, unique
from tests.integration.test_cli_operations import promptq
from tests.integration.webhooks.steps import ALL_EVENTS, SIGNED, deliveries, delivery, owners_secret
from tests.processes import Stack, eventually
from tests.receiving import OK, Receiver, Reply, register


@pytest.fixture
def listening(stack: Stack, tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], Path]]]:
    """Starts ``promptq webhooks listen`` with these words; answers the process, once it listens, and what it prints."""
    started: list[subprocess.Popen[bytes]] = []

    def listen(*words: str) -> tuple[subprocess.Popen[bytes], Path]:
        environ = os.environ | {"PROMPTQ_URL": stack.api, "PROMPTQ_API_KEY": stack.api_key}
        output, told = tmp_path / f"{len(started)}.out", tmp_path / f"{len(started)}.err"
        command = [sys.executable, "-m", "cli", "webhooks", "listen", *words]
        with output.open("wb") as out, told.open("wb") as err:
            process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        started.append(process)
        eventually(lambda: "listening at" in told.read_text() or process.poll() is not None, within=30)
        assert process.poll() is None, told.read_text()
        return process, output

    yield listen
    for process in started:
        processes.end(process)


def lines(output: Path, about: str) -> list[str]:
    """What was printed about a job, once something was."""
    return eventually(lambda: [line for line in output.read_text().splitlines() if about in line])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_listen_registers_prints_and_unregisters(
    client: httpx2.Client, listening: Callable[..., Any], number: signal.Signals
) -> None:
    """``promptq webhooks listen`` has an endpoint while it runs, and prints each event and that it is verified."""
    process, output = listening()
    (endpoint,) = client.get("/v1/webhook_endpoints").json()["data"]
    assert sorted(endpoint["event_types"]) == sorted(ALL_EVENTS)
    job_id = submit(client, prompt=unique(), model="sim-400")["id"]
    (line,) = lines(output, job_id)
    assert "response.failed" in line
    assert line.endswith("  verified")
    (told,) = deliveries(client, endpoint=endpoint["id"])
    assert f"[{told['webhook_id']}]" in line
    forged = httpx2.post(endpoint["url"], content=b'{"type": "forged"}', headers=dict.fromkeys(SIGNED, "1"))
    assert forged.status_code == 400
    assert "NOT VERIFIED" in lines(output, "forged")[0]
    process.send_signal(number)
    assert process.wait(15) == 0
    assert client.get("/v1/webhook_endpoints").json()["data"] == []


def test_listen_with_the_owners_secret_registers_nothing(
    client: httpx2.Client, stack: Stack, listening: Callable[..., Any]
) -> None:
    """With ``--secret`` it verifies what comes for ``promptq submit --webhook-url``; ``--json`` prints a line each."""
    port = processes.free_port()
    process, output = listening("--secret", owners_secret(client), "--port", str(port), "--json")
    assert client.get("/v1/webhook_endpoints").json()["data"] == []
    submitted = promptq(stack, "submit", unique(), "--webhook-url", f"http://127.0.0.1:{port}/x", "--json")
    assert submitted.returncode == 0, submitted.stderr
    job = json.loads(submitted.stdout)
    assert job["webhook_url"] == f"http://127.0.0.1:{port}/x"
    (line,) = lines(output, job["id"])
    told = json.loads(line)
    assert (told["verified"], told["problem"]) == (True, None)
    assert (told["event"]["type"], told["event"]["data"]) == ("response.completed", {"id": job["id"]})
    process.send_signal(signal.SIGINT)
    assert process.wait(15) == 0


def test_listen_takes_back_what_a_killed_one_left(client: httpx2.Client, listening: Callable[..., Any]) -> None:
    """A receiver that was killed leaves its endpoint to the next on this machine, which lets alone one that runs."""
    killed, _ = listening()
    (left,) = client.get("/v1/webhook_endpoints").json()["data"]
    killed.kill()
    killed.wait(10)
    first, _ = listening()
    (mine,) = client.get("/v1/webhook_endpoints").json()["data"]
    assert mine["id"] != left["id"]
    second, _ = listening()
    assert len(client.get("/v1/webhook_endpoints").json()["data"]) == 2
    for process in (first, second):
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
    assert client.get("/v1/webhook_endpoints").json()["data"] == []


def test_listen_refuses_a_secret_that_is_none(stack: Stack) -> None:
    """A secret that nothing can be verified with is an error at the start, not one for each message."""
    ran = promptq(stack, "webhooks", "listen", "--secret", "bad secret")
    assert ran.returncode != 0
    assert "--secret" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_command_line_shows_and_redelivers(client: httpx2.Client, stack: Stack) -> None:
    """``promptq webhooks`` lists endpoints, ``deliveries`` what became of events, and ``redeliver`` sends one again."""
    with Receiver(Reply(500, {"Retry-After": "3600"}), OK) as receiver:  # no retry comes between the commands
        hook = register(client, receiver, "response.completed")
        job_id = submit(client, prompt=unique(), model="sim")["id"]
        waiting = eventually(lambda: delivery(client, hook, job_id, "pending"), lambda one: one["tries"])
        for words in (("webhooks",), ("webhooks", "list")):
            (row,) = [line for line in promptq(stack, *words).stdout.splitlines() if hook.endpoint_id in line]
            assert "enabled" in row
        listed = promptq(stack, "webhooks", "deliveries", "--endpoint", hook.endpoint_id, "--status", "pending")
        (row,) = [line.split() for line in listed.stdout.splitlines() if waiting["id"] in line]
        assert row[:6] == [waiting["id"], "response.completed", job_id, "pending", "1", "http_status"]
        again = promptq(stack, "webhooks", "redeliver", waiting["id"])
        assert again.returncode == 0, again.stderr
        assert waiting["id"] in again.stdout
        hook.told(job_id, times=2)
        delivery(client, hook, job_id, "succeeded")
        shown = promptq(stack, "webhooks", "deliveries", "--endpoint", hook.endpoint_id, "--json")
        (one,) = json.loads(shown.stdout)["data"]
        assert [tried["status_code"] for tried in one["tries"]] == [500, 200]
        missing = promptq(stack, "webhooks", "redeliver", f"whd_{'0' * 32}_job", waiting["id"])
        assert missing.returncode == 1
        assert waiting["id"] in missing.stdout
        assert f"error: whd_{'0' * 32}_job: " in missing.stderr
        hook.told(job_id, times=3)
    refusal = promptq(stack, "submit", "x", "--webhook-url", "https://10.0.0.1/")
    assert (refusal.returncode, refusal.stdout) == (1, "")
    assert "private" in refusal.stderr


def test_the_command_line_makes_keys(stack: Stack, api: Callable[..., FlaskClient]) -> None:
    """``promptq webhooks key`` prints a fresh key, with which an API has webhooks."""
    first, second = (promptq(stack, "webhooks", "key").stdout.strip() for _ in range(2))
    assert first != second
    assert len(base64.urlsafe_b64decode(first)) == 32
    assert api(encryption_keys=f"{first},{second}").post("/v1/webhook_secret").status_code == 200
