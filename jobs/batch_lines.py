"""The lines of a batch's file: each is a call to make, or says what is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from jobs import strict_json
from jobs.bodies import BODIES, OURS
from jobs.model import Endpoint

#: OpenAI's limit of lines in a batch.
MAX_LINES: Final = 50_000
_MAX_CUSTOM_ID: Final = 512
#: As much of a line that is no JSON its ``custom_id`` is looked for in, at its beginning and at its end.
_HEAD: Final = 64 * 1024
_BOM: Final = b"\xef\xbb\xbf"
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
#: A ``custom_id`` with its value, another string, what opens or closes, or the beginning of a string without an end.
_TOKEN: Final = re.compile(rb'"custom_id"\s*:\s*(' + _STRING + rb")|" + _STRING + rb'|[{}\[\]"]', re.DOTALL)
#: Where outside of strings a ``custom_id`` stands: within one its quotes would be escaped.
_NAMED: Final = re.compile(rb'(?<!\\)"custom_id"\s*:\s*"')
_PROMPTS: Final = ("input", "messages", "prompt")


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line that is not blank, as it stands in the file."""

    #: Counted from 1, blank lines too.
    number: int
    #: Its bytes without the end of line; of one that is too long, how it begins.
    raw: bytes
    too_long: bool
    #: Where the next line begins, in bytes from the beginning of the file.
    end: int
    #: How one that is too long ends.
    tail: bytes = b""


@dataclass(frozen=True, slots=True)
class Line:
    """A call to make."""

    number: int
    custom_id: str
    model: str
    #: The body for the LLM, as JSON.
    request: bytes


@dataclass(frozen=True, slots=True)
class BadLine:
    """Why a line is no call; ``custom_id`` is None where it cannot be told, or would be another line's."""

    number: int
    custom_id: str | None
    code: str
    message: str
    param: str | None = None


def read_lines(chunks: Iterable[bytes], *, offset: int = 0, number: int = 0, longest: int) -> Iterator[RawLine]:
    """The lines of a file that is read in pieces, from the byte ``offset`` on, where line ``number`` has ended.

    At most ``longest`` bytes of a line are held at once, and of one that is longer only how it begins and ends.
    """
    growing = _Growing(longest)
    for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            growing.add(chunk[start:end])
            offset, number, start = offset + growing.size + 1, number + 1, end + 1
            if line := growing.line(number, offset):
                yield line
            growing = _Growing(longest)
        growing.add(chunk[start:])
    if line := growing.line(number + 1, offset + growing.size):
        yield line


class _Growing:
    """A line of which some has been read."""

    def __init__(self, longest: int) -> None:
        self.size = 0
        self._longest = longest
        self._pieces: list[bytes] = []
        self._tail = b""

    def add(self, piece: bytes) -> None:
        before, self.size = self.size, self.size + len(piece)
        if self.size <= self._longest:
            self._pieces.append(piece)
        elif before <= self._longest:
            whole = b"".join((*self._pieces, piece))
            self._pieces, self._tail = [whole[:_HEAD]], whole[max(_HEAD, len(whole) - _HEAD) :]
        else:
            self._tail = (self._tail + piece)[-_HEAD:]

    def line(self, number: int, end: int) -> RawLine | None:
        raw, too_long = b"".join(self._pieces), self.size > self._longest
        if number == 1:
            raw = raw.removeprefix(_BOM)
        return RawLine(number, raw, too_long, end, self._tail) if too_long or raw.strip() else None


def head(line: RawLine) -> tuple[dict[str, Any], str] | BadLine:
    """The line as an object and its ``custom_id``, with nothing else looked at.

    The ``custom_id`` of a bad line is a guess: what is no JSON, or not held as a whole, names nothing for certain.
    """
    if line.too_long:
        return BadLine(line.number, _guess(line), "line_too_long", "The line is longer than a request may be.")
    try:
        sent = strict_json.loads(line.raw)
    except UnicodeDecodeError:
        return BadLine(line.number, _guess(line), "invalid_encoding", "The line is not valid UTF-8.")
    except ValueError:
        return BadLine(line.number, _guess(line), "invalid_json_line", "The line is not valid JSON.")
    if not isinstance(sent, dict):
        return BadLine(line.number, None, "invalid_json_line", "The line is not a JSON object.")
    custom_id = sent.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _MAX_CUSTOM_ID:
        message = f"'custom_id' must be a text of 1 to {_MAX_CUSTOM_ID} characters."
        return BadLine(line.number, None, "missing_required_parameter", message, "custom_id")
    return sent, custom_id


def parse(line: RawLine, endpoint: Endpoint, *, max_prompt_bytes: int) -> Line | BadLine:
    """The call that the line asks for, of a batch of this endpoint."""
    found = head(line)
    if isinstance(found, BadLine):
        return found
    sent, custom_id = found

    def bad(code: str, message: str, param: str) -> BadLine:
        return BadLine(line.number, custom_id, code, message, param)

    if sent.get("method") != "POST":
        return bad("invalid_method", "'method' must be 'POST'.", "method")
    if sent.get("url") != endpoint:
        return bad("mismatched_url", f"'url' must be the batch's endpoint, '{endpoint}'.", "url")
    body = sent.get("body")
    if not isinstance(body, dict):
        return bad("invalid_request", "'body' must be an object.", "body")
    for name in ("stream", "background", "previous_response_id", "promptq"):
        if body.get(name):
            return bad("unsupported_parameter", f"'{name}' is not for a line of a batch.", f"body.{name}")
    try:
        model = BODIES[endpoint].model_validate(body).model
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(["body", *map(str, first["loc"])])
        return bad("invalid_request", f"'{where}': {first['msg']}.", where)
    if len(line.raw) > max_prompt_bytes and any(
        name in body
        and len(json.dumps(body[name], ensure_ascii=False).encode("utf-8", "surrogatepass")) > max_prompt_bytes
        for name in _PROMPTS
    ):
        return bad("payload_too_large", f"The prompt has more than {max_prompt_bytes} bytes.", "body")
    return Line(line.number, custom_id, model, _dump({name: body[name] for name in body if name not in OURS}))


def _dump(body: dict[str, Any]) -> bytes:
    """Compact JSON, no longer than it was in the file; but for a lone surrogate, which UTF-8 has no bytes for."""
    try:
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(body, separators=(",", ":")).encode("ascii")


def _guess(line: RawLine) -> str | None:
    """The ``custom_id`` of a line that cannot be read: that of the object itself, not of one within it."""
    found = _first_id(line.raw[:_HEAD])
    if found is None and (line.tail or len(line.raw) > _HEAD):
        found = _last_id(line.tail or line.raw[-_HEAD:])
    if found is None:
        return None
    try:
        custom_id = json.loads(found)
    except ValueError:
        return None
    return custom_id if isinstance(custom_id, str) and 0 < len(custom_id) <= _MAX_CUSTOM_ID else None


def _first_id(raw: bytes) -> bytes | None:
    """What a line's beginning says in its outermost object."""
    depth = 0
    for token in _TOKEN.finditer(raw):
        text, value = token[0], token[1]
        if text in (b"{", b"["):
            if text == b"[" and not depth:
                return None
            depth += 1
        elif text in (b"}", b"]"):
            depth -= 1
        elif value is not None and depth == 1:
            return value
        if depth <= 0 or text == b'"':
            return None
    return None


def _last_id(raw: bytes) -> bytes | None:
    """What a line's end says in its outermost object, if it ends as an object does: depths are counted from there."""
    raw = raw.rstrip()
    start = _NAMED.search(raw)
    if start is None or not raw.endswith(b"}"):
        return None
    depth = 0
    # Those of the objects that are not closed yet.
    open_ones: list[tuple[int, bytes]] = []
    for token in _TOKEN.finditer(raw, start.start()):
        text, value = token[0], token[1]
        if text in (b"{", b"["):
            depth += 1
        elif text in (b"}", b"]"):
            if token.end() == len(raw):
                break
            depth -= 1
            while open_ones and open_ones[-1][0] > depth:
                open_ones.pop()
        elif value is not None:
            open_ones.append((depth, value))
        elif text == b'"':
            return None
    return open_ones[0][1] if open_ones and open_ones[0][0] == depth else None
