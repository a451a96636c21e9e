"""The one way in: every door makes its jobs here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from flask import g, request

from api.bodies import check_prompt_size, dump
from api.services import owner, services
from jobs import webhook_urls
from jobs.bodies import OURS
from jobs.errors import InvalidRequest
from jobs.model import Endpoint, Job, NewJob, new_job_id
from jobs.queues import QueueName
from jobs.store import Accepted
from jobs.webhook_urls import Target

_MAX_KEY = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a door has understood of a request."""

    endpoint: Endpoint
    model: str
    #: The body for the LLM, as JSON.
    body: bytes
    queue: QueueName
    deadline_seconds: float | None = None
    attempt_timeout: float | None = None
    metadata: Mapping[str, str] | None = None
    background: bool = False
    stream: bool = False
    webhook_url: str | None = None
    #: Where ``webhook_url`` stands in the request.
    webhook_param: str = "webhook_url"


def submit(submission: Submission, sent: Mapping[str, Any]) -> Accepted:
    """Make the job, or find the one that the Idempotency-Key has made; its id goes into the answer's headers.

    ``sent`` is the request as it came: with the path it is what an Idempotency-Key stands for. Raises what
    ``JobStore.create`` raises.
    """
    key = idempotency_key()
    webhook_host = ""
    if submission.webhook_url is not None:
        webhook_host = webhook_target(submission.webhook_url, param=submission.webhook_param).authority
        services().store.webhooks.ensure_owner_secret(owner())
    with services().tracing.enqueue(submission.queue) as enqueueing:
        accepted = services().store.create(
            NewJob(
                id=new_job_id(submission.endpoint),
                owner=owner(),
                endpoint=submission.endpoint,
                queue=submission.queue,
                request=submission.body,
                model=submission.model,
                metadata=submission.metadata or {},
                deadline_seconds=submission.deadline_seconds or services().settings.default_deadline,
                attempt_timeout=submission.attempt_timeout,
                idempotency_key=key,
                fingerprint=_fingerprint(sent) if key is not None else "",
                background=submission.background,
                stream=submission.stream,
                webhook_url=submission.webhook_url,
                webhook_host=webhook_host,
                trace=enqueueing.traceparent,
            )
        )
        enqueueing.found(accepted.job_id)
    # Whatever becomes of this request, its caller can find the job, and so can who reads its log line (api.app).
    g.job_id = accepted.job_id
    if accepted.made is not None:
        services().metrics.submitted(submission.endpoint, submission.queue)
    structlog.contextvars.bind_contextvars(
        job_id=accepted.job_id, queue=submission.queue, created=accepted.made is not None
    )
    return accepted


def webhook_target(url: str, *, param: str) -> Target:
    """The URL in its parts. Raises ``InvalidRequest`` where no webhook may be sent there."""
    try:
        return webhook_urls.parse(url, services().settings.webhook_allow)
    except webhook_urls.Refused as refused:
        raise InvalidRequest(f"No webhook can be sent there: {refused}.", param=param) from None


def resubmit(job_id: str) -> Accepted:
    """Make a new job of one that failed or was cancelled, or find the one that was made. Raises what
    ``JobStore.resubmit`` raises."""
    accepted = services().store.resubmit(job_id, owner(), trace=services().tracing.traceparent())
    g.job_id = accepted.job_id
    if accepted.made is not None:
        services().metrics.submitted(accepted.made.endpoint, accepted.made.queue)
    structlog.contextvars.bind_contextvars(
        job_id=accepted.job_id, retried_from=job_id, created=accepted.made is not None
    )
    return accepted


def job_of(accepted: Accepted) -> tuple[Job, int | None]:
    """The job and its place in the queue.

    One that was made now is answered from what is known: asking Redis again could fail, and the caller would be told
    that nothing was made.
    """
    if accepted.made is not None:
        return accepted.made, accepted.position
    job = services().store.get(accepted.job_id, owner())
    return job, services().store.position(job)


def idempotency_key() -> str | None:
    """The request's Idempotency-Key, None if it has none. Raises ``InvalidRequest``."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not 0 < len(key) <= _MAX_KEY:
        raise InvalidRequest(f"An Idempotency-Key has 1 to {_MAX_KEY} characters.", param="Idempotency-Key")
    return key


def body_for_llm(body: Mapping[str, Any], raw: bytes | None = None) -> bytes:
    """The body without what is ours; where there is nothing to take out, ``raw``, the bytes that it was read from."""
    if raw is not None and OURS.isdisjoint(body):
        return raw
    return dump({name: value for name, value in body.items() if name not in OURS})


def check_prompt(body: dict[str, Any], raw_size: int, *, prefix: str = "") -> None:
    """Raise ``PayloadTooLarge`` if the prompt is larger than the settings allow."""
    check_prompt_size(body, services().settings.max_prompt_bytes, raw_size, prefix=prefix)


def _fingerprint(sent: Mapping[str, Any]) -> str:
    canonical = json.dumps(sent, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{request.path}\n{canonical}".encode("ascii")).hexdigest()
