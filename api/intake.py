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
from jobs.bodies import OURS, ResponseBody
from jobs.continuing import Continuation, continuation
from jobs.errors import InvalidRequest, LLMUnsupported, PreviousResponseNotFound, StoreRequired
from jobs.model import Endpoint, Job, NewJob, new_job_id
from jobs.queues import QueueName
from jobs.store import Accepted
from jobs.translation import chat_body
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
    #: Whether its owner can look it up.
    stored: bool = True
    #: The body of a response as it came, which may continue another, and where it stands in the request.
    response: dict[str, Any] | None = None
    prefix: str = ""


def submit(submission: Submission, sent: Mapping[str, Any]) -> Accepted:
    """Make the job, or find the one that the Idempotency-Key has made; its id goes into the answer's headers.

    ``sent`` is the request as it came: with the path it is what an Idempotency-Key stands for. Raises what
    ``JobStore.create`` raises.
    """
    key = idempotency_key()
    fingerprint = fingerprint_of(sent) if key is not None else ""
    try:
        continues = _continuation(submission)
    except PreviousResponseNotFound:
        # It was there when the request came first: who repeats it gets what was made then.
        before = None if key is None else services().store.known(owner(), key, fingerprint)
        if before is None:
            raise
        return _told(before, submission)
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
                fingerprint=fingerprint,
                background=submission.background,
                stream=submission.stream,
                webhook_url=submission.webhook_url,
                webhook_host=webhook_host,
                trace=enqueueing.traceparent,
                stored=submission.stored,
                previous_response_id=continues.previous_response_id,
                history=continues.history,
                upstream_previous=continues.upstream_previous,
            )
        )
        enqueueing.found(accepted.job_id)
    return _told(accepted, submission)


def _told(accepted: Accepted, submission: Submission) -> Accepted:
    # Whatever becomes of this request, its caller can find the job, and so can who reads its log line (api.app).
    g.job_id = accepted.job_id
    if accepted.made is not None:
        services().metrics.submitted(submission.endpoint, submission.queue)
    structlog.contextvars.bind_contextvars(
        job_id=accepted.job_id, queue=submission.queue, created=accepted.made is not None
    )
    return accepted


def is_stored(body: ResponseBody, *, waits: bool, webhook_url: str | None, prefix: str = "") -> bool:
    """Whether the response shall be stored. Raises ``StoreRequired`` where nobody could get it then.

    ``waits``: whether its caller waits for it on the connection.
    """
    if body.store is not False:
        return True
    if body.background:
        raise StoreRequired("'background' needs a response that is stored: leave 'store' out.", param="background")
    if not waits:
        raise StoreRequired(
            "Nobody could get this response: without 'store' it is for a caller who waits for it.",
            param=f"{prefix}store",
        )
    if webhook_url is not None:
        raise StoreRequired("A webhook tells of a response that is stored: leave 'store' out.", param=f"{prefix}store")
    return False


def _continuation(submission: Submission) -> Continuation:
    """What the submission continues; checked besides is that the LLM's API has words for it."""
    body = submission.response
    if body is None:
        return Continuation()
    found = services()
    continues = continuation(body, owner(), store=found.store, settings=found.settings, prefix=submission.prefix)
    if found.settings.llm_api == "chat":
        own = {name: value for name, value in body.items() if name not in OURS and name != "previous_response_id"}
        try:
            chat_body(own)
        except LLMUnsupported as refused:
            refused.param = submission.prefix + (refused.param or "")
            raise
    return continues


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


def fingerprint_of(sent: Mapping[str, Any]) -> str:
    """What an Idempotency-Key stands for: the path, and the request as it came."""
    canonical = json.dumps(sent, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{request.path}\n{canonical}".encode("ascii")).hexdigest()
