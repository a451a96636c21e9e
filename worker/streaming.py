"""What an LLM says in a stream: its events for those who follow, and the answer that they add up to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from jobs import strict_json
from jobs.errors import LLMBadAnswer, LLMError, LLMRateLimited, LLMRejected, LLMUnavailable, LLMUnreachable
from jobs.model import CHAT_COMPLETIONS, COMPLETIONS, RESPONSES

DONE: Final = b"[DONE]"
#: A response's events that end it; each carries all of it.
FINAL: Final = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})
#: Members of a chunk's delta that say what it belongs to; all other strings are pieces.
NAMES: Final = frozenset({"index", "id", "type", "role"})
#: Members of a chunk that are none of the answer's.
_OF_A_CHUNK: Final = frozenset({"choices", "object", "usage", "obfuscation"})
_FINAL_CODES: Final = frozenset(
    {
        *("insufficient_quota", "invalid_prompt", "invalid_request_error", "context_length_exceeded"),
        *("content_policy_violation", "content_filter", "model_not_found", "invalid_api_key"),
    }
)


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream, for those who follow it."""

    #: JSON as the LLM sent it, in one line.
    data: bytes
    value: Mapping[str, Any]
    #: A response's ``type``; empty for chunks.
    type: str = ""
    #: Whether what the job ends with repeats it.
    delta: bool = False


class Reading(Protocol):
    """Reads the stream of one endpoint."""

    #: Whether the answer is complete, so that nothing more needs to come.
    complete: bool

    def take(self, data: bytes) -> Event | None:
        """Read one event; answer it if those who follow are to have it. Raises ``LLMError`` if it is one."""

    def answer(self) -> dict[str, Any]:
        """The whole answer. Raises ``LLMUnreachable`` if the stream broke off before."""


class ResponseReading:
    """A response: its last event carries all of it."""

    def __init__(self) -> None:
        self.complete = False
        self._response: dict[str, Any] | None = None

    def take(self, data: bytes) -> Event | None:
        """See ``Reading``. The last event is nobody's here: it is told when the job has ended."""
        if data == DONE:
            return None
        value = _parse(data)
        kind = value.get("type")
        if not isinstance(kind, str):
            _raise_if_error(value)
            raise LLMBadAnswer("An event of the LLM's stream has no type.")
        if kind == "error":
            nested = value.get("error")
            raise error_of(nested if isinstance(nested, dict) else value)
        if kind in FINAL:
            response = value.get("response")
            if not isinstance(response, dict):
                raise LLMBadAnswer("The last event of the LLM's stream has no response.")
            self._response = {"status": kind.removeprefix("response."), **response}
            self.complete = True
            return None
        return Event(data, value, kind, delta=kind.endswith((".delta", ".partial_image")))

    def answer(self) -> dict[str, Any]:
        """See ``Reading``."""
        if self._response is None:
            raise LLMUnreachable("The LLM's stream ended before its last event.")
        return self._response


class ChunkReading:
    """A chat completion or a completion, put together of its chunks."""

    def __init__(self, kind: str, *, chat: bool, with_usage: bool) -> None:
        """``kind``: what the whole answer is called. ``with_usage``: whether the caller wants the chunk with it."""
        self.complete = False
        self._chat = chat
        self._with_usage = with_usage
        self._head: dict[str, Any] = {"id": None, "object": kind}
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: Any = None

    def take(self, data: bytes) -> Event | None:
        """See ``Reading``."""
        if data == DONE:
            self.complete = True
            return None
        value = _parse(data)
        _raise_if_error(value)
        choices = value.get("choices")
        if not isinstance(choices, list):
            raise LLMBadAnswer("A chunk of the LLM's stream has no choices.")
        for name, member in value.items():
            if name not in _OF_A_CHUNK:
                _replace(self._head, name, member)
        if value.get("usage") is not None:
            self._usage = value["usage"]
        for choice in choices:
            self._add(choice)
        if not choices and value.get("usage") is not None and not self._with_usage:
            # It came because we asked for it.
            return None
        return Event(data, value, delta=True)

    def answer(self) -> dict[str, Any]:
        """See ``Reading``."""
        ended = all(choice.get("finish_reason") for choice in self._choices.values())
        if not self._choices or not (self.complete or ended):
            raise LLMUnreachable("The LLM's stream ended before its last chunk.")
        choices = [self._finished(_joined(self._choices[index])) for index in sorted(self._choices)]
        usage = {} if self._usage is None else {"usage": self._usage}
        return {**self._head, "choices": choices, **usage}

    def _add(self, choice: Any) -> None:
        if not isinstance(choice, dict):
            raise LLMBadAnswer("A choice of the LLM's stream is no object.")
        index = choice.get("index")
        known = self._choices.setdefault(index if isinstance(index, int) else 0, {})
        for name, value in choice.items():
            if name == "delta":
                _accumulate(known, "message", value)
            elif name == "message" and "delta" in choice:
                pass  # some repeat in it all that they have said so far
            elif name in ("text", "logprobs") or isinstance(value, list):
                _accumulate(known, name, value)
            else:
                _replace(known, name, value)

    def _finished(self, choice: dict[str, Any]) -> dict[str, Any]:
        finished = {"index": 0, **choice}
        finished.setdefault("logprobs", None)
        finished.setdefault("finish_reason", None)
        if self._chat:
            message = {"role": "assistant", "content": None, "refusal": None, **(choice.get("message") or {})}
            if isinstance(message.get("tool_calls"), list):
                message["tool_calls"] = [
                    {name: value for name, value in call.items() if name != "index"} if isinstance(call, dict) else call
                    for call in message["tool_calls"]
                ]
            finished["message"] = message
        else:
            finished.setdefault("text", "")
        return finished


def reading_of(endpoint: str, body: Mapping[str, Any]) -> Reading:
    """What reads the stream that the LLM gives for this body."""
    if endpoint == RESPONSES:
        return ResponseReading()
    options = body.get("stream_options")
    with_usage = isinstance(options, dict) and options.get("include_usage") is True
    kind = "chat.completion" if endpoint == CHAT_COMPLETIONS else "text_completion"
    return ChunkReading(kind, chat=endpoint == CHAT_COMPLETIONS, with_usage=with_usage)


def streamed(endpoint: str, body: bytes, parsed: Mapping[str, Any]) -> bytes:
    """The body that asks for a stream, and for its usage where that comes by request only; else byte for byte."""
    more: dict[str, Any] = {"stream": True}
    if endpoint in (CHAT_COMPLETIONS, COMPLETIONS):
        options = parsed.get("stream_options")
        more["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    if more.keys() & parsed.keys():
        return json.dumps({**parsed, **more}, separators=(",", ":")).encode("ascii")
    return json.dumps(more, separators=(",", ":")).encode("ascii")[:-1] + b"," + body.lstrip()[1:]


def error_of(error: Mapping[str, Any]) -> LLMError:
    """The error that an LLM reports in its stream, in its own words."""
    code, kind = error.get("code"), error.get("type")
    ours: type[LLMError] = LLMUnavailable
    if code in _FINAL_CODES or kind in _FINAL_CODES:
        ours = LLMRejected
    elif code == "rate_limit_exceeded":
        ours = LLMRateLimited
    message = error.get("message")
    return ours(
        message if isinstance(message, str) and message else "The LLM reported an error in its stream.",
        upstream_error={name: error.get(name) for name in ("message", "type", "param", "code")},
    )


def _parse(data: bytes) -> dict[str, Any]:
    try:
        value = strict_json.loads(data)
    except ValueError as error:
        raise LLMBadAnswer("An event of the LLM's stream is not JSON.") from error
    if not isinstance(value, dict):
        raise LLMBadAnswer("An event of the LLM's stream is no object.")
    return value


def _raise_if_error(value: Mapping[str, Any]) -> None:
    error = value.get("error")
    if isinstance(error, dict):
        raise error_of(error)
    if error:
        raise LLMUnavailable("The LLM reported an error in its stream.")


class _Text:
    """A text that grows: its pieces are joined at its end, since each piece more would copy all that there is."""

    __slots__ = ("pieces",)

    def __init__(self, *pieces: str) -> None:
        self.pieces = list(pieces)


def _joined(value: Any) -> Any:
    """The same with its growing texts as what they are."""
    if isinstance(value, _Text):
        return "".join(value.pieces)
    if isinstance(value, dict):
        return {name: _joined(member) for name, member in value.items()}
    return [_joined(item) for item in value] if isinstance(value, list) else value


def _replace(known: dict[str, Any], name: str, value: Any) -> None:
    """Keep the last that was said of it; some LLMs leave it empty in all chunks but one."""
    if value or not known.get(name):
        known[name] = value


def _accumulate(known: dict[str, Any], name: str, value: Any) -> None:
    """Add a member of a chunk to what is known: texts and lists grow, objects do so member by member."""
    before = known.get(name)
    if value is None:
        known.setdefault(name, None)
    elif isinstance(value, dict):
        if not isinstance(before, dict):
            before = known[name] = {}
        for inner, piece in value.items():
            _accumulate(before, inner, piece)
    elif isinstance(value, list):
        if not isinstance(before, list):
            before = known[name] = []
        for item in value:
            _extend(before, item)
    elif not isinstance(value, str):
        known[name] = value
    elif name in NAMES:
        known[name] = before or value
    elif isinstance(before, _Text):
        before.pieces.append(value)
    else:
        known[name] = _Text(before, value) if isinstance(before, str) else value


def begins_another(call: Mapping[str, Any], its_id: Any) -> bool:
    """Whether a piece of a tool call belongs to another one than that with this id, though their ``index`` is the same:
    some LLMs count their calls all as 0, or not at all. Others give each piece of one call an id of its own, but only
    the first of them a name."""
    function, call_id = call.get("function"), call.get("id")
    named = isinstance(function, dict) and bool(function.get("name"))
    return named and bool(call_id) and bool(its_id) and call_id != its_id


def _extend(items: list[Any], item: Any) -> None:
    index = item.get("index") if isinstance(item, dict) else None
    if not isinstance(index, int):
        items.append(item)
        return
    found = next((one for one in reversed(items) if isinstance(one, dict) and one.get("index") == index), None)
    if found is None or begins_another(item, found.get("id")):
        found = {}
        items.append(found)
    for name, piece in item.items():
        _accumulate(found, name, piece)
