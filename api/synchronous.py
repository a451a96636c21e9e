"""Waiting for a job on the caller's own connection, and answering with what the LLM answered."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from flask import Response, jsonify, request

from api.disconnects import on_disconnect
from api.intake import idempotency_key
from api.services import owner, services
from jobs import errors
from jobs.errors import (
    DeadlineExceeded,
    JobCancelled,
    LLMError,
    NotFound,
    PromptQError,
    StoreUnavailable,
    WaitTimeout,
)
from jobs.model import Job, JobStatus
from jobs.store import Accepted

_CLIENT_GONE = 499


class ClientGone(Exception):
    """Raised in a view whose client has closed the connection; nobody will see its answer."""


def wait_for(accepted: Accepted) -> Job:
    """The job once it has ended.

    Raises ``WaitTimeout`` after ``PROMPTQ_MAX_WAIT``, ``JobCancelled`` if the job was cancelled or deleted meanwhile,
    and ``ClientGone`` if the caller went away. The last cancels the job, unless it came with an Idempotency-Key: such a
    caller may come back for the answer, and a cancelled job would be paid for twice. So does the first where the job is
    not stored: nobody else could have its answer.
    """
    found = services()
    job_id = accepted.job_id
    may_cancel = accepted.made is not None and idempotency_key() is None
    stored = accepted.made is None or accepted.made.stored
    gone = threading.Event()
    wake = threading.Event()

    def on_gone() -> None:
        gone.set()
        wake.set()

    def read() -> Job:
        return found.store.get(job_id, owner(), fields=("request", "result"), unstored=True)

    try:
        with on_disconnect(request.environ, on_gone):
            job = found.waiter.wait(
                job_id,
                read,
                timeout=found.settings.max_wait,
                stop=lambda: gone.is_set() or found.closing.is_set(),
                wake=wake,
            )
    except NotFound:
        raise JobCancelled(f"The job {job_id} was deleted while this request waited for it.") from None
    except StoreUnavailable as error:
        # The job was accepted: a plain 503 would make the SDK send it again, to be paid for again.
        why = "The job store went away while this request waited"
        raise WaitTimeout(still_running(job_id, why, stored=stored, keyed=not may_cancel)) from error
    if job.status.terminal:
        return job
    if gone.is_set():
        if may_cancel:
            found.store.cancel(job_id, owner(), unstored=True)
        raise ClientGone
    why = "The server is restarting" if found.closing.is_set() else "The job did not end in time for this request"
    if may_cancel and not job.stored:
        found.store.cancel(job_id, owner(), unstored=True)
    raise WaitTimeout(still_running(job_id, why, stored=job.stored, keyed=not may_cancel))


def still_running(job_id: str, why: str, *, stored: bool, keyed: bool) -> str:
    """That a request is over and its job is not. ``keyed``: whether an Idempotency-Key can get its answer."""
    if stored:
        return f"{why}; it goes on as {job_id}: see GET /v1/jobs/{job_id}."
    return f"{why}; {unstored(job_id, keyed=keyed)}."


def unstored(job_id: str, *, keyed: bool) -> str:
    """What becomes of a job that its caller waits for no longer, and that cannot be looked up."""
    if keyed:
        return f"it goes on as {job_id}: only the same request with its Idempotency-Key can get the answer"
    return "it is given up, since a response that is not stored cannot be fetched later"


def relay(job: Job, render: Callable[[Job], Response]) -> Response:
    """The ended job as the LLM's own answer: its result as ``render`` has it, or its status and error."""
    if job.status is JobStatus.CANCELLED:
        raise JobCancelled(f"The job {job.id} was cancelled.")
    return render(job) if job.result is not None else _relay_error(job)


def result_as_it_came(job: Job) -> Response:
    """The result, byte for byte."""
    return Response(job.result, mimetype="application/json")


def _relay_error(job: Job) -> Response:
    body, status = error_of(job)
    response = jsonify({"error": body})
    response.status_code = status
    # Its retries are done and paid for; the SDK would begin them again.
    response.headers["x-should-retry"] = "false"
    return response


#: The class of each error that a job can end with; any other is a fault of ours (a 500).
_BY_CODE: Final[Mapping[str, type[PromptQError]]] = {
    value.code: value
    for value in vars(errors).values()
    # The root of the LLM's errors has no code of its own.
    if isinstance(value, type) and issubclass(value, LLMError | DeadlineExceeded) and value is not LLMError
}


def error_of(job: Job) -> tuple[dict[str, Any], int]:
    """Why a job brought no answer, as OpenAI writes errors, and its HTTP status; the LLM's own where it gave one."""
    if job.status is JobStatus.CANCELLED:
        cancelled = JobCancelled(f"The job {job.id} was cancelled.")
        return _body(cancelled.message, JobCancelled, cancelled.code), cancelled.http_status
    error = job.error or {"code": "internal_error", "message": "The job failed."}
    upstream = error.get("upstream_error")
    status = error.get("upstream_status")
    if upstream and status:
        return dict(upstream), status
    ours = _BY_CODE.get(error["code"], PromptQError)
    # An error without a body of its own (a proxy's, say) still keeps the LLM's status.
    return _body(error["message"], ours, error["code"]), status if status and status >= 400 else ours.http_status


def _body(message: str, ours: type[PromptQError], code: str) -> dict[str, Any]:
    return {"message": message, "type": ours.error_type, "param": None, "code": code}


def client_gone_response() -> Response:
    """What is logged for a caller who went away (nginx's 499)."""
    return Response(status=_CLIENT_GONE)
