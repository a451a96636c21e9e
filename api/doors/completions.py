"""Chat completions, completions and embeddings: asked and answered on one connection, through the queue."""

from __future__ import annotations

from flask import Blueprint, Response

from api.answers import JobAnswer, LLMAnswer
from api.bodies import read_object, validate
from api.doors.asynchronous import respond_async
from api.doors.jobs import answer_accepted
from api.intake import Submission, body_for_llm, check_prompt, options, submit
from api.openapi import operation
from api.requests import BODIES, ChatBody, CompletionBody, EmbeddingBody
from api.synchronous import relay, result_as_it_came, wait_for
from jobs.model import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, Endpoint

blueprint = Blueprint("completions", __name__)


@blueprint.post("/v1/chat/completions")
@operation(
    "Create a chat completion",
    request=(ChatBody,),
    answers={200: LLMAnswer, 202: JobAnswer},
    idempotent=True,
    waits=True,
    prefer_async=True,
    errors=(409, 413),
)
def chat() -> Response:
    """Answer when the LLM has; with `Prefer: respond-async`, 202 and the job."""
    return _ask(CHAT_COMPLETIONS)


@blueprint.post("/v1/completions")
@operation(
    "Create a completion",
    request=(CompletionBody,),
    answers={200: LLMAnswer, 202: JobAnswer},
    idempotent=True,
    waits=True,
    prefer_async=True,
    errors=(409, 413),
)
def completion() -> Response:
    """Answer when the LLM has; with `Prefer: respond-async`, 202 and the job."""
    return _ask(COMPLETIONS)


@blueprint.post("/v1/embeddings")
@operation(
    "Create embeddings",
    request=(EmbeddingBody,),
    answers={200: LLMAnswer, 202: JobAnswer},
    idempotent=True,
    waits=True,
    prefer_async=True,
    errors=(409, 413),
)
def embedding() -> Response:
    """Answer when the LLM has; with `Prefer: respond-async`, 202 and the job."""
    return _ask(EMBEDDINGS)


def _ask(endpoint: Endpoint) -> Response:
    raw, sent = read_object()
    body = validate(BODIES[endpoint], sent)
    check_prompt(sent, len(raw))
    ours = options(body.promptq)
    asynchronous = respond_async()
    metadata = getattr(body, "metadata", None)
    accepted = submit(
        Submission(
            endpoint=endpoint,
            model=body.model,
            body=body_for_llm(raw, sent, whole=True),
            queue=ours.queue or ("default" if asynchronous else "interactive"),
            deadline_seconds=ours.deadline_seconds,
            metadata=metadata,
        ),
        sent,
    )
    if asynchronous:
        return answer_accepted(accepted, preferred=True)
    return relay(wait_for(accepted), result_as_it_came)
