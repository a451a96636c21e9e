"""One handler that turns every error into OpenAI's error shape."""

from __future__ import annotations

import math
from typing import Final

import structlog
from flask import Flask, Response, jsonify, request
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from jobs.errors import (
    AcceptanceUnknown,
    BatchNotCancellable,
    IdempotencyConflict,
    InvalidRequest,
    JobCancelled,
    LLMError,
    NotDeliverable,
    NotRetryable,
    OutcomeUnknown,
    PayloadTooLarge,
    PromptQError,
    SecretShown,
    StorageOff,
    WaitTimeout,
    WebhooksOff,
    WebhookTestFailed,
)

_log = structlog.get_logger("promptq.api")

#: The SDK would repeat these by itself (409, 5xx), which cannot help, or would be paid for again.
_NOT_TO_BE_RETRIED = (
    *(IdempotencyConflict, JobCancelled, NotDeliverable, BatchNotCancellable, NotRetryable, SecretShown),
    *(WaitTimeout, LLMError, OutcomeUnknown, StorageOff, WebhooksOff, WebhookTestFailed),
)
_NAMES = {404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"}


def error_response(
    message: str, *, status: int, error_type: str, code: str | None, param: str | None = None
) -> Response:
    """A response in OpenAI's error shape."""
    response = jsonify({"error": {"message": message, "type": error_type, "param": param, "code": code}})
    response.status_code = status
    return response


def install(app: Flask) -> None:
    """Give the app its error handlers."""
    app.register_error_handler(PromptQError, _ours)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


#: Findings of our own validators about a whole object, and the member that they are about (api/requests.py).
_AT: Final = {
    "no_prompt": "input",
    "misplaced": "promptq",
    "half_a_policy": "expires_after[seconds]",
    "no_reader": "stream",
}


def first_problem(error: ValidationError, value: object, *, prefix: str = "") -> InvalidRequest:
    """The first of pydantic's findings in ``value`` as ours; its message never quotes what was sent."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = [prefix] if prefix else []
    for part in problem["loc"]:
        # What does not lead into the value is the name of a union's branch (``input.str``), unless it is missing there.
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part]
        elif problem["type"] != "missing":
            continue
        path.append(str(part))
    if problem["type"] in _AT:
        path.append(_AT[problem["type"]])
    param = ".".join(path) or None
    if problem["type"] in ("missing", "no_prompt"):
        return InvalidRequest(f"Missing required parameter: '{param}'.", param=param)
    if problem["type"] == "extra_forbidden":
        return InvalidRequest(f"Unknown parameter: '{param}'.", param=param)
    return InvalidRequest(f"Invalid value for '{param}': {problem['msg']}." if param else problem["msg"], param=param)


def _ours(error: PromptQError) -> Response:
    response = error_response(
        error.message, status=error.http_status, error_type=error.error_type, code=error.code, param=error.param
    )
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(error.retry_after))
    if isinstance(error, _NOT_TO_BE_RETRIED) or _may_make_a_second_job(error):
        response.headers["x-should-retry"] = "false"
    if error.http_status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _may_make_a_second_job(error: PromptQError) -> bool:
    """Whether the SDK's silent repeat of this request could be paid for twice."""
    return isinstance(error, AcceptanceUnknown) and "Idempotency-Key" not in request.headers


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    if isinstance(error, RequestEntityTooLarge):
        return _ours(PayloadTooLarge("The request body is too large (PROMPTQ_MAX_BODY_BYTES)."))
    response = error_response(
        error.description or error.name,
        status=status,
        error_type="invalid_request_error" if status < 500 else "server_error",
        code=_NAMES.get(status, error.name.lower().replace(" ", "_")),
    )
    # A 405 names what is allowed (RFC 9110, 15.5.6).
    response.headers.extend([pair for pair in error.get_headers() if pair[0] in ("Allow", "Location")])
    return response


def _unexpected(error: Exception) -> Response:
    _log.error("request.crashed", exc_info=error)
    return error_response(
        "The server had an error while processing your request. Its log has the x-request-id of this answer.",
        status=500,
        error_type="server_error",
        code="internal_error",
    )
