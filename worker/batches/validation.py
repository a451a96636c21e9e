"""Looking through a batch's file before any line of it runs: is it one, and is each ``custom_id`` its only one?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jobs.batch_lines import MAX_LINES, BadLine, RawLine, head
from jobs.bodies import MAX_MODEL

#: Errors of a file that a batch tells of.
_MAX_ERRORS: Final = 100


class Unusable(Exception):
    """Raised when a batch's file cannot be used at all."""

    def __init__(self, *errors: Mapping[str, Any]) -> None:
        super().__init__()
        self.errors = errors


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found in a file that can be used."""

    total: int
    #: Lines that are no calls.
    bad: int
    #: Lines whose ``custom_id`` is a guess that is another line's.
    nameless: Sequence[int]
    #: What all lines ask for; None where they ask for several.
    model: str | None


def look_through(lines: Iterable[RawLine]) -> Looked:
    """What a file has, of which each line is looked at and none is kept. Raises ``Unusable``."""
    names = _Names()
    models: set[str] = set()
    problems: list[dict[str, Any]] = []
    bad = duplicates = total = 0
    for line in lines:
        total += 1
        if total > MAX_LINES:
            raise Unusable(_problem("too_many_lines", f"A batch has at most {MAX_LINES} lines.", line.number))
        found = head(line)
        if isinstance(found, BadLine):
            bad += 1
            custom_id = found.custom_id
            if len(problems) < _MAX_ERRORS:
                problems.append(_problem(found.code, found.message, found.number, found.param))
        else:
            sent, custom_id = found
            if len(models) < 2 and (model := _model_of(sent)):
                models.add(model)
        if custom_id is None:
            continue
        if not names.take(custom_id, guessed_of=line.number if isinstance(found, BadLine) else 0):
            duplicates += 1
            if duplicates == 1:
                # These are what it fails for.
                problems = []
            if len(problems) < _MAX_ERRORS:
                message = "The custom_id stands in a line before this one."
                problems.append(_problem("duplicate_custom_id", message, line.number, "custom_id"))
    if not total:
        raise Unusable(_problem("empty_file", "The file has no lines."))
    if duplicates or bad == total:
        raise Unusable(*problems)
    return Looked(total, bad, names.nameless, models.pop() if len(models) == 1 else None)


class _Names:
    """Whose each ``custom_id`` of a file is. One that is only guessed of a line gives way to another's."""

    def __init__(self) -> None:
        #: By digest (the ids themselves may be a hundred megabytes): the line that it was guessed of, or 0.
        self._taken: dict[bytes, int] = {}
        #: Lines that had to give way.
        self.nameless: list[int] = []

    def take(self, custom_id: str, *, guessed_of: int = 0) -> bool:
        """Note whose it is; False if it is another's for certain, and was to be this one's, too."""
        digest = hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        holder = self._taken.get(digest)
        if holder is None:
            self._taken[digest] = guessed_of
        elif guessed_of:
            self.nameless.append(guessed_of)
        elif holder:
            self.nameless.append(holder)
            self._taken[digest] = 0
        else:
            return False
        return True


def _model_of(sent: Mapping[str, Any]) -> str | None:
    """The model that a line asks for, if it is one that can be."""
    body = sent.get("body")
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) and len(model) <= MAX_MODEL else None


def _problem(code: str, message: str, line: int | None = None, param: str | None = None) -> dict[str, Any]:
    return {"code": code, "message": message, "line": line, "param": param}
