"""Server-sent events as an LLM sends them (HTML standard, 9.2.6): of each its data, in one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

_BOM: Final = b"\xef\xbb\xbf"


def payloads(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each event as soon as the event is complete; several lines of data become one.

    Data is JSON (or ``[DONE]``), in which a line end is a space like any other.
    """
    data: list[bytes] = []
    for line in _lines(chunks):
        if not line:
            if data:
                yield b" ".join(data)
            data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].strip(b" "))
        elif line == b"data":
            data.append(b"")
    # What is not ended by an empty line is no event: the connection broke off in it.


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines, ended by LF, CR or CRLF, as soon as each is complete."""
    rest = b""
    begun = False
    for chunk in chunks:
        if not chunk:
            continue
        rest += chunk
        if not begun:
            if _BOM.startswith(rest[:3]) and len(rest) < len(_BOM):
                continue
            begun, rest = True, rest.removeprefix(_BOM)
        # A CR at the end may be half of a CRLF: what follows tells.
        *lines, rest = _split(rest)
        yield from lines
    if rest.endswith(b"\r"):
        yield rest[:-1]


def _split(text: bytes) -> list[bytes]:
    if b"\r" not in text:
        return text.split(b"\n")
    held = b"\r" if text.endswith(b"\r") else b""
    parts = text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    parts[-1] += held
    return parts
