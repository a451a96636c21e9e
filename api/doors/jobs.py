"""``/v1/jobs``: any endpoint's jobs, submitted and polled."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify

from api.answers import Deleted, JobAnswer, JobList
from api.bodies import dump, query, read_object, validate
from api.doors.ids import known_id
from api.intake import Submission, body_for_llm, check_prompt, is_stored, job_of, resubmit, submit
from api.openapi import operation
from api.rendering import job_answer, job_summary, page
from api.requests import JOBS, EndpointJob, JobHead, JobsQuery, PromptJob, WaitQuery
from api.services import owner, services
from jobs.bodies import ResponseBody
from jobs.model import CHAT_COMPLETIONS, RESPONSES, Job, JobStatus
from jobs.queues import QUEUES
from jobs.store import Accepted

blueprint = Blueprint("jobs", __name__)


@blueprint.post("/v1/jobs")
@operation(
    "Submit a job",
    request=(*JOBS.values(), PromptJob),
    answers={202: JobAnswer},
    idempotent=True,
)
def create() -> Response:
    """Accept a job and answer at once. `Location` is where its result will be."""
    raw, sent = read_object()
    submission = _from_prompt(sent, len(raw)) if "prompt" in sent else _from_endpoint(sent, len(raw))
    return answer_accepted(submit(submission, sent))


def answer_accepted(accepted: Accepted, *, preferred: bool = False) -> Response:
    """202, the job, and where to find it again; ``preferred`` if the caller asked for this with ``Prefer``."""
    job, position = job_of(accepted)
    response = jsonify(job_answer(job, position))
    response.status_code = 202
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if preferred:
        response.headers["Preference-Applied"] = "respond-async"
    return response


def _from_prompt(sent: dict[str, Any], size: int) -> Submission:
    job = validate(PromptJob, sent)
    check_prompt(sent, size)
    model = job.model or services().settings.default_model
    return Submission(
        endpoint=CHAT_COMPLETIONS,
        model=model,
        body=dump({"model": model, "messages": [{"role": "user", "content": job.prompt}]}),
        queue=job.queue,
        deadline_seconds=job.deadline_seconds,
        attempt_timeout=job.attempt_timeout_seconds,
        webhook_url=job.webhook_url,
        metadata=job.metadata,
    )


def _from_endpoint(sent: dict[str, Any], size: int) -> Submission:
    job: EndpointJob = validate(JOBS[validate(JobHead, sent).endpoint], sent)
    check_prompt(sent["body"], size, prefix="body.")
    if isinstance(job.body, ResponseBody):
        is_stored(job.body, waits=False, webhook_url=None, prefix="body.")
    return Submission(
        endpoint=job.endpoint,
        model=job.body.model,
        body=body_for_llm(sent["body"]),
        response=sent["body"] if job.endpoint == RESPONSES else None,
        prefix="body.",
        queue=job.queue,
        deadline_seconds=job.deadline_seconds,
        attempt_timeout=job.attempt_timeout_seconds,
        webhook_url=job.webhook_url,
        metadata=job.metadata,
    )


@blueprint.get("/v1/jobs/<job_id>")
@operation("Get a job", answers={200: JobAnswer}, query=WaitQuery, errors=(404,))
def get(job_id: str) -> Response:
    """A job as it stands. With `wait`, held until the job ends or the time is over."""
    seconds = query(WaitQuery).wait
    known_id(job_id)
    found = services()

    def read() -> Job:
        return found.store.get(job_id, owner(), fields=("result",))

    return _answer(found.waiter.wait(job_id, read, timeout=seconds, stop=found.stopping.is_set) if seconds else read())


@blueprint.get("/v1/jobs")
@operation("List jobs", answers={200: JobList}, query=JobsQuery, errors=(404,))
def list_() -> Response:
    """Your jobs, newest first, without their results."""
    asked = query(JobsQuery)
    found = services().store.list(
        owner(),
        statuses=[asked.status.value] if asked.status else tuple(JobStatus),
        queue_names=[asked.queue] if asked.queue else QUEUES,
        limit=asked.limit,
        after=known_id(asked.after, param="after") if asked.after is not None else None,
    )
    return jsonify(page([job_summary(job) for job in found.jobs], has_more=found.has_more))


@blueprint.post("/v1/jobs/<job_id>/cancel")
@operation("Cancel a job", answers={200: JobAnswer}, errors=(404,))
def cancel(job_id: str) -> Response:
    """End a job; a running LLM call is aborted. A job that has ended stays as it is."""
    services().store.cancel(known_id(job_id), owner())
    return _answer(services().store.get(job_id, owner()))


@blueprint.post("/v1/jobs/<job_id>/retry")
@operation("Retry a failed job", answers={202: JobAnswer}, errors=(404, 409))
def retry(job_id: str) -> Response:
    """Make a new job of one that failed or was cancelled, with `retried_from`. A second time gives the same new job."""
    return answer_accepted(resubmit(known_id(job_id)))


@blueprint.delete("/v1/jobs/<job_id>")
@operation("Delete a job", answers={200: Deleted}, errors=(404,))
def delete(job_id: str) -> Response:
    """Remove a job and its result; a running LLM call is aborted."""
    services().store.delete(known_id(job_id), owner())
    return jsonify({"id": job_id, "object": "job", "deleted": True})


def _answer(job: Job) -> Response:
    return jsonify(job_answer(job, services().store.position(job)))
