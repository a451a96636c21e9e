"""What a waiting caller gets when its job has failed."""

from __future__ import annotations

from typing import Any

import pytest

from api.app import create_app
from api.synchronous import relay, result_as_it_came
from jobs.model import CHAT_COMPLETIONS, Job, JobStatus
from jobs.scripts import CRASHED_ERROR, EXPIRED_ERROR
from jobs.settings import Settings


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (EXPIRED_ERROR, 504, "timeout_error"),
        (CRASHED_ERROR, 500, "server_error"),
        ({"code": "internal_error", "message": "m"}, 500, "server_error"),
        ({"code": "llm_unreachable", "message": "m"}, 502, "server_error"),
        ({"code": "unsupported_by_llm", "message": "m"}, 400, "invalid_request_error"),
        ({"code": "llm_timeout", "message": "m"}, 504, "server_error"),
        ({"code": "llm_unavailable", "message": "m", "upstream_status": 503}, 503, "server_error"),
        ({"code": "llm_bad_answer", "message": "m", "upstream_status": 200}, 502, "server_error"),
    ],
    ids=lambda value: value["code"] if isinstance(value, dict) else str(value),
)
def test_each_way_to_fail_has_its_status(error: dict[str, Any], status: int, kind: str) -> None:
    """A failed job without an error object of the LLM's is answered with the status and the type of its own error."""
    job = Job("job_1", "ann", CHAT_COMPLETIONS, "default", JobStatus.FAILED, "sim", 1, 0.0, error=error)
    with create_app(Settings()).test_request_context():
        answer = relay(job, result_as_it_came)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (status, "false")
    assert answer.json is not None
    assert (answer.json["error"]["code"], answer.json["error"]["type"]) == (error["code"], kind)
