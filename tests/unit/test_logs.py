"""What never gets into a log."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from jobs import logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
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


@pytest.mark.parametrize("trouble", [BrokenPipeError(), ValueError("I/O operation on closed file")])
def test_a_line_that_cannot_be_written_stops_no_work(
    trouble: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a full disk or a closed pipe jobs, heartbeats and requests go on without their lines."""

    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise trouble

    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", Broken())
        logs.configure("info", "json")
        structlog.get_logger("promptq.test").warning("said")
    logs.configure("info", "json")
    structlog.get_logger("promptq.test").info("heard", job_id="job_1", odd="\ud800")
    structlog.get_logger("promptq.test").debug("not heard")
    (line,) = capsys.readouterr().err.splitlines()
    told = json.loads(line)
    assert (told["event"], told["job_id"], told["logger"], told["level"]) == ("heard", "job_1", "promptq.test", "info")
