"""``/v1/queues``: how long the queues are, and pausing them."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from api.answers import QueueAnswer, QueueList
from api.openapi import operation
from api.rendering import page, queue_answer
from api.services import owner, services
from jobs.errors import Forbidden, NotFound
from jobs.queues import QUEUES, QueueName

blueprint = Blueprint("queues", __name__)


@blueprint.get("/v1/queues")
@operation("List queues", answers={200: QueueList})
def list_() -> Response:
    """The queues, the preferred one first, with what waits and runs in each, of all owners together."""
    return jsonify(page([queue_answer(state) for state in services().store.queues.states()], has_more=False))


@blueprint.get("/v1/queues/<name>")
@operation("Get a queue", answers={200: QueueAnswer}, errors=(404,))
def get(name: str) -> Response:
    """One queue as it stands."""
    return _answer(_known(name))


@blueprint.post("/v1/queues/<name>/pause")
@operation("Pause a queue", answers={200: QueueAnswer}, errors=(404,))
def pause(name: str) -> Response:
    """Start no further job of the queue; it goes on taking jobs, and those that run go on. For operators."""
    _check_operator()
    services().store.queues.pause(_known(name))
    return _answer(_known(name))


@blueprint.post("/v1/queues/<name>/resume")
@operation("Resume a queue", answers={200: QueueAnswer}, errors=(404,))
def resume(name: str) -> Response:
    """Let a paused queue go on where it stood. For operators."""
    _check_operator()
    services().store.queues.resume(_known(name))
    return _answer(_known(name))


def _check_operator() -> None:
    if owner() not in services().settings.operators:
        raise Forbidden(f"The owner '{owner()}' may not pause queues: PROMPTQ_OPERATORS does not name it.")


def _known(name: str) -> QueueName:
    if name not in QUEUES:
        raise NotFound(f"The queues are {', '.join(QUEUES)}.", param="name")
    return name


def _answer(name: QueueName) -> Response:
    return jsonify(queue_answer(services().store.queues.state(name)))
