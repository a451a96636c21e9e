"""What became of each line, in the order of the input, with what stood beside its prompt."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from cli.batches.prompts import Item

#: A line's ``custom_id``; of one that has none its number.
Name = str | int
_NO_ANSWER: Final = ("failed", "cancelled")


def failed(line: Mapping[str, Any]) -> bool:
    """Whether a line of results brings no answer."""
    response = line.get("response")
    if line.get("error") is not None or not isinstance(response, dict) or response.get("status_code") != 200:
        return True
    # A response may say of itself that it failed; in another answer a member of this name means nothing.
    body = response.get("body")
    return isinstance(body, dict) and body.get("object") == "response" and body.get("status") in _NO_ANSWER


def failed_ids(results: Path) -> set[str]:
    """The ``custom_id`` of each line that has failed; those without one cannot be run again."""
    with results.open("rb") as opened:
        lines = (json.loads(raw) for raw in opened)
        return {line["custom_id"] for line in lines if failed(line) and isinstance(line.get("custom_id"), str)}


def to_retry(results: Path, items: Iterable[Item]) -> set[str]:
    """The ``custom_id`` of each prompt that has failed; what the server has guessed of a broken line names none."""
    failures = failed_ids(results)
    return {item.custom_id for item in items if item.custom_id is not None and item.custom_id in failures}


def tally(results: Path) -> tuple[int, int]:
    """How many lines have an answer, and how many have not."""
    counts = [0, 0]
    with results.open("rb") as opened:
        for raw in opened:
            counts[failed(json.loads(raw))] += 1
    return counts[0], counts[1]


@dataclass
class Results:
    """Lines of several files, of which the last that names a line has the say."""

    files: list[Path] = field(default_factory=list)
    #: In which file each line is, and from which byte on.
    places: dict[Name, tuple[int, int]] = field(default_factory=dict)
    #: What is said of which line of the input, where that tells its number.
    numbers: dict[int, Name] = field(default_factory=dict)

    def add(self, file: Path) -> None:
        """Take the lines of a file."""
        self.files.append(file)
        offset = 0
        with file.open("rb") as opened:
            for raw in opened:
                if raw.strip():
                    line = json.loads(raw)
                    number = _number_of(line)
                    name = _name_of(line, number, len(self.places))
                    self.places[name] = (len(self.files) - 1, offset)
                    if number is not None:
                        self.numbers[number] = name
                offset += len(raw)

    def write(self, target: Path, items: Iterable[Item], *, status: str) -> None:
        """Write a line for each item to ``target``, and what else there is, whole or not at all.

        An item that no file tells of has failed, in a batch that ended with this status.
        """
        draft = target.with_name(f"{target.name}.draft")
        opened = [file.open("rb") for file in self.files]
        try:
            with draft.open("wb") as out:
                for line in self._in_order(items, opened, status):
                    out.write(json.dumps(line).encode("ascii") + b"\n")
                out.flush()
                os.fsync(out.fileno())
            draft.replace(target)
        finally:
            for file in opened:
                file.close()
            draft.unlink(missing_ok=True)

    def _in_order(self, items: Iterable[Item], opened: Sequence[IO[bytes]], status: str) -> Iterator[dict[str, Any]]:
        left = dict(self.places)
        for item in items:
            place = left.pop(item.custom_id, None) if item.custom_id is not None else None
            if place is None and item.number in self.numbers:
                place = left.pop(self.numbers[item.number], None)
            line = _without_result(item, status) if place is None else _line_at(place, opened)
            yield {**line, "metadata": item.metadata} if item.metadata is not None else line
        for place in left.values():
            yield _line_at(place, opened)


def _line_at(place: tuple[int, int], opened: Sequence[IO[bytes]]) -> dict[str, Any]:
    file, offset = place
    opened[file].seek(offset)
    line: dict[str, Any] = json.loads(opened[file].readline())
    return line


def _without_result(item: Item, status: str) -> dict[str, Any]:
    message = f"The batch ended as {status} without a result for this line."
    error = {"code": "no_result", "message": message, "line": item.number}
    return {"id": None, "custom_id": item.custom_id, "response": None, "error": error}


def _number_of(line: Mapping[str, Any]) -> int | None:
    error = line.get("error")
    number = error.get("line") if isinstance(error, dict) else None
    return number if isinstance(number, int) else None


def _name_of(line: Mapping[str, Any], number: int | None, count: int) -> Name:
    custom_id = line.get("custom_id")
    if isinstance(custom_id, str):
        return custom_id
    return number if number is not None else -1 - count
