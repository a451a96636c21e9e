"""What never gets into a log."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from jobs import logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.parametrize("level", ["debug", "info", "warning"])
def test_urllib3_quotes_no_url_of_a_receiver(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its warnings and debug lines have paths, which may be secrets, and what a receiver answered."""
    logs.configure(level, "json")
    for name in ("urllib3.connection", "urllib3.connectionpool"):
        logging.getLogger(name).warning("Failed to parse headers (url=%s)", "http://hooks.example/SECRET")
        logging.getLogger(name).debug("%s", "POST /SECRET")
    logging.getLogger("promptq.other").warning("said")
    said = capsys.readouterr().err
    assert "said" in said
    assert "SECRET" not in said
