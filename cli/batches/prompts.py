"""Files of prompts, in any of four shapes, as lines of a batch."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

#: A batch has at most so many lines (OpenAI's limit, and the server's).
MAX_LINES: Final = 50_000
CHAT: Final = "/v1/chat/completions"
#: How each endpoint is asked a prompt.
_BODIES: Final[Mapping[str, Callable[[str], dict[str, Any]]]] = {
    CHAT: lambda prompt: {"messages": [{"role": "user", "content": prompt}]},
    "/v1/responses": lambda prompt: {"input": prompt},
    "/v1/completions": lambda prompt: {"prompt": prompt},
    "/v1/embeddings": lambda prompt: {"input": prompt},
}
ENDPOINTS: Final = tuple(_BODIES)
FORMATS: Final = ("auto", "batch", "prompts", "csv", "text")
_DELIMITERS: Final = {".csv": ",", ".tsv": "\t"}
#: The longest field of a CSV, in characters: a prompt is at most 4 MB long.
_LONGEST_FIELD: Final = 16 * 1024 * 1024


class BadInput(click.ClickException):
    """Raised when a file of prompts cannot be used; says where."""

    def __init__(self, path: Path, message: str, line: int | None = None) -> None:
        super().__init__(f"{path}{'' if line is None else f':{line}'}: {message}")


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a batch."""

    #: None where the line does not tell.
    custom_id: str | None
    #: With its end of line.
    line: bytes
    #: The line of the file that it came from, or ends in, counted from 1; its line in what is uploaded, too.
    number: int
    #: What stood beside the prompt: it is not sent, and comes back with the answer.
    metadata: Mapping[str, str] | None = None


class Prompts:
    """A file of prompts, which can be read again and again with the same result. Raises `BadInput` while it is read."""

    def __init__(
        self, path: Path, *, format: str = "auto", model: str | None = None, endpoint: str | None = None
    ) -> None:
        self.path = path
        self.format = _format_of(path) if format == "auto" else format
        if self.format == "batch":
            if model is not None:
                raise click.UsageError("the lines of a batch name their models themselves: leave --model out")
            self.endpoint = endpoint or _endpoint_of(path)
        else:
            self.endpoint = endpoint or CHAT
        self._model = model

    def __iter__(self) -> Iterator[Item]:
        read = {"batch": self._lines, "prompts": self._objects, "csv": self._rows, "text": self._texts}[self.format]
        for number, item in enumerate(read(), 1):
            if number > MAX_LINES:
                raise BadInput(self.path, f"a batch has at most {MAX_LINES:,} lines: split the file")
            yield item

    def upload(self, chosen: Collection[str] | None = None) -> Iterator[bytes]:
        """The lines as they are sent, or only those whose ``custom_id`` was chosen.

        Each has the number that it has here, so that what the server says of a line says where it is: what is not sent
        is a blank line.
        """
        last = 0
        for item in self:
            if chosen is None or item.custom_id in chosen:
                yield b"\n" * (item.number - last - 1) + item.line
                last = item.number

    def fingerprint(self) -> str:
        """SHA-256 of what is uploaded, and the endpoint."""
        digest = hashlib.sha256(self.endpoint.encode())
        for line in self.upload():
            digest.update(line)
        return digest.hexdigest()

    def _lines(self) -> Iterator[Item]:
        for number, raw in _raw_lines(self.path):
            try:
                sent = json.loads(raw)
            except ValueError:
                # The server says what is wrong with it, in the results.
                sent = None
            custom_id = sent.get("custom_id") if isinstance(sent, dict) else None
            yield Item(custom_id if isinstance(custom_id, str) else None, raw + b"\n", number)

    def _objects(self) -> Iterator[Item]:
        for number, raw in _raw_lines(self.path):
            try:
                given = json.loads(raw)
            except ValueError:
                raise BadInput(self.path, "is not JSON", number) from None
            if not isinstance(given, dict) or not isinstance(given.get("prompt"), str):
                raise BadInput(self.path, 'is not an object with a "prompt"', number)
            prompt, custom_id = given.pop("prompt"), given.pop("custom_id", None)
            metadata = given.pop("metadata", None)
            if metadata is not None and not isinstance(metadata, dict):
                raise BadInput(self.path, '"metadata" is not an object', number)
            # A number will do as an id: files have been made by hand before.
            name = f"line-{number}" if custom_id is None else str(custom_id)
            yield self._item(name, prompt, number, metadata, given)

    def _rows(self) -> Iterator[Item]:
        csv.field_size_limit(_LONGEST_FIELD)
        delimiter = _DELIMITERS.get(self.path.suffix.lower(), ",")
        with self.path.open(encoding="utf-8-sig", newline="") as opened:
            try:
                rows = csv.DictReader(opened, delimiter=delimiter, strict=True)
                if "prompt" not in (rows.fieldnames or ()):
                    raise BadInput(self.path, f"has no column 'prompt', but {', '.join(rows.fieldnames or ['none'])}")
                for number, row in enumerate(rows, 1):
                    # What stands beyond the named columns has no name.
                    given = {name: value for name, value in row.items() if name is not None and value is not None}
                    prompt, custom_id = given.pop("prompt", ""), given.pop("custom_id", "")
                    if not prompt.strip():
                        raise BadInput(self.path, f"row {number} has no prompt", rows.line_num)
                    yield self._item(custom_id or f"row-{number}", prompt, rows.line_num, given or None)
            except UnicodeDecodeError as error:
                raise BadInput(self.path, f"is not UTF-8 ({error.reason})") from None
            except csv.Error as error:
                raise BadInput(self.path, f"is not CSV: {error}", rows.line_num) from None

    def _texts(self) -> Iterator[Item]:
        for number, raw in _raw_lines(self.path):
            try:
                prompt = raw.decode().strip()
            except UnicodeDecodeError as error:
                raise BadInput(self.path, f"is not UTF-8 ({error.reason})", number) from None
            yield self._item(f"line-{number}", prompt, number)

    def _item(
        self,
        custom_id: str,
        prompt: str,
        number: int,
        metadata: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Item:
        body = {"model": self._model, **_BODIES[self.endpoint](prompt), **(options or {})}
        if not body["model"]:
            raise BadInput(self.path, "names no model: name one for all with --model", number)
        sent = {"custom_id": custom_id, "method": "POST", "url": self.endpoint, "body": body}
        return Item(custom_id, json.dumps(sent).encode("ascii") + b"\n", number, metadata)


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    with path.open("rb") as opened:
        for number, raw in enumerate(opened, 1):
            line = (raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw).rstrip(b"\r\n")
            if line.strip():
                yield number, line


def _first_object(path: Path) -> dict[str, Any] | None:
    for _, raw in _raw_lines(path):
        try:
            first = json.loads(raw)
        except ValueError:
            return None
        return first if isinstance(first, dict) else None
    raise BadInput(path, "is empty")


def _format_of(path: Path) -> str:
    if path.suffix.lower() in _DELIMITERS:
        return "csv"
    first = _first_object(path)
    if first is None:
        if path.suffix.lower() in (".jsonl", ".json", ".ndjson"):
            raise BadInput(path, "does not begin with a JSON object; --format says what it is")
        return "text"
    if "prompt" in first and "body" not in first:
        return "prompts"
    if "body" in first:
        return "batch"
    raise BadInput(path, 'begins with an object that has neither a "prompt" nor a "body"')


def _endpoint_of(path: Path) -> str:
    url = (_first_object(path) or {}).get("url")
    if url not in ENDPOINTS:
        raise BadInput(path, f'begins with a line whose "url" is none of {", ".join(ENDPOINTS)}; or name --endpoint')
    return str(url)
