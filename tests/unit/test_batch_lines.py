"""Lines of a batch's file: how they are told apart, and what is wrong with them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.batch_lines import BadLine, Line, RawLine, head, parse, read_lines
from jobs.model import CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES

CHAT = {"model": "sim", "messages": [{"role": "user", "content": "hi"}]}


def a_line(**changes: Any) -> bytes:
    sent = {"custom_id": "a", "method": "POST", "url": CHAT_COMPLETIONS, "body": CHAT} | changes
    return json.dumps({name: value for name, value in sent.items() if value is not ...}).encode()


def parsed(raw: bytes, **options: Any) -> Line | BadLine:
    (line,) = read_lines([raw], longest=options.pop("longest", 10_000))
    return parse(line, CHAT_COMPLETIONS, max_prompt_bytes=options.pop("max_prompt_bytes", 10_000))


@given(
    st.lists(st.one_of(st.sampled_from([b"", b"  "]), st.text("abc", min_size=1, max_size=40).map(str.encode))),
    st.booleans(),
    st.lists(st.integers(1, 30), min_size=1, max_size=20),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_lines_are_the_same_in_whatever_pieces_they_come(
    texts: list[bytes], closed: bool, sizes: list[int], ending: bytes
) -> None:
    """Numbers count blank lines, ends are offsets in the file, and reading can go on behind any line."""
    whole = ending.join(texts) + (ending if closed else b"")
    chunks, start = [], 0
    while start < len(whole):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(whole[start : start + size])
        start += size
    found = list(read_lines(chunks, longest=1000))
    expected = [(number, text) for number, text in enumerate(texts, 1) if text.strip()]
    assert [(line.number, line.raw.rstrip(b"\r")) for line in found] == expected
    for place, line in enumerate(found):
        rest = list(read_lines([whole[line.end :]], offset=line.end, number=line.number, longest=1000))
        assert rest == found[place + 1 :]


@pytest.mark.parametrize("size", [1, 7, 64 * 1024, 10**6])
def test_a_line_that_is_too_long_is_named_and_not_held(size: int) -> None:
    """The lines around it are read, it is told of by its custom_id, and little of it is kept."""
    long = a_line(body={"model": "sim", "messages": [{"role": "user", "content": "x" * 200_000}]})
    whole = a_line(custom_id="before") + b"\n" + long + b"\n" + a_line(custom_id="behind")
    chunks = [whole[at : at + size] for at in range(0, len(whole), size)] if size > 1 else [whole[:50], whole[50:]]
    before, too_long, behind = read_lines(chunks, longest=100_000)
    assert too_long.too_long
    assert len(too_long.raw) <= 64 * 1024
    assert head(too_long) == BadLine(2, "a", "line_too_long", "The line is longer than a request may be.")
    assert [head(line)[1] for line in (before, behind)] == ["before", "behind"]  # type: ignore[index]


LONG = {"model": "sim", "input": "}]" * 100_000, "metadata": {"custom_id": "victim", "said": 'a "custom_id": "b" "'}}


@pytest.mark.parametrize("longest", [10_000, 100_000, 1_000_000])
@pytest.mark.parametrize(
    ("raw", "custom_id"),
    [
        # As with sorted keys.
        (a_line(custom_id=..., method=..., body=LONG)[:-1] + b', "custom_id": "a", "method": ["POST"], "n": NaN}', "a"),
        (a_line(custom_id=..., body=LONG)[:-1] + b', "custom_id": "a\\"\\u00fc", "n": NaN } \r', 'a"ü'),
        (a_line(body=LONG)[:-1] + b', "n": NaN}', "a"),
        (a_line(custom_id=..., body=LONG)[:-1] + b', "n": NaN}', None),
        (a_line(custom_id=..., body=LONG)[:-1] + b', "n": {"custom_id": "x"}, "m": [NaN]}', None),
        (a_line(custom_id=..., body=LONG)[:-1] + b', "n": NaN, "custom_id": "a', None),
        (a_line(custom_id=..., body=LONG)[:-1] + b', "n": NaN, "custom_id": "a"', None),
        (a_line(custom_id=..., body=LONG)[:-1] + b', "custom_id": "' + b"a" * 513 + b'", "n": NaN}', None),
        (b"[" + a_line(custom_id="x", body=LONG) + b', {"custom_id": "y", "n": NaN}]', None),
    ],
)
def test_a_name_is_looked_for_at_both_ends(raw: bytes, custom_id: str | None, longest: int) -> None:
    """What a broken or over-long line is called stands before or behind its body, and never within it."""
    chunks = [raw[at : at + 16_384] for at in range(0, len(raw), 16_384)]
    (line,) = read_lines([*chunks, b"\n"], longest=longest)
    assert line.too_long is (longest < len(raw))
    assert len(line.raw) <= max(longest, 64 * 1024)
    assert len(line.tail) <= 64 * 1024
    found = head(line)
    assert isinstance(found, BadLine)
    assert found.custom_id == custom_id


@pytest.mark.parametrize(
    "raw",
    [
        b'{"custom_id": "' * 4000,
        b'{"custom_id": "x", "a":' * 2800 + b"}",
        b'"custom_id": "x" ' * 3800 + b"}",
        b'"custom_id": "x" ' + b"}" * 65_000 + b"\r",
    ],
)
def test_a_name_is_looked_for_in_no_time(raw: bytes) -> None:
    """Whatever somebody writes to hold a worker up."""
    line = RawLine(1, b'{"a": "' + b"x" * 60_000, True, 0, raw)
    began = time.process_time()
    for _ in range(20):
        assert head(line) is not None
    assert time.process_time() - began < 2


def test_a_good_line_is_a_call() -> None:
    """The body goes to the LLM without what is ours; anything else that is in it survives."""
    found = parsed(a_line(custom_id="ü \ud800", body=CHAT | {"stream": False, "temperature": 0.5, "new": {"a": [1]}}))
    assert isinstance(found, Line)
    assert (found.number, found.custom_id, found.model) == (1, "ü \ud800", "sim")
    assert json.loads(found.request) == CHAT | {"temperature": 0.5, "new": {"a": [1]}}


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    """Some editors write one."""
    assert isinstance(parsed(b"\xef\xbb\xbf" + a_line()), Line)


@pytest.mark.parametrize(
    ("raw", "code", "custom_id", "param"),
    [
        (b"{", "invalid_json_line", None, None),
        (b'{"custom_id": "x", ', "invalid_json_line", "x", None),
        (b"[1]", "invalid_json_line", None, None),
        (b'{"custom_id": "x", "a": NaN}', "invalid_json_line", "x", None),
        (b'{"body": {"metadata": {"custom_id": "victim"}}, "custom_id": "x", ', "invalid_json_line", "x", None),
        (b'{"body": {"metadata": {"custom_id": "victim"}}, ', "invalid_json_line", None, None),
        (b'{"body": "a \\"custom_id\\": \\"victim\\"", ', "invalid_json_line", None, None),
        (b'{"a": "custom_id", "b": "x", ', "invalid_json_line", None, None),
        (b'{"a": 1} {"custom_id": "x"}', "invalid_json_line", None, None),
        (b'{"custom_id": "\\ud800\\x", ', "invalid_json_line", None, None),
        (b'"custom_id": "x"}', "invalid_json_line", None, None),
        (b'{"custom_id": "x", "a": "\xff"}', "invalid_encoding", "x", None),
        ("{}".encode("utf-16"), "invalid_encoding", None, None),
        (a_line(custom_id=...), "missing_required_parameter", None, "custom_id"),
        (a_line(custom_id=7), "missing_required_parameter", None, "custom_id"),
        (a_line(custom_id=""), "missing_required_parameter", None, "custom_id"),
        (a_line(custom_id="x" * 513), "missing_required_parameter", None, "custom_id"),
        (a_line(method="GET"), "invalid_method", "a", "method"),
        (a_line(url=RESPONSES), "mismatched_url", "a", "url"),
        (a_line(url=...), "mismatched_url", "a", "url"),
        (a_line(body=...), "invalid_request", "a", "body"),
        (a_line(body={"model": "sim"}), "invalid_request", "a", "body.messages"),
        (a_line(body=CHAT | {"model": 5}), "invalid_request", "a", "body.model"),
        (a_line(body=CHAT | {"stream": True}), "unsupported_parameter", "a", "body.stream"),
        (a_line(body=CHAT | {"promptq": {"queue": "interactive"}}), "unsupported_parameter", "a", "body.promptq"),
    ],
)
def test_a_bad_line_is_told_of_precisely(raw: bytes, code: str, custom_id: str | None, param: str | None) -> None:
    """What is wrong, in which line, and whose it is, as far as it can be told; never what it says."""
    found = parsed(raw)
    assert isinstance(found, BadLine)
    assert (found.number, found.code, found.custom_id, found.param) == (1, code, custom_id, param)


def test_a_prompt_that_is_too_long_is_refused() -> None:
    """As at the other doors."""
    long = a_line(body={"model": "sim", "messages": [{"role": "user", "content": "x" * 500}]})
    found = parsed(long, max_prompt_bytes=400)
    assert isinstance(found, BadLine)
    assert found.code == "payload_too_large"
    assert isinstance(parsed(long, max_prompt_bytes=600), Line)


def test_each_endpoint_has_its_own_body() -> None:
    """An embedding needs an input, a chat completion messages."""
    line = RawLine(1, a_line(url=EMBEDDINGS, body={"model": "sim", "input": "text"}), False, 0)
    assert isinstance(parse(line, EMBEDDINGS, max_prompt_bytes=1000), Line)
    assert isinstance(parse(line, CHAT_COMPLETIONS, max_prompt_bytes=1000), BadLine)


@pytest.mark.parametrize("text", ["ascii", "Ещё раз", "漢字", "\ud800 alone", 'quo"ted\n'])
def test_a_request_is_no_longer_than_its_line(text: str) -> None:
    """Any text survives; only where UTF-8 has no bytes for it, it is escaped."""
    body = CHAT | {"messages": [{"role": "user", "content": text}]}
    sent = {"custom_id": "a", "method": "POST", "url": CHAT_COMPLETIONS, "body": body}
    raw = json.dumps(sent, ensure_ascii="\ud800" in text).encode()
    line = parsed(raw)
    assert isinstance(line, Line)
    assert json.loads(line.request) == body
    assert len(line.request) < len(raw)
