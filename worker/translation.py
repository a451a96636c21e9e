"""Chat completions as responses, for an LLM that speaks no more than those: whole answers, and streams.

Pure functions, of what the LLM sent and what it was asked. A whole answer is read as a stream of one chunk, so that
there is one translation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from jobs.errors import LLMBadAnswer, LLMUnavailable, LLMUnreachable
from worker.streaming import begins_another

Event = dict[str, Any]

#: What a response repeats of its request, and what OpenAI says where it was not given.
_ECHOED: Final[Mapping[str, Any]] = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": None,
    "store": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
    "user": None,
}
#: Why an answer is incomplete, by the finish reason of a chat completion; any other is complete.
_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
#: Of each kind of text: the item that it is part of, the member that holds it, and what its events are called.
_TEXTS: Final = {
    "reasoning_text": ("reasoning", "text", "response.reasoning_text"),
    "output_text": ("message", "text", "response.output_text"),
    "refusal": ("message", "refusal", "response.refusal"),
}
_PREFIXES: Final = {"reasoning": "rs", "message": "msg", "function_call": "fc"}


def response_of(asked: Mapping[str, Any], completion: Mapping[str, Any], *, number: str) -> dict[str, Any]:
    """The response that a chat completion is; its id is the completion's.

    ``asked``: the body of the request for the response. ``number``: what the ids of its items are made of, so that no
    two responses share one. Raises ``LLMBadAnswer`` where it has no choice with a message.
    """
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise LLMBadAnswer("The LLM's answer has no message.")
    whole = {**choice, "index": 0, "delta": message, "finish_reason": choice.get("finish_reason") or "stop"}
    *_, last = response_events(asked, [{**completion, "choices": [whole]}], number=number)
    response: dict[str, Any] = last["response"]
    return response


def response_events(asked: Mapping[str, Any], chunks: Iterable[Mapping[str, Any]], *, number: str) -> Iterator[Event]:
    """The events of a response's stream (openai ``types/responses/response_stream_event.py``), numbered from 0, each as
    soon as the chunks of the chat completion's stream allow.

    The arguments are those of ``response_of``. Raises ``LLMUnreachable`` where the chunks end before the answer does,
    ``LLMUnavailable`` at a chunk that is an error.
    """
    stream = ResponseStream(asked, number)
    for chunk in chunks:
        yield from stream.take(chunk)
    yield from stream.end()


@dataclass(slots=True)
class _Text:
    """The text that is being written, the last part of its item."""

    kind: str
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class _Call:
    """A function call whose arguments are being written."""

    index: int
    #: As the LLM gave it.
    id: Any
    pieces: list[str] = field(default_factory=list)


class ResponseStream:
    """A response that is told chunk by chunk: what has been said so far."""

    def __init__(self, asked: Mapping[str, Any], number: str) -> None:
        self._asked = asked
        self._number = number
        self._sequence = 0
        self._begun: dict[str, Any] | None = None
        self._output: list[dict[str, Any]] = []
        #: The message or reasoning that is being written, by its place in the output, and its text.
        self._open: int | None = None
        self._text: _Text | None = None
        self._calls: list[_Call] = []
        #: The newest of each index.
        self._newest: dict[int, _Call] = {}
        self._usage: Any = None
        self._finish: Any = None

    @property
    def begun(self) -> bool:
        """Whether a chunk has come."""
        return self._begun is not None

    def take(self, chunk: Mapping[str, Any]) -> Iterator[Event]:
        """The events that this chunk brings."""
        if chunk.get("error"):
            raise LLMUnavailable("The LLM's stream broke off in an error.")
        if self._begun is None:
            self._begun = _begun(self._asked, chunk, self._number)
            yield self._event("response.created", response=self._begun)
            yield self._event("response.in_progress", response=self._begun)
        # By itself in the last chunk, or in each as the sum so far.
        self._usage = chunk.get("usage") or self._usage
        for choice in _dicts(chunk.get("choices")):
            # More than one was not asked for.
            if choice.get("index", 0) == 0:
                yield from self._say(choice, _dict(choice.get("delta")))
                self._finish = choice.get("finish_reason") or self._finish

    def _say(self, choice: Mapping[str, Any], delta: Mapping[str, Any]) -> Iterator[Event]:
        # Two names for what OpenAI's own API does not have, but many self-hosted LLMs do.
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(thought, str) and thought:
            yield from self._write("reasoning_text", thought)
        said = _plain(delta.get("content"))
        if said:
            yield from self._write("output_text", said, _logprobs(choice))
        if isinstance(delta.get("refusal"), str) and delta["refusal"]:
            yield from self._write("refusal", delta["refusal"])
        if self._text is not None and self._text.kind == "output_text":
            self._text.annotations += map(_annotation, _dicts(delta.get("annotations")))
        for place, call in enumerate(_dicts(delta.get("tool_calls"))):
            index = call.get("index")
            yield from self._call(call, index if isinstance(index, int) else place)

    def _write(self, kind: str, piece: str, logprobs: list[dict[str, Any]] | None = None) -> Iterator[Event]:
        """Say a piece of text, in the item and part that is open if it is of that kind, else in a new one."""
        item_kind, _, events = _TEXTS[kind]
        if self._open is not None and self._output[self._open]["type"] != item_kind:
            yield from self._close_item("completed")
        if self._open is None:
            about: dict[str, Any] = {"summary": []} if item_kind == "reasoning" else {"role": "assistant"}
            self._open = len(self._output)
            yield from self._add_item(item_kind, **about, content=[])
        if self._text is not None and self._text.kind != kind:
            yield from self._close_text()
        if self._text is None:
            self._text = _Text(kind)
            yield self._event("response.content_part.added", **self._place(), part=_part(self._text))
        self._text.pieces.append(piece)
        more: dict[str, Any] = {}
        if kind == "output_text":
            self._text.logprobs += logprobs or []
            more["logprobs"] = logprobs or []
        if piece:
            yield self._event(f"{events}.delta", **self._place(), delta=piece, **more)

    def _call(self, call: Mapping[str, Any], key: int) -> Iterator[Event]:
        """Go on with a function call, or begin it. All are open to the end: their pieces may come in turns."""
        function = _dict(call.get("function"))
        written = self._newest.get(key)
        if written is None or begins_another(call, written.id):
            if self._open is not None:
                yield from self._close_item("completed")
            index = len(self._output)
            written = self._newest[key] = _Call(index, call.get("id"))
            self._calls.append(written)
            call_id = call.get("id") or f"call_{self._number}{index:02x}"
            yield from self._add_item(
                "function_call", call_id=str(call_id), name=str(function.get("name") or ""), arguments=""
            )
        arguments = function.get("arguments")
        # Some give the object itself.
        piece = arguments if isinstance(arguments, str) else "" if arguments is None else json.dumps(arguments)
        if piece:
            written.pieces.append(piece)
            item_id = self._output[written.index]["id"]
            about = {"item_id": item_id, "output_index": written.index}
            yield self._event("response.function_call_arguments.delta", **about, delta=piece)

    def end(self, *, whole: bool = False) -> Iterator[Event]:
        """The events that follow the last chunk. Raises ``LLMUnreachable`` where the answer was cut.

        ``whole``: whether it is known not to be; some LLMs give no finish reason.
        """
        if self._begun is None or (self._finish is None and not whole):
            raise LLMUnreachable("The LLM's stream ended in its middle.")
        if not self._output:
            yield from self._write("output_text", "")
        reason = _INCOMPLETE.get(str(self._finish))
        status = "completed" if reason is None else "incomplete"
        # Whatever came last is what was cut.
        if self._open is not None:
            last = self._open == len(self._output) - 1
            yield from self._close_item(status if last else "completed")
        for call in self._calls:
            last = call.index == len(self._output) - 1
            yield from self._close_call(call, status if last else "completed")
        response = {
            **self._begun,
            "status": status,
            "incomplete_details": None if reason is None else {"reason": reason},
            "output": self._output,
            "usage": _usage(self._usage),
        }
        yield self._event(f"response.{status}", response=response)

    def _add_item(self, kind: str, **fields: Any) -> Iterator[Event]:
        index = len(self._output)
        item_id = f"{_PREFIXES[kind]}_{self._number}{index:02x}"
        item = {"id": item_id, "type": kind, "status": "in_progress", **fields}
        self._output.append(item)
        yield self._event("response.output_item.added", output_index=index, item=item)

    def _close_text(self) -> Iterator[Event]:
        text, self._text = self._text, None
        assert text is not None
        assert self._open is not None
        item = self._output[self._open]
        _, member, events = _TEXTS[text.kind]
        # Where the text stands is told by the item without it.
        place, part = self._place(), _part(text)
        more = {"logprobs": text.logprobs} if text.kind == "output_text" else {}
        yield self._event(f"{events}.done", **place, **{member: part[member]}, **more)
        yield self._event("response.content_part.done", **place, part=part)
        self._output[self._open] = {**item, "content": [*item["content"], part]}

    def _close_item(self, status: str) -> Iterator[Event]:
        yield from self._close_text()
        assert self._open is not None
        index, self._open = self._open, None
        self._output[index] = {**self._output[index], "status": status}
        yield self._event("response.output_item.done", output_index=index, item=self._output[index])

    def _close_call(self, call: _Call, status: str) -> Iterator[Event]:
        item = {**self._output[call.index], "arguments": "".join(call.pieces), "status": status}
        self._output[call.index] = item
        about = {"item_id": item["id"], "output_index": call.index}
        yield self._event("response.function_call_arguments.done", **about, arguments=item["arguments"])
        yield self._event("response.output_item.done", output_index=call.index, item=item)

    def _place(self) -> dict[str, Any]:
        assert self._open is not None
        item = self._output[self._open]
        return {"item_id": item["id"], "output_index": self._open, "content_index": len(item["content"])}

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event


def _begun(asked: Mapping[str, Any], head: Mapping[str, Any], number: str) -> dict[str, Any]:
    echoed = {name: default if asked.get(name) is None else asked[name] for name, default in _ECHOED.items()}
    created = head.get("created")
    response = {
        "id": str(head.get("id") or f"chatcmpl-{number}"),
        "object": "response",
        "created_at": created if isinstance(created, int | float) else 0,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": str(head.get("model") or asked.get("model")),
        "output": [],
        "usage": None,
        **echoed,
    }
    if isinstance(head.get("service_tier"), str):
        response["service_tier"] = head["service_tier"]
    return response


def _part(text: _Text) -> dict[str, Any]:
    member = _TEXTS[text.kind][1]
    part: dict[str, Any] = {"type": text.kind, member: "".join(text.pieces)}
    if text.kind == "output_text":
        part |= {"annotations": text.annotations, "logprobs": text.logprobs}
    return part


def _plain(content: Any) -> str:
    """The text of a message's content; some give a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def _annotation(given: Mapping[str, Any]) -> dict[str, Any]:
    """A citation of a page, the one kind that chat completions have."""
    return {"type": "url_citation", **_dict(given.get("url_citation"))}


def _logprobs(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = _dicts(_dict(choice.get("logprobs")).get("content"))
    return [{**_logprob(one), "top_logprobs": list(map(_logprob, _dicts(one.get("top_logprobs"))))} for one in found]


def _logprob(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"token": given.get("token", ""), "bytes": given.get("bytes") or [], "logprob": given.get("logprob", 0.0)}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    """Those members of a list that are objects: what else an LLM sends there tells us nothing."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _usage(given: Any) -> dict[str, Any] | None:
    """Token counts under the names that a response has for them; None where the LLM told none."""
    if not isinstance(given, dict):
        return None
    read, written = _count(given, "prompt_tokens"), _count(given, "completion_tokens")
    about_read, about_written = (given.get(f"{kind}_tokens_details") for kind in ("prompt", "completion"))
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": _count(about_read, "cached_tokens"),
            "cache_write_tokens": _count(about_read, "cache_write_tokens"),
        },
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": _count(about_written, "reasoning_tokens")},
        "total_tokens": _count(given, "total_tokens") or read + written,
    }


def _count(given: Any, name: str) -> int:
    value = given.get(name) if isinstance(given, dict) else None
    return value if isinstance(value, int) and value >= 0 else 0
