"""What is shown on a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from cli.client import display


def test_a_spinner_takes_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id may look like rich's markup, and is shown as it is."""
    screen = io.StringIO()
    monkeypatch.setattr(display, "Console", lambda **_: Console(file=screen, force_terminal=True))
    with display.spinner("waiting for [/x]"):
        pass
    assert "waiting for [/x]" in screen.getvalue()


@pytest.mark.parametrize(("is_terminal", "shown"), [(True, "a\ufffdb"), (False, "a\x1bb")])
def test_what_steers_a_terminal_does_not_reach_one(
    is_terminal: bool, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An LLM's escape sequences are replaced on a terminal, and kept in a pipe."""
    screen: Any = io.StringIO()
    screen.isatty = lambda: is_terminal
    monkeypatch.setattr(display.sys, "stdout", screen)
    assert display.plain("a\x1bb") == shown
