"""``/v1/dead_letters``: the jobs that failed for good, until they are retried or deleted."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from api.answers import JobList
from api.bodies import query
from api.doors.ids import known_id
from api.openapi import operation
from api.rendering import job_summary, page
from api.requests import DeadLettersQuery
from api.services import owner, services
from jobs.queues import QUEUES

blueprint = Blueprint("dead_letters", __name__)


@blueprint.get("/v1/dead_letters")
@operation("List dead letters", answers={200: JobList}, query=DeadLettersQuery, errors=(404,))
def list_() -> Response:
    """Your jobs that failed and were not retried, newest first. `POST /v1/jobs/{id}/retry` takes one from the list."""
    asked = query(DeadLettersQuery)
    found = services().store.dead_letters(
        owner(),
        queue_names=[asked.queue] if asked.queue else QUEUES,
        limit=asked.limit,
        after=known_id(asked.after, param="after") if asked.after is not None else None,
    )
    return jsonify(page([job_summary(job) for job in found.jobs], has_more=found.has_more))
