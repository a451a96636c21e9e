"""JSON as the standard has it."""

from __future__ import annotations

import json

import pytest

from jobs import strict_json


@pytest.mark.parametrize(
    "raw",
    [
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e999",
        b"-1E+400",
        b"9" * 400 + b".0",
        b"1" * 5000,
        b"[" * 201 + b"]" * 201,
        b'{"a":' * 300 + b"1" + b"}" * 300,
        b"[" * 100_000,
        b"\xff",
        b"\xef\xbb\xbf{}",
        '"\u00e9"'.encode("utf-16"),
        b"",
    ],
)
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    """Whatever could not be written again as JSON raises ValueError, never anything else."""
    with pytest.raises(ValueError):  # noqa: PT011  # its kind is all that is promised
        strict_json.loads(raw)


@pytest.mark.parametrize(
    "value",
    [{"a": [1, 2.5, None, True, "\x00\ud800 e999"]}, [[[[]]]] * 300, "[" * 500, 1e300, -0.1, 10**300],
)
def test_what_is_json_is_read(value: object) -> None:
    """Everything else is read as it is."""
    assert strict_json.loads(json.dumps(value).encode()) == value
