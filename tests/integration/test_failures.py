"""What becomes of a job when the LLM fails, and how often it is asked."""

from __future__ import annotations

import httpx2
import pytest

from tests.integration.driving import calls_of, chat, ended, messages, submit, unique
from tests.processes import Stack


@pytest.mark.parametrize(
    ("model", "codes", "status", "calls"),
    [
        ("sim-400", {"llm_rejected"}, 400, 1),
        ("sim-401", {"llm_rejected"}, 401, 1),
        ("sim-403", {"llm_rejected"}, 403, 1),
        ("sim-404", {"llm_rejected"}, 404, 1),
        ("sim-refusal", {"llm_rejected"}, 400, 1),
        ("sim-429", {"llm_rate_limited"}, 429, 3),
        ("sim-429-retry-after", {"llm_rate_limited"}, 429, 3),
        ("sim-500", {"llm_unavailable"}, 500, 3),
        ("sim-503", {"llm_unavailable"}, 503, 3),
        ("sim-cut", {"llm_unreachable"}, None, 3),
        ("sim-truncated", {"llm_unreachable", "llm_bad_answer"}, None, 3),
        ("sim-garbage", {"llm_bad_answer"}, None, 3),
        ("sim-wrong-shape", {"llm_bad_answer"}, None, 3),
    ],
)
def test_a_failing_llm_fails_the_job_with_a_clear_error(
    client: httpx2.Client, stack: Stack, model: str, codes: set[str], status: int | None, calls: int
) -> None:
    """A final refusal is asked once, anything else as often as ``PROMPTQ_MAX_ATTEMPTS`` says; the error says which."""
    prompt = unique()
    job = ended(client, submit(client, endpoint="/v1/chat/completions", body=chat(prompt, model))["id"])
    assert (job["status"], job["result"]) == ("failed", None)
    assert job["error"]["code"] in codes
    assert job["error"]["message"]
    assert status is None or job["error"]["upstream_status"] == status
    assert job["attempt"] == len(job["attempts"]) == calls
    assert [attempt["attempt"] for attempt in job["attempts"]] == list(range(1, calls + 1))
    assert prompt not in str(job["error"])
    assert calls_of(stack, messages(prompt)) == calls
    if model == "sim-429-retry-after":
        assert job["finished_at"] - job["started_at"] >= 2


def test_a_failure_that_passes_is_retried(client: httpx2.Client, stack: Stack) -> None:
    """A job whose first call fails and whose second succeeds is completed, and remembers the first."""
    prompt = unique()
    job = ended(client, submit(client, prompt=prompt, model="sim-flaky-1")["id"])
    assert (job["status"], job["attempt"], job["error"]) == ("completed", 2, None)
    assert [attempt["error_code"] for attempt in job["attempts"]] == ["llm_unavailable"]
    assert calls_of(stack, messages(prompt)) == 2


def test_a_response_that_the_llm_failed_is_failed(client: httpx2.Client, stack: Stack) -> None:
    """A 200 whose response says ``failed`` fails the job, with the LLM's own words, after one call."""
    prompt = unique()
    made = submit(client, endpoint="/v1/responses", body={"model": "sim-failed", "input": prompt})
    job = ended(client, made["id"])
    assert job["status"] == "failed"
    assert job["error"]["message"] == "The simulated model failed."
    assert calls_of(stack, prompt) == 1


def test_what_was_cut_by_its_length_is_incomplete_only_for_responses(client: httpx2.Client) -> None:
    """A response cut by its length is ``incomplete``; a chat completion says so in its ``finish_reason``."""
    made = submit(client, endpoint="/v1/responses", body={"model": "sim-incomplete", "input": unique()})
    job = ended(client, made["id"])
    assert (job["status"], job["result"]["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    job = ended(client, submit(client, prompt=unique(), model="sim-incomplete")["id"])
    assert (job["status"], job["result"]["choices"][0]["finish_reason"]) == ("completed", "length")


def test_a_job_limits_its_own_attempts(client: httpx2.Client, stack: Stack) -> None:
    """An LLM that hangs is given up after the job's own limit, on each attempt, and its slot is free."""
    prompt = unique()
    made = submit(client, prompt=prompt, model="sim-hang", attempt_timeout_seconds=0.2)
    assert made["attempt_timeout_seconds"] == 0.2
    job = ended(client, made["id"])
    assert (job["status"], job["error"]["code"], calls_of(stack, messages(prompt))) == ("failed", "llm_timeout", 3)
    body = {"model": "sim-hang", "input": unique(), "background": True, "promptq": {"attempt_timeout_seconds": 0.2}}
    response = client.post("/v1/responses", json=body).json()
    assert ended(client, response["id"])["attempts"][0]["error_code"] == "llm_timeout"
