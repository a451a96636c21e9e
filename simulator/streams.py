"""The server-sent events of one streamed answer."""

from collections.abc import Iterable
from dataclasses import dataclass

from simulator.wire import encode

MIN_PIECE = 8
MAX_PIECES = 200


@dataclass(frozen=True, slots=True)
class Stream:
    """The encoded frames of an answer; the time that its output takes lies before each of the deltas."""

    opening: bytes
    deltas: list[bytes]
    closing: bytes


def frame(data: object, *, event: str | None = None) -> bytes:
    """Return one server-sent event that carries JSON."""
    name = f"event: {event}\n".encode("ascii") if event else b""
    return b"%sdata: %s\n\n" % (name, encode(data))


def frames(data: Iterable[object]) -> bytes:
    """Return several nameless events."""
    return b"".join(map(frame, data))


def pieces(text: str) -> list[str]:
    """Return a text cut into what the deltas carry: few characters each, but never more than 200 deltas."""
    size = max(MIN_PIECE, -(-len(text) // MAX_PIECES))
    return [text[start : start + size] for start in range(0, len(text), size)]
