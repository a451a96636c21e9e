"""JSON as the standard has it (RFC 8259), where Python's parser is more generous."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any, Final, NoReturn

#: Deeper than any request or answer that makes sense, and far from Python's recursion limit, so that what was read can
#: also be written again.
MAX_DEPTH: Final = 200

_LARGE_NUMBER: Final = re.compile(rb"[eE]\+?\d{3}|\d{300}")


def loads(raw: bytes) -> Any:
    """The value of UTF-8 bytes.

    Raises ``ValueError`` (``json.JSONDecodeError`` where there is a place to name), also on ``NaN`` and ``Infinity``,
    on numbers too large for a float, and on nesting deeper than ``MAX_DEPTH``.
    """
    # Only a number with a long exponent or very many digits can be too large; looking at every one takes its time.
    parse_float = _finite if _LARGE_NUMBER.search(raw) else None
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant, parse_float=parse_float)
    except RecursionError:
        raise ValueError("the nesting goes too deep") from None
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for outer in level for inner in _members(outer) if isinstance(inner, dict | list)]
        if not level:
            return
    raise ValueError("the nesting goes too deep")


def _members(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
