"""Neighbouring pieces of one text put together: what keeps a long stream small."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from worker.streaming import NAMES, Event

#: A response's events that are pieces of a text, which an event that follows repeats as a whole. Pieces of audio and of
#: images are not here: put together they are not what their parts are.
_TEXT_DELTAS: Final = frozenset(
    f"response.{what}.delta"
    for what in (
        *("output_text", "refusal", "reasoning_text", "reasoning_summary_text", "function_call_arguments"),
        *("custom_tool_call_input", "mcp_call_arguments", "code_interpreter_call_code"),
    )
)
#: What differs from one piece of a text to the next, besides the piece.
_OF_A_PIECE: Final = frozenset({"delta", "sequence_number", "obfuscation", "logprobs"})
#: Members of a chunk's delta within which a text may stand. Pieces of audio are not here either.
_AROUND_A_TEXT: Final = frozenset({"tool_calls", "function", "custom", "function_call"})
#: Bytes of the events that are put together into one.
_PUT_TOGETHER: Final = 64 * 1024


def merged(events: Sequence[Event]) -> list[Event]:
    """The same with neighbouring pieces of one text put together, of which nothing is lost."""
    found: list[Event] = []
    run: _Run | None = None
    for event in events:
        piece = _piece_of(event)
        if run is not None and piece is not None and run.takes(event, piece):
            continue
        if run is not None:
            found.append(run.event())
        run = None if piece is None else _Run(event, piece)
        if run is None:
            found.append(event)
    return found if run is None else [*found, run.event()]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A piece of a text, and whose it is."""

    text: str
    #: Where it stands in the event's value.
    path: tuple[str | int, ...]
    #: What the event says besides; pieces of one text differ in nothing of it.
    rest: Mapping[str, Any]


class _Run:
    """Neighbouring pieces of one text."""

    def __init__(self, event: Event, piece: _Piece) -> None:
        self._last, self._piece = event, piece
        self._texts = [piece.text]
        self._size = len(event.data)

    def takes(self, event: Event, piece: _Piece) -> bool:
        """Add the event if it goes on with the text, and there is room for it."""
        ours, room = self._piece, self._size < _PUT_TOGETHER
        if not (room and event.type == self._last.type and piece.path == ours.path and piece.rest == ours.rest):
            return False
        self._last = event
        self._texts.append(piece.text)
        self._size += len(event.data)
        return True

    def event(self) -> Event:
        """All of it as one event; what came alone as it came."""
        if len(self._texts) == 1:
            return self._last
        value = _with(self._last.value, self._piece.path, "".join(self._texts))
        return replace(self._last, value=value, data=json.dumps(value, separators=(",", ":")).encode("ascii"))


def _piece_of(event: Event) -> _Piece | None:
    """The piece of a text that an event brings; None if it brings anything else."""
    if not event.delta:
        return None
    value = event.value
    path = _path_in_chunk(value) if not event.type else ("delta",) if event.type in _TEXT_DELTAS else None
    text: Any = value
    for name in path or ():
        text = text.get(name) if isinstance(name, str) else text[name]
    if path is None or not isinstance(text, str) or value.get("logprobs"):
        return None
    if event.type:
        return _Piece(text, path, _without(value, _OF_A_PIECE))
    return _Piece(text, path, _without(_with(value, path, ""), frozenset({"obfuscation"})))


def _path_in_chunk(value: Mapping[str, Any]) -> tuple[str | int, ...] | None:
    """Where a chunk's only text stands; None if it says more, or nothing."""
    choices = value["choices"]
    choice = choices[0] if len(choices) == 1 else None
    if not isinstance(choice, dict) or choice.get("finish_reason") or choice.get("logprobs"):
        return None
    if _without(choice, frozenset({"index", "delta", "text", "finish_reason", "logprobs"})):
        return None
    if choice.get("delta") is None:
        return ("choices", 0, "text")
    path = _path_to_text(choice["delta"])
    return None if path is None else ("choices", 0, "delta", *path)


def _path_to_text(said: Any) -> tuple[str | int, ...] | None:
    """Where the one text stands that all else in it only names: what an LLM has written, thought or wants to call."""
    if isinstance(said, str):
        return ()
    if isinstance(said, list):
        # Without an index each would be an item of its own.
        numbered = len(said) == 1 and isinstance(said[0], dict) and isinstance(said[0].get("index"), int)
        inner = _path_to_text(said[0]) if numbered else None
        return None if inner is None else (0, *inner)
    if not isinstance(said, dict) or said.get("name"):
        return None
    says = [name for name in said if name not in NAMES]
    # Many LLMs name in every chunk what it does not have.
    says = [name for name in says if said[name] not in (None, "", [])] if len(says) > 1 else says
    if len(says) != 1 or not (isinstance(said[says[0]], str) or says[0] in _AROUND_A_TEXT):
        return None
    inner = _path_to_text(said[says[0]])
    return None if inner is None else (says[0], *inner)


def _with(value: Any, path: tuple[str | int, ...], text: str) -> Any:
    """The same with this text there."""
    if not path:
        return text
    name, *rest = path
    if isinstance(value, list):
        return [_with(one, tuple(rest), text) if place == name else one for place, one in enumerate(value)]
    return {**value, name: _with(value[name], tuple(rest), text)}


def _without(value: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: member for name, member in value.items() if name not in names}
