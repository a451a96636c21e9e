"""``/v1/jobs``: submitting, polling, waiting, listing, cancelling, deleting."""

from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest

from tests.integration.driving import calls_of, ended, messages, read, running, submit, unique
from tests.processes import Stack, eventually

FIELDS = {
    *("id", "object", "status", "endpoint", "model", "queue", "attempt", "created_at", "started_at", "finished_at"),
    *("deadline_at", "retry_at", "metadata", "error", "usage", "attempts", "queue_position", "result"),
    *("attempt_timeout_seconds", "webhook_url", "retried_from", "retried_as"),
}


def test_a_prompt_becomes_a_job_that_answers(client: httpx2.Client, stack: Stack) -> None:
    """The short form is accepted with 202 and a Location, where the answer is found after one LLM call."""
    prompt = unique()
    sent = {"prompt": prompt, "model": "sim", "queue": "interactive", "metadata": {"for": "test"}}
    answer = client.post("/v1/jobs", json={**sent, "deadline_seconds": 60})
    assert answer.status_code == 202
    accepted = answer.json()
    assert answer.headers["Location"].endswith(f"/v1/jobs/{accepted['id']}")
    assert answer.headers["x-request-id"].startswith("req_")
    assert accepted.keys() == FIELDS
    assert (accepted["object"], accepted["endpoint"]) == ("job", "/v1/chat/completions")
    assert abs(accepted["created_at"] - time.time()) < 30
    assert accepted["deadline_at"] == pytest.approx(accepted["created_at"] + 60, abs=0.01)
    eventually(lambda: client.get(answer.headers["Location"]).json()["status"], lambda status: status == "completed")
    job = client.get(answer.headers["Location"]).json()
    assert job.keys() == FIELDS
    assert job["result"]["choices"][0]["message"]["content"] == f"Simulated answer to: {prompt}"
    assert job["usage"] == job["result"]["usage"]
    assert (job["model"], job["queue"], job["metadata"]) == ("sim", "interactive", {"for": "test"})
    assert (job["attempt"], job["attempts"], job["error"], job["queue_position"]) == (1, [], None, None)
    assert accepted["created_at"] == job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert calls_of(stack, messages(prompt)) == 1


def test_a_prompt_without_a_model_gets_the_default(client: httpx2.Client) -> None:
    """The model, the queue and the metadata have defaults."""
    job = submit(client, prompt=unique())
    assert (job["model"], job["queue"], job["metadata"]) == ("gpt-5-mini", "default", {})
    assert ended(client, job["id"])["status"] == "completed"


@pytest.mark.parametrize(
    ("endpoint", "field", "kind"),
    [
        ("/v1/responses", "input", "response"),
        ("/v1/chat/completions", "messages", "chat.completion"),
        ("/v1/completions", "prompt", "text_completion"),
        ("/v1/embeddings", "input", "list"),
    ],
)
def test_each_endpoint_takes_its_own_body(
    client: httpx2.Client, stack: Stack, endpoint: str, field: str, kind: str
) -> None:
    """The full form reaches any of the LLM's endpoints, and the result is the LLM's answer as it came."""
    prompt: Any = messages(unique()) if field == "messages" else unique()
    job = submit(client, endpoint=endpoint, body={"model": "sim", field: prompt})
    assert job["endpoint"] == endpoint
    done = ended(client, job["id"])
    assert (done["status"], done["result"]["object"]) == ("completed", kind)
    assert calls_of(stack, prompt) == 1


def test_a_wait_returns_as_soon_as_the_job_ends(client: httpx2.Client) -> None:
    """A long-poll is held while the job runs, and answered when it ends."""
    job = submit(client, prompt=unique(), model="sim-slow-1")
    began = time.monotonic()
    answer = client.get(f"/v1/jobs/{job['id']}", params={"wait": 30}).json()
    assert answer["status"] == "completed"
    assert answer["finished_at"] - answer["created_at"] >= 1
    assert time.monotonic() - began < 10


def test_a_wait_ends_with_its_time(client: httpx2.Client, stack: Stack) -> None:
    """A long-poll on a job that goes on answers its state when the time is over, and a cancel ends it at once."""
    prompt = unique()
    job = submit(client, prompt=prompt, model="sim-hang")
    running(client, stack, job["id"], messages(prompt))
    began = time.monotonic()
    answer = client.get(f"/v1/jobs/{job['id']}", params={"wait": 0.7}).json()
    assert (answer["status"], answer["result"]) == ("in_progress", None)
    assert time.monotonic() - began >= 0.7
    assert client.post(f"/v1/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
    assert client.get(f"/v1/jobs/{job['id']}", params={"wait": 30}).json()["status"] == "cancelled"
    assert time.monotonic() - began < 15


def test_cancelling_a_running_job_aborts_its_call(client: httpx2.Client, stack: Stack) -> None:
    """A running job that is cancelled ends at once, and its LLM call is aborted."""
    prompt = unique()
    job = submit(client, prompt=prompt, model="sim-hang")
    running(client, stack, job["id"], messages(prompt))
    aborted = stack.stats()["aborted"]
    cancelled = client.post(f"/v1/jobs/{job['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert cancelled.json()["finished_at"] is not None
    eventually(lambda: stack.stats()["aborted"], lambda count: count > aborted, within=4)
    assert calls_of(stack, messages(prompt)) == 1


def test_cancelling_an_ended_job_changes_nothing(client: httpx2.Client) -> None:
    """A cancel that comes after the end is a 200 that leaves the job as it is."""
    job = ended(client, submit(client, prompt=unique(), model="sim")["id"])
    answer = client.post(f"/v1/jobs/{job['id']}/cancel", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert read(client, job["id"]) == job


def test_deleting_a_running_job_aborts_its_call(client: httpx2.Client, stack: Stack) -> None:
    """A deleted job is gone at once, from listings too, and its LLM call is aborted."""
    prompt = unique()
    job = submit(client, prompt=prompt, model="sim-hang")
    running(client, stack, job["id"], messages(prompt))
    aborted = stack.stats()["aborted"]
    answer = client.delete(f"/v1/jobs/{job['id']}")
    assert answer.status_code == 200
    assert (answer.json()["id"], answer.json()["deleted"]) == (job["id"], True)
    eventually(lambda: stack.stats()["aborted"], lambda count: count > aborted, within=4)
    assert client.get(f"/v1/jobs/{job['id']}").status_code == 404
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 404
    assert job["id"] not in {each["id"] for each in client.get("/v1/jobs").json()["data"]}


def test_queued_jobs_know_their_place(alice: httpx2.Client, small: Stack, full: list[str]) -> None:
    """While every slot is taken, jobs queue with their positions; one that is cancelled is never asked of the LLM."""
    prompts = [unique() for _ in range(3)]
    jobs = [submit(alice, prompt=prompt, model="sim", queue="bulk")["id"] for prompt in prompts]
    assert [read(alice, job_id)["queue_position"] for job_id in jobs] == [1, 2, 3]
    response = {"model": "sim", "input": unique(), "background": True, "promptq": {"queue": "bulk"}}
    assert alice.post("/v1/responses", json=response).json()["queue_position"] == 4
    cancelled = alice.post(f"/v1/jobs/{jobs[0]}/cancel").json()
    assert (cancelled["status"], cancelled["queue_position"], cancelled["attempt"]) == ("cancelled", None, 0)
    assert read(alice, jobs[1])["queue_position"] == 1
    alice.post(f"/v1/jobs/{full[0]}/cancel")
    assert [ended(alice, job_id)["status"] for job_id in jobs] == ["cancelled", "completed", "completed"]
    assert [calls_of(small, messages(prompt)) for prompt in prompts] == [0, 1, 1]


def test_the_deadline_ends_a_running_job(client: httpx2.Client, stack: Stack) -> None:
    """A job that has not ended by its deadline fails with a code of its own, and its LLM call is aborted."""
    prompt = unique()
    aborted = stack.stats()["aborted"]
    job = ended(client, submit(client, prompt=prompt, model="sim-hang", deadline_seconds=1)["id"], within=15)
    assert (job["status"], job["error"]["code"]) == ("failed", "deadline_exceeded")
    eventually(lambda: stack.stats()["aborted"], lambda count: count > aborted)
    assert calls_of(stack, messages(prompt)) == 1
