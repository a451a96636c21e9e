"""``previous_response_id``: which response a new one continues, and what the new one's record needs of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from jobs.conversation import history_after
from jobs.errors import (
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    PreviousResponseNotCompleted,
    PreviousResponseNotFound,
)
from jobs.model import RESPONSES, JobStatus
from jobs.queues import JOB_ID_PATTERN
from jobs.settings import Settings
from jobs.store import JobStore

#: Only these have said something that can be gone on from.
_CONTINUABLE: Final = frozenset({JobStatus.COMPLETED, JobStatus.INCOMPLETE})


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a job that continues a response is made with; all None for one that begins a conversation."""

    previous_response_id: str | None = None
    #: The items before its own input, as JSON, where we compose; else None.
    history: bytes | None = None
    #: The LLM's own id of the previous response, where the LLM keeps the conversation; else None.
    upstream_previous: str | None = None


def continuation(
    body: dict[str, Any], owner: str, *, store: JobStore, settings: Settings, prefix: str = ""
) -> Continuation:
    """What the body of a response continues; nothing if it names none. ``prefix``: where the body stands.

    Raises ``PreviousResponseNotFound`` unless the owner has it, ``PreviousResponseNotCompleted``, ``InvalidRequest``,
    or ``PayloadTooLarge`` where the whole conversation is larger than a prompt may be.
    """
    previous_id, param = body.get("previous_response_id"), f"{prefix}previous_response_id"
    if previous_id is None:
        return Continuation()
    if body.get("conversation") is not None:
        raise InvalidRequest("Either 'previous_response_id' or 'conversation' can be given, not both.", param=param)
    composed = settings.conversations == "compose"
    if not isinstance(previous_id, str) or not JOB_ID_PATTERN.fullmatch(previous_id):
        # Not quoted: it can be anything.
        raise PreviousResponseNotFound("No response with the id in 'previous_response_id' found.", param=param)
    try:
        previous = store.get(previous_id, owner, fields=("request", "result", "history") if composed else ("result",))
    except NotFound:
        previous = None
    if previous is None or previous.endpoint != RESPONSES:
        raise PreviousResponseNotFound(f"Previous response with id '{previous_id}' not found.", param=param)
    if previous.status not in _CONTINUABLE or previous.result is None:
        raise PreviousResponseNotCompleted(
            f"Previous response with id '{previous_id}' cannot be continued: its status is '{previous.status.value}'.",
            param=param,
        )
    if not composed:
        upstream = json.loads(previous.result).get("id")
        if not isinstance(upstream, str):
            raise PreviousResponseNotFound(
                f"The LLM gave no id for '{previous_id}', so it cannot know it (PROMPTQ_CONVERSATIONS=llm).",
                param=param,
            )
        return Continuation(previous_id, upstream_previous=upstream)
    if previous.history is None and _continues(previous.request):
        raise PreviousResponseNotFound(
            f"What was said before '{previous_id}' is not here: the LLM kept it (PROMPTQ_CONVERSATIONS was llm).",
            param=param,
        )
    history = history_after(previous.history, previous.request, previous.result)
    own = json.dumps(body.get("input", ""), ensure_ascii=False).encode("utf-8", "surrogatepass")
    if len(history) + len(own) > settings.max_prompt_bytes:
        raise PayloadTooLarge(
            f"The prompt and the conversation before it have more than {settings.max_prompt_bytes} bytes together "
            "(PROMPTQ_MAX_PROMPT_BYTES).",
            param=param,
        )
    return Continuation(previous_id, history=history)


def _continues(request: bytes) -> bool:
    """Whether a request names a response before it, even if the release that took it knew nothing of conversations."""
    name = "previous_response_id"
    return name.encode() in request and json.loads(request).get(name) is not None
