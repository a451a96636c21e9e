"""A line of a batch's files with results, in OpenAI's shape (openai ``types/batch.py``, and its guide to batches)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from jobs.batch_store import EndedLine

_DONE: Final = ("completed", "incomplete")
#: What is said of a line whose job has no error of its own.
_CANCELLED: Final[Mapping[str, Any]] = {"code": "cancelled", "message": "The job was cancelled."}
_CANCELLED_BY_LLM: Final[Mapping[str, Any]] = {
    "code": "cancelled",
    "message": "The LLM reports that the response was cancelled.",
}


def is_output(line: EndedLine) -> bool:
    """Whether the line belongs into the output file; else it belongs into the error file."""
    return line.status in _DONE


def result_line(line: EndedLine) -> bytes:
    """What became of the line, as JSON with the end of line behind it."""
    request_id = line.member
    if line.result is not None:
        # As the LLM sent it, but on one line.
        body = line.result if b"\n" not in line.result and b"\r" not in line.result else _compact(line.result)
        response = b'{"status_code":200,"request_id":' + _dump(request_id) + b',"body":' + body + b"}"
        # A response may say of itself, with HTTP 200, that it failed: whoever looks at `error` alone must see it.
        failure = b"null" if is_output(line) else _dump(_error(line.error or _CANCELLED_BY_LLM))
        return _line(line.member, line.custom_id, response, failure)
    error = line.error or _CANCELLED
    status = error.get("upstream_status")
    if status and status >= 400:
        said = error.get("upstream_error") or {"message": error["message"], "code": error["code"]}
        answered = {"status_code": status, "request_id": request_id, "body": {"error": said}}
        return _line(line.member, line.custom_id, _dump(answered), b"null")
    return _line(line.member, line.custom_id, b"null", _dump(_error(error)))


def unfed_line(number: int, custom_id: str | None, error: Mapping[str, Any]) -> bytes:
    """The same of a line that never became a job."""
    return _line(f"line:{number}", custom_id, b"null", _dump(dict(error)))


def _error(error: Mapping[str, Any]) -> dict[str, Any]:
    return {name: error[name] for name in ("code", "message", "line", "param") if name in error}


def _line(member: str, custom_id: str | None, response: bytes, error: bytes) -> bytes:
    number = member.rpartition("_")[2] if "_" in member else member.replace(":", "_")
    head = b'{"id":' + _dump(f"batch_req_{number}") + b',"custom_id":' + _dump(custom_id)
    return head + b',"response":' + response + b',"error":' + error + b"}\n"


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def _compact(result: bytes) -> bytes:
    return _dump(json.loads(result))
