"""The Responses API: the response object and the typed events of its stream."""

import time
from typing import Any

from simulator.behaviour import Ending
from simulator.calls import Call, output_tokens, reply
from simulator.prompts import conversation_text, count_tokens
from simulator.streams import Stream, frame, pieces
from simulator.wire import JsonObject, new_id

# What a response repeats from its request, each with the API's value for a request that leaves it out.
_ECHOED: dict[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
_POSITION = {"output_index": 0, "content_index": 0}


def replies(call: Call) -> list[str]:
    """Return the text of the answer, or nothing when the response fails."""
    return [] if call.ending is Ending.FAILED else [reply(_prompt(call))]


def answer(call: Call, texts: list[str]) -> JsonObject:
    """Return the response object at its end."""
    return _ended(call, _begun(call), [_message(new_id("msg_"), call.ending.value, text) for text in texts])


def stream(call: Call, texts: list[str]) -> Stream:
    """Return the events from ``response.created`` to the one that ends the response."""
    begun = _begun(call)
    script = _Script()
    opening = [
        script.event("response.created", response=begun),
        script.event("response.in_progress", response=begun),
    ]
    deltas, closing, output = [], [], []
    for text in texts:
        message_id = new_id("msg_")
        place = {"item_id": message_id, **_POSITION}
        added = {**_message(message_id, "in_progress", ""), "content": []}
        opening.append(script.event("response.output_item.added", output_index=0, item=added))
        opening.append(script.event("response.content_part.added", **place, part=_part("")))
        deltas = [
            script.event("response.output_text.delta", **place, delta=piece, logprobs=[]) for piece in pieces(text)
        ]
        message = _message(message_id, call.ending.value, text)
        output.append(message)
        closing.append(script.event("response.output_text.done", **place, text=text, logprobs=[]))
        closing.append(script.event("response.content_part.done", **place, part=_part(text)))
        closing.append(script.event("response.output_item.done", output_index=0, item=message))
    closing.append(script.event(f"response.{call.ending.value}", response=_ended(call, begun, output)))
    return Stream(b"".join(opening), deltas, b"".join(closing))


class _Script:
    """Numbers the events of one stream from 0."""

    def __init__(self) -> None:
        self._next = 0

    def event(self, type: str, **fields: object) -> bytes:
        data = {"type": type, "sequence_number": self._next, **fields}
        self._next += 1
        return frame(data, event=type)


def _prompt(call: Call) -> str:
    return conversation_text(call.body.get("input"))


def _begun(call: Call) -> JsonObject:
    body = call.body
    return {
        "id": new_id("resp_"),
        "object": "response",
        "created_at": call.created,
        "completed_at": None,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": call.model,
        "output": [],
        "usage": None,
        **{name: value if body.get(name) is None else body[name] for name, value in _ECHOED.items()},
    }


def _ended(call: Call, begun: JsonObject, output: list[JsonObject]) -> JsonObject:
    ended = {**begun, "status": call.ending.value, "output": output}
    match call.ending:
        case Ending.FAILED:
            return {**ended, "error": {"code": "server_error", "message": "The simulated model failed."}}
        case Ending.INCOMPLETE:
            ended["incomplete_details"] = {"reason": "max_output_tokens"}
        case Ending.COMPLETED:
            ended["completed_at"] = int(time.time())
    read = count_tokens(_prompt(call))
    written = output_tokens([message["content"][0]["text"] for message in output])
    ended["usage"] = {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }
    return ended


def _message(message_id: str, status: str, text: str) -> JsonObject:
    return {"id": message_id, "type": "message", "role": "assistant", "status": status, "content": [_part(text)]}


def _part(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
