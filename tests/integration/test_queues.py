"""Pausing and resuming queues."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2
import pytest

from tests.integration.driving import calls_of, ended, messages, read, running, submit, unique
from tests.processes import Stack


@pytest.fixture
def paused(client: httpx2.Client) -> Iterator[str]:
    """The queue ``bulk``, paused for the length of a test."""
    answer = client.post("/v1/queues/bulk/pause")
    assert (answer.status_code, answer.json()["paused"]) == (200, True)
    yield "bulk"
    assert client.post("/v1/queues/bulk/resume").json()["paused"] is False


def test_a_paused_queue_holds_its_jobs_and_goes_on_with_them(client: httpx2.Client, stack: Stack, paused: str) -> None:
    """Its jobs wait, those of other queues run; resumed, each runs once."""
    prompts = [unique() for _ in range(20)]
    held = [submit(client, prompt=prompt, queue=paused)["id"] for prompt in prompts]
    assert ended(client, submit(client, prompt=unique())["id"])["status"] == "completed"
    assert {read(client, job_id)["status"] for job_id in held} == {"queued"}
    state = client.get("/v1/queues/bulk").json()
    assert (state["object"], state["paused"], state["waiting"], state["running"]) == ("queue", True, 20, 0)
    client.post("/v1/queues/bulk/resume")
    assert {ended(client, job_id)["status"] for job_id in held} == {"completed"}
    assert [calls_of(stack, messages(prompt)) for prompt in prompts] == [1] * 20


def test_a_running_job_of_a_paused_queue_ends(client: httpx2.Client, stack: Stack) -> None:
    """Pausing aborts nothing."""
    prompt = unique()
    job_id = submit(client, prompt=prompt, model="sim-slow-1", queue="bulk")["id"]
    running(client, stack, job_id, messages(prompt))
    assert client.post("/v1/queues/bulk/pause").json()["running"] >= 1
    assert ended(client, job_id)["status"] == "completed"
    client.post("/v1/queues/bulk/resume")


def test_a_job_of_a_paused_queue_can_be_cancelled(client: httpx2.Client, stack: Stack, paused: str) -> None:
    """It ends at once, and is not run when the queue goes on."""
    prompt = unique()
    job_id = submit(client, prompt=prompt, queue=paused)["id"]
    assert client.post(f"/v1/jobs/{job_id}/cancel").json()["status"] == "cancelled"
    client.post("/v1/queues/bulk/resume")
    assert ended(client, submit(client, prompt=unique(), queue="bulk")["id"])["status"] == "completed"
    assert calls_of(stack, messages(prompt)) == 0


def test_the_queues_are_listed_in_their_order(client: httpx2.Client) -> None:
    """The preferred one first, in OpenAI's list shape."""
    answer = client.get("/v1/queues").json()
    assert [queue["id"] for queue in answer["data"]] == ["interactive", "default", "bulk"]
    assert (answer["object"], answer["has_more"]) == ("list", False)


def test_only_operators_pause(alice: httpx2.Client) -> None:
    """An owner that PROMPTQ_OPERATORS does not name sees the queues, and is told why it may do no more."""
    assert alice.get("/v1/queues").status_code == 200
    for action in ("pause", "resume"):
        answer = alice.post(f"/v1/queues/default/{action}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
        assert "PROMPTQ_OPERATORS" in answer.json()["error"]["message"]


def test_a_queue_that_does_not_exist_is_a_404(client: httpx2.Client) -> None:
    """The message names those that do."""
    for answer in (client.get("/v1/queues/slow"), client.post("/v1/queues/slow/pause")):
        assert answer.status_code == 404
        assert "interactive, default, bulk" in answer.json()["error"]["message"]
