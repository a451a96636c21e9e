"""``POST /generate``: the simplest door."""

from __future__ import annotations

import json

from flask import Blueprint, Response, jsonify

from api.answers import GenerateAnswer
from api.bodies import dump, read_object, validate
from api.intake import Submission, check_prompt, submit
from api.openapi import operation
from api.requests import GenerateRequest
from api.services import services
from api.synchronous import relay, wait_for
from jobs.model import CHAT_COMPLETIONS, Job

blueprint = Blueprint("generate", __name__)


@blueprint.post("/generate")
@operation(
    "Generate a text",
    request=(GenerateRequest,),
    answers={200: GenerateAnswer},
    idempotent=True,
    waits=True,
)
def generate() -> Response:
    """A prompt in, a text out, through the queue."""
    raw, sent = read_object()
    asked = validate(GenerateRequest, sent)
    check_prompt(sent, len(raw))
    model = asked.model or services().settings.default_model
    body = dump({"model": model, "messages": [{"role": "user", "content": asked.prompt}]})
    submission = Submission(endpoint=CHAT_COMPLETIONS, model=model, body=body, queue="interactive")
    return relay(wait_for(submit(submission, sent)), lambda job: jsonify({"response": _text(job)}))


def _text(job: Job) -> str:
    """The text of the first choice; empty where the LLM gave none."""
    choices = json.loads(job.result or b"{}").get("choices") or [{}]
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else ""
