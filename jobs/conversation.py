"""A conversation for an LLM that keeps none: what was said before, put before what is asked now.

Pure functions. A response's record keeps its request as it came and, apart from it, the ``history``: the items that
stand before its own input, as a JSON list. So a response that was deleted takes nothing from those made after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from jobs.model import Job

#: Items whose id and status only say how an LLM keeps them; one that does not know the id would refuse it.
_WITHOUT_ID: Final = frozenset(
    {"message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"}
)


def history_after(history: bytes | None, request: bytes, result: bytes) -> bytes:
    """The items before the next turn, as a JSON list: those before this one, its input, and what the LLM said.

    ``request`` and ``result`` are this turn's, as JSON. Its ``instructions`` are not part of it, by OpenAI's rule
    (openai ``types/responses/response_create_params.py``). Of each item goes on what an LLM takes as input.
    """
    said = json.loads(result).get("output") or []
    new = [item for item in map(_sendable, [*_items(json.loads(request)), *said]) if item is not None]
    if history is None or history == b"[]":
        return _dump(new)
    # Not read again: it may be long, and is as it should be.
    return history if not new else history[:-1] + b"," + _dump(new)[1:]


def llm_body(job: Job) -> bytes:
    """The body that the job's LLM call sends: the request as it came, unless it continues another response."""
    if job.history is None and job.upstream_previous is None:
        return job.request
    body = json.loads(job.request)
    if job.upstream_previous is not None:
        body["previous_response_id"] = job.upstream_previous
    else:
        body.pop("previous_response_id", None)
        body["input"] = [*json.loads(job.history or b"[]"), *_items(body)]
    return json.dumps(body, separators=(",", ":")).encode("ascii")


def _items(request: Mapping[str, Any]) -> Iterable[Any]:
    """A request's own input as a list of items."""
    given = request.get("input") or []
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


def _sendable(item: Any) -> Any:
    """The item as an LLM takes it that has never seen it; None if there is nothing in it for such a one."""
    if not isinstance(item, dict):
        return item
    kind = item.get("type") or "message"
    if kind == "reasoning":
        # Without either it is a mere reference to what the LLM has kept.
        return item if item.get("encrypted_content") or item.get("content") else None
    if kind not in _WITHOUT_ID:
        return item
    kept = {name: value for name, value in item.items() if name not in ("id", "status")}
    if kind == "message" and item.get("role") == "assistant":
        text = _text(item.get("content"))
        if text == "":
            return None
        if text is not None:
            # A text, since a list of an assistant's parts is valid only in an item with id and status.
            kept["content"] = text
    return kept


def _text(content: Any) -> str | None:
    """What an assistant's message says; None where that is not text alone."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        text = (part.get("text") or part.get("refusal") or "") if isinstance(part, dict) else None
        if not isinstance(text, str) or part.get("type") not in ("output_text", "refusal", "input_text"):
            return None
        texts.append(text)
    return "".join(texts)


def _dump(items: list[Any]) -> bytes:
    """Compact JSON; only a text that UTF-8 has no bytes for (a lone surrogate) makes it larger than need be."""
    try:
        return json.dumps(items, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(items, separators=(",", ":")).encode("ascii")
