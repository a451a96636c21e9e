"""``/v1/responses``: OpenAI's Responses API, background and not."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, jsonify

from api.answers import Deleted, InputItemList, JobAnswer, ResponseAnswer, ResponseList
from api.bodies import query, read_object, validate
from api.doors.asynchronous import respond_async
from api.doors.ids import known_response_id
from api.doors.jobs import answer_accepted
from api.event_streams import stream_new, stream_of
from api.intake import Submission, body_for_llm, check_prompt, is_stored, job_of, submit
from api.openapi import operation
from api.rendering import input_items, page, response_answer
from api.requests import InputItemsQuery, PageQuery, RetrieveQuery
from api.services import owner, services
from api.synchronous import relay, wait_for
from jobs.bodies import JobOptions, ResponseBody
from jobs.errors import InvalidRequest, NotFound
from jobs.model import RESPONSES, Job
from jobs.queues import QueueName

blueprint = Blueprint("responses", __name__)

#: How soon a background response is wanted decides its queue; one that does not say runs on ``default``.
_WINDOWS: Final[dict[str, QueueName]] = {"soonest": "interactive", "2h": "default", "8h": "bulk"}


@blueprint.post("/v1/responses")
@operation(
    "Create a response",
    request=(ResponseBody,),
    answers={200: ResponseAnswer, 202: JobAnswer},
    idempotent=True,
    waits=True,
    prefer_async=True,
    streams=True,
)
def create() -> Response:
    """With `background: true`, accept and answer at once; without, answer when the LLM has. Both go through the queue.

    With `stream: true` server-sent events: in the background from the start, else as soon as the LLM says something.
    With `Prefer: respond-async`, 202 and the job.
    """
    raw, sent = read_object()
    body = validate(ResponseBody, sent)
    check_prompt(sent, len(raw))
    ours = body.promptq or JobOptions()
    stored = is_stored(body, waits=not body.background and not respond_async(), webhook_url=ours.webhook_url)
    accepted = submit(
        Submission(
            endpoint=RESPONSES,
            model=body.model,
            body=body_for_llm(sent, raw),
            queue=ours.queue or _queue(body),
            deadline_seconds=ours.deadline_seconds,
            attempt_timeout=ours.attempt_timeout_seconds,
            webhook_url=ours.webhook_url,
            webhook_param="promptq.webhook_url",
            metadata=body.metadata,
            background=bool(body.background),
            stored=stored,
            response=sent,
            stream=bool(body.stream),
        ),
        sent,
    )
    if body.stream:
        return stream_new(accepted, RESPONSES, background=bool(body.background))
    if body.background:
        return jsonify(response_answer(*job_of(accepted)))
    if respond_async():
        return answer_accepted(accepted, preferred=True)
    return relay(wait_for(accepted), lambda job: jsonify(response_answer(job)))


def _queue(body: ResponseBody) -> QueueName:
    if not body.background:
        return "interactive"
    window = body.background_options.completion_window if body.background_options else None
    return _WINDOWS[window] if window else "default"


@blueprint.get("/v1/responses/<response_id>")
@operation("Get a response", answers={200: ResponseAnswer}, query=RetrieveQuery, errors=(404,), streams=True)
def get(response_id: str) -> Response:
    """A response as it stands. With `stream`, its events after `starting_after`, and then as they come to its end."""
    asked = query(RetrieveQuery)
    if asked.stream:
        job = services().store.get(known_response_id(response_id), owner(), fields=())
        return stream_of(job, after=asked.starting_after)
    return _answer(services().store.get(known_response_id(response_id), owner()))


@blueprint.get("/v1/responses")
@operation("List responses", answers={200: ResponseList}, query=PageQuery, errors=(404,))
def list_() -> Response:
    """Your responses, newest first. Not in OpenAI's API."""
    asked = query(PageQuery)
    found = services().store.list(
        owner(),
        kinds=("resp",),
        limit=asked.limit,
        after=known_response_id(asked.after, param="after") if asked.after is not None else None,
        fields=("request", "result"),
    )
    return jsonify(page([response_answer(job) for job in found.jobs], has_more=found.has_more))


@blueprint.post("/v1/responses/<response_id>/cancel")
@operation("Cancel a response", answers={200: ResponseAnswer}, errors=(400, 404))
def cancel(response_id: str) -> Response:
    """End a background response; the LLM call is aborted. One that has ended stays as it is."""
    store = services().store
    job = store.get(known_response_id(response_id), owner(), fields=())
    if not job.background:
        raise InvalidRequest("Only a response that was created with background=true can be cancelled.", param="id")
    store.cancel(response_id, owner())
    return _answer(store.get(response_id, owner()))


@blueprint.delete("/v1/responses/<response_id>")
@operation("Delete a response", answers={200: Deleted}, errors=(404,))
def delete(response_id: str) -> Response:
    """Remove a response; a running LLM call is aborted."""
    services().store.delete(known_response_id(response_id), owner())
    return jsonify({"id": response_id, "object": "response", "deleted": True})


@blueprint.get("/v1/responses/<response_id>/input_items")
@operation("List a response's input items", answers={200: InputItemList}, query=InputItemsQuery, errors=(404,))
def items(response_id: str) -> Response:
    """What the response was asked: its own input, without that of the responses that it continues."""
    asked = query(InputItemsQuery)
    found = input_items(services().store.get(known_response_id(response_id), owner(), fields=("request",)))
    if asked.order == "desc":
        found.reverse()
    if asked.after is not None:
        ids = [item["id"] for item in found]
        if asked.after not in ids:
            raise NotFound("The response has no input item with this id.", param="after")
        found = found[ids.index(asked.after) + 1 :]
    return jsonify(page(found[: asked.limit], has_more=len(found) > asked.limit))


def _answer(job: Job) -> Response:
    return jsonify(response_answer(job, services().store.position(job)))
