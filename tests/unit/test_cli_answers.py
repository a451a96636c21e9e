"""The text in an answer, and what of it reaches a terminal."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from cli.client.answers import text_of
from cli.client.display import plain


def message(*texts: str) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": text} for text in texts]}


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"choices": [{"message": {"content": "one"}}, {"message": {"content": "two"}}]}, "one\n\ntwo"),
        ({"choices": [{"message": {"content": None, "refusal": "no"}}]}, "no"),
        ({"choices": [{"message": {"content": None, "tool_calls": []}}]}, None),
        ({"choices": [{"message": {"content": ""}}]}, ""),
        ({"choices": [{"text": "once upon"}]}, "once upon"),
        ({"output": [{"type": "reasoning", "content": [{"text": "hmm"}]}, message("a", "b"), message("c")]}, "ab\n\nc"),
        ({"output": [{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}]}, "no"),
        ({"output": []}, None),
        ({"object": "list", "data": [{"embedding": [0.5, -1.0]}]}, "1 embedding of 2 dimensions, the first [0.5, -1"),
        ({"object": "list", "data": [{"embedding": "AAAA"}] * 2}, "2 embeddings, base64"),
        ({"object": "list", "data": []}, None),
        ({"choices": "nonsense"}, None),
        ({"output": [None, 1, {"content": "x"}]}, None),
        (None, None),
        ("text", None),
    ],
)
def test_the_text_of_each_endpoint_is_found(result: Any, expected: str | None) -> None:
    """Chat, completions, responses and embeddings give text; what has none gives None, never an exception."""
    text = text_of(result)
    assert text == expected or (expected and text and text.startswith(expected))


def test_an_answer_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal escape sequences are shown as replacement signs; in a pipe the text is as it came."""
    text = "a\x1b[2J\tb\nc\u202e日本"
    assert plain(text) == text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert plain(text) == "a\ufffd[2J\tb\nc\ufffd日本"


def test_half_a_surrogate_pair_can_be_printed() -> None:
    """JSON can hold one, UTF-8 cannot."""
    assert plain("a\ud83db") == "a?b"
