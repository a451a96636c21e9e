"""A line of a batch's files with results."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.batch_store import EndedLine
from worker.batches.results import is_output, result_line

MEMBER = "resp_0123456789abcdef0123456789abcdef"


def told(status: str, result: bytes | None, error: dict[str, Any] | None = None) -> dict[str, Any]:
    line = EndedLine(MEMBER, "a", status, result, error)
    raw = result_line(line)
    assert raw.endswith(b"\n")
    assert raw.count(b"\n") == 1
    found: dict[str, Any] = json.loads(raw)
    assert found["custom_id"] == "a"
    assert is_output(line) is (found["error"] is None and found["response"]["status_code"] == 200)
    return found


@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_an_answer_stands_as_it_came(status: str) -> None:
    """Also one that the LLM cut short; on one line, however it was sent."""
    found = told(status, b'{\n "status": "x"\r\n}')
    assert found["response"] == {"status_code": 200, "request_id": MEMBER, "body": {"status": "x"}}


@pytest.mark.parametrize(
    ("status", "error", "code", "message"),
    [
        ("failed", {"code": "llm_rejected", "message": "Why.", "upstream_status": 200}, "llm_rejected", "Why."),
        ("cancelled", None, "cancelled", "The LLM reports that the response was cancelled."),
    ],
)
def test_a_response_that_says_it_failed_is_an_error(
    status: str, error: dict[str, Any] | None, code: str, message: str
) -> None:
    """The LLM said so with HTTP 200: its words stand there, and whoever looks at ``error`` alone sees it."""
    found = told(status, json.dumps({"object": "response", "status": status, "output": []}).encode(), error)
    assert found["error"] == {"code": code, "message": message}
    assert found["response"]["status_code"] == 200
    assert found["response"]["body"]["status"] == status


def test_what_the_llm_refused_stands_with_its_status() -> None:
    """In its own words, and without an error of ours."""
    upstream = {"message": "No.", "code": "unsupported_value"}
    error = {"code": "llm_rejected", "message": "No.", "upstream_status": 400, "upstream_error": upstream}
    found = told("failed", None, error)
    assert (found["response"]["status_code"], found["response"]["body"]) == (400, {"error": upstream})
    assert found["error"] is None


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        ("failed", {"code": "llm_timeout", "message": "m", "upstream_status": None}, "llm_timeout"),
        ("cancelled", None, "cancelled"),
    ],
)
def test_what_has_no_answer_has_an_error(status: str, error: dict[str, Any] | None, code: str) -> None:
    """Of ours."""
    found = told(status, None, error)
    assert (found["response"], found["error"]["code"]) == (None, code)
