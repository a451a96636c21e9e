"""Jobs as callers see them: our Job, and OpenAI's Response."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from jobs.batches import BATCH_TIMES, Batch
from jobs.errors import LLMRateLimited, LLMUnsupported
from jobs.files import File
from jobs.model import RESPONSES, Job, JobStatus
from jobs.queue_control import QueueState
from jobs.responses import own_members
from jobs.webhooks import Delivery, Endpoint

#: What a Response repeats of the request until the LLM has answered, and what OpenAI says where it was not given.
_ECHOED: Final[Mapping[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": None,
    "store": True,
    "temperature": None,
    "text": None,
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": None,
}
_NULL_NOT_ALLOWED: Final = ("parallel_tool_calls", "store", "tool_choice", "tools")


def job_summary(job: Job) -> dict[str, Any]:
    """A job without its result."""
    return {
        "id": job.id,
        "object": "job",
        "status": job.status.value,
        "endpoint": job.endpoint,
        "model": job.model,
        "queue": job.queue,
        "attempt": job.attempt,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "deadline_at": job.deadline_at,
        "retry_at": job.retry_at,
        "attempt_timeout_seconds": job.attempt_timeout,
        "webhook_url": job.webhook_url,
        "retried_from": job.retried_from,
        "retried_as": job.retried_as,
        "metadata": job.metadata,
        "error": job.error,
        "usage": job.usage,
        "attempts": job.attempts,
    }


def job_answer(job: Job, position: int | None) -> dict[str, Any]:
    """A job with its result and its place in the queue."""
    result = None if job.result is None else json.loads(job.result)
    return {**job_summary(job), "queue_position": position, "result": result}


def queue_answer(state: QueueState) -> dict[str, Any]:
    """A queue."""
    return {
        "id": state.name,
        "object": "queue",
        "paused": state.paused,
        "waiting": state.waiting,
        "running": state.running,
        "next_created_at": state.next_created_at,
    }


def batch_answer(batch: Batch) -> dict[str, Any]:
    """A batch."""
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "status": batch.status.value,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "model": batch.model,
        "usage": {
            "input_tokens": batch.usage.input_tokens,
            "input_tokens_details": {"cached_tokens": batch.usage.cached_tokens},
            "output_tokens": batch.usage.output_tokens,
            "output_tokens_details": {"reasoning_tokens": batch.usage.reasoning_tokens},
            "total_tokens": batch.usage.total_tokens,
        },
        "metadata": batch.metadata,
        "created_at": int(batch.created_at),
        "expires_at": int(batch.expires_at),
        **{name: int(batch.times[name]) if name in batch.times else None for name in BATCH_TIMES},
    }


def file_answer(file: File) -> dict[str, Any]:
    """A file, without its content."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created_at),
        "expires_at": None if file.expires_at is None else int(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


def endpoint_answer(endpoint: Endpoint) -> dict[str, Any]:
    """A webhook endpoint, without its secret."""
    return {
        "id": endpoint.id,
        "object": "webhook_endpoint",
        "name": endpoint.name,
        "url": endpoint.url,
        "event_types": endpoint.event_types,
        "signing_secret_hint": endpoint.secret_hint,
        "created_at": int(endpoint.created_at),
        "updated_at": int(endpoint.updated_at),
        "enabled": endpoint.disabled_at is None,
        "disabled_at": endpoint.disabled_at,
        "disabled_reason": endpoint.disabled_reason,
        "failing_since": endpoint.failing_since,
    }


def delivery_answer(delivery: Delivery) -> dict[str, Any]:
    """A webhook delivery, with every try."""
    return {
        "id": delivery.id,
        "object": "webhook_delivery",
        "webhook_id": delivery.event_id,
        "webhook_endpoint_id": delivery.endpoint_id,
        "event_type": delivery.event_type,
        "data": {"id": delivery.object_id},
        "status": delivery.status.value,
        "created_at": delivery.created_at,
        "next_try_at": delivery.due_at,
        "ended_at": delivery.ended_at,
        "error": delivery.error or (delivery.tries[-1]["error"] if delivery.tries else None),
        "tries": delivery.tries,
        "test": delivery.test,
    }


def response_answer(job: Job, position: int | None = None) -> dict[str, Any]:
    """A job as OpenAI's Response: the LLM's own once there is one, under our id; a sketch of it until then."""
    if job.result is not None:
        response: dict[str, Any] = json.loads(job.result)
        upstream_id = response.get("id")
    else:
        response, upstream_id = _sketch(job), None
    response.update(own_members(job, upstream_id), object="response", status=job.status.value)
    if position is not None:
        response["queue_position"] = position
    # An LLM that leaves out what the SDK's type requires must not crash the SDK.
    for name, value in (("model", job.model), ("error", None), ("incomplete_details", None), *_REQUIRED.items()):
        if response.get(name) is None:
            response[name] = value
    return response


_REQUIRED: Final[Mapping[str, Any]] = {name: _ECHOED[name] for name in ("parallel_tool_calls", "tool_choice", "tools")}


def _sketch(job: Job) -> dict[str, Any]:
    request = json.loads(job.request)
    sketch = {name: request.get(name, default) for name, default in _ECHOED.items()}
    for name in _NULL_NOT_ALLOWED:
        if sketch[name] is None:
            sketch[name] = _ECHOED[name]
    return {
        **sketch,
        "model": job.model,
        "metadata": request.get("metadata") or {},
        "output": [],
        "error": _response_error(job),
        "incomplete_details": None,
        "usage": None,
    }


def _response_error(job: Job) -> dict[str, Any] | None:
    """The error in the words that a Response has for it: its codes are a closed list (openai ``response_error.py``)."""
    if job.status is not JobStatus.FAILED or job.error is None:
        return None
    if job.error["code"] == LLMRateLimited.code:
        code = "rate_limit_exceeded"
    elif job.error.get("upstream_status") == 400 or job.error["code"] == LLMUnsupported.code:
        code = "invalid_prompt"
    else:
        code = "server_error"
    return {"code": code, "message": job.error["message"]}


def page(items: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """OpenAI's list shape."""
    return {
        "object": "list",
        "data": items,
        "has_more": has_more,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
    }


def input_items(job: Job) -> list[dict[str, Any]]:
    """What a response was asked, as a list of items with ids, in the order of the request."""
    assert job.endpoint == RESPONSES
    given = json.loads(job.request).get("input", [])
    if isinstance(given, str):
        given = [{"role": "user", "content": [{"type": "input_text", "text": given}]}]
    return [_item(item, f"msg_{job.id.removeprefix('resp_')}_{number}") for number, item in enumerate(given)]


def _item(given: Any, item_id: str) -> dict[str, Any]:
    item = dict(given) if isinstance(given, dict) else {"content": given}
    item.setdefault("type", "message")
    if item["type"] == "message":
        if isinstance(item.get("content"), str):
            kind = "output_text" if item.get("role") == "assistant" else "input_text"
            item["content"] = [{"type": kind, "text": item["content"]}]
        item.setdefault("status", "completed")
    if not isinstance(item.get("id"), str):
        item["id"] = item_id
    return item
