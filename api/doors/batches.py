"""``/v1/batches``: OpenAI's Batch API. Workers do the rest (worker.batches)."""

from __future__ import annotations

import re
from typing import Final

from flask import Blueprint, Response, jsonify

from api.answers import BatchAnswer, BatchList
from api.bodies import query, read_object, validate
from api.doors.ids import known_batch_id
from api.intake import fingerprint_of, idempotency_key
from api.openapi import operation
from api.rendering import batch_answer, page
from api.requests import BatchCreate, PageQuery
from api.services import owner, services
from jobs.batches import NewBatch
from jobs.errors import InvalidRequest, NotFound
from jobs.files import BATCH

blueprint = Blueprint("batches", __name__)

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_LONGEST_WINDOW: Final = 30 * 24 * 3600


@blueprint.post("/v1/batches")
@operation("Create a batch", request=(BatchCreate,), answers={200: BatchAnswer}, idempotent=True, errors=(404,))
def create() -> Response:
    """Run the lines of an uploaded file, each as a job on the queue `bulk`, within the `completion_window`."""
    _, sent = read_object()
    body = validate(BatchCreate, sent)
    window = seconds_of(body.completion_window)
    if not 0 < window <= _LONGEST_WINDOW:
        raise InvalidRequest("A completion_window is at most 30 days long.", param="completion_window")
    key = idempotency_key()
    content = _content(body.input_file_id, repeated=key is not None)
    batch = services().store.batches.create(
        NewBatch(
            owner=owner(),
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            input_content=content,
            completion_window=body.completion_window,
            window_seconds=window,
            metadata=body.metadata or {},
            output_seconds=body.output_expires_after.seconds if body.output_expires_after else None,
            idempotency_key=key,
            fingerprint=fingerprint_of(sent) if key is not None else "",
        )
    )
    return jsonify(batch_answer(batch))


@blueprint.get("/v1/batches/<batch_id>")
@operation("Get a batch", answers={200: BatchAnswer}, errors=(404,))
def get(batch_id: str) -> Response:
    """A batch as it stands; `request_counts` move while it runs."""
    return _answer(known_batch_id(batch_id))


@blueprint.get("/v1/batches")
@operation("List batches", answers={200: BatchList}, query=PageQuery, errors=(404,))
def list_() -> Response:
    """Your batches, newest first."""
    asked = query(PageQuery)
    after = known_batch_id(asked.after, param="after") if asked.after is not None else None
    found = services().store.batches.list(owner(), limit=asked.limit, after=after)
    return jsonify(page([batch_answer(batch) for batch in found.batches], has_more=found.has_more))


@blueprint.post("/v1/batches/<batch_id>/cancel")
@operation("Cancel a batch", answers={200: BatchAnswer}, errors=(404, 409))
def cancel(batch_id: str) -> Response:
    """Begin to cancel a batch: running LLM calls are aborted, and what is done stands in its files."""
    services().store.batches.cancel(known_batch_id(batch_id), owner())
    return _answer(batch_id)


def seconds_of(window: str) -> int:
    """A completion_window in seconds. Raises ``InvalidRequest``."""
    found = re.fullmatch(r"([1-9]\d{0,5})([smhd])", window)
    if found is None:
        raise InvalidRequest("A completion_window is a number and s, m, h or d: '24h'.", param="completion_window")
    return int(found[1]) * _UNITS[found[2]]


def _content(file_id: str, *, repeated: bool) -> str:
    """Where the input's content lies; nowhere if it is gone, and the request may be one that has made its batch."""
    try:
        file = services().files.get(file_id, owner())
    except NotFound:
        if repeated:
            return ""
        raise NotFound("No file with this id found.", param="input_file_id") from None
    if file.purpose != BATCH:
        raise InvalidRequest("The input file must have the purpose 'batch'.", param="input_file_id")
    return file.content


def _answer(batch_id: str) -> Response:
    return jsonify(batch_answer(services().store.batches.get(batch_id, owner())))
