"""Chat completions, completions and embeddings: asked and answered on one connection, through the queue."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response
from pydantic import BaseModel

from api.answers import JobAnswer, LLMAnswer
from api.bodies import read_object, validate
from api.doors.asynchronous import respond_async
from api.doors.jobs import answer_accepted
from api.event_streams import stream_new
from api.intake import Submission, body_for_llm, check_prompt, submit
from api.openapi import View, operation
from api.synchronous import relay, result_as_it_came, wait_for
from jobs.bodies import BODIES, ChatBody, CompletionBody, EmbeddingBody, JobOptions
from jobs.model import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, Endpoint

blueprint = Blueprint("completions", __name__)


def _door(summary: str, body: type[BaseModel], *, streams: bool = True) -> Callable[[View], View]:
    answers = {200: LLMAnswer, 202: JobAnswer}
    return operation(
        summary,
        request=(body,),
        answers=answers,
        idempotent=True,
        waits=True,
        prefer_async=True,
        streams=streams,
    )


@blueprint.post("/v1/chat/completions")
@_door("Create a chat completion", ChatBody)
def chat() -> Response:
    """Answer when the LLM has; with `stream: true` as it goes, in server-sent events.

    With `Prefer: respond-async`, 202 and the job.
    """
    return _ask(CHAT_COMPLETIONS)


@blueprint.post("/v1/completions")
@_door("Create a completion", CompletionBody)
def completion() -> Response:
    """Answer when the LLM has; with `stream: true` as it goes, in server-sent events.

    With `Prefer: respond-async`, 202 and the job.
    """
    return _ask(COMPLETIONS)


@blueprint.post("/v1/embeddings")
@_door("Create embeddings", EmbeddingBody, streams=False)
def embedding() -> Response:
    """Answer when the LLM has; with `Prefer: respond-async`, 202 and the job."""
    return _ask(EMBEDDINGS)


def _ask(endpoint: Endpoint) -> Response:
    raw, sent = read_object()
    body = validate(BODIES[endpoint], sent)
    check_prompt(sent, len(raw))
    ours = body.promptq or JobOptions()
    asynchronous = respond_async()
    metadata = getattr(body, "metadata", None)
    accepted = submit(
        Submission(
            endpoint=endpoint,
            model=body.model,
            body=body_for_llm(sent, raw),
            queue=ours.queue or ("default" if asynchronous else "interactive"),
            deadline_seconds=ours.deadline_seconds,
            attempt_timeout=ours.attempt_timeout_seconds,
            webhook_url=ours.webhook_url,
            webhook_param="promptq.webhook_url",
            metadata=metadata,
            stream=bool(body.stream),
        ),
        sent,
    )
    if body.stream:
        return stream_new(accepted, endpoint)
    if asynchronous:
        return answer_accepted(accepted, preferred=True)
    return relay(wait_for(accepted), result_as_it_came)
