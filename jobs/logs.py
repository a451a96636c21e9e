"""Structured logs of every process: JSON for machines, readable text on a terminal. Never a prompt or a result."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import traceback
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Format = Literal["auto", "json", "text"]


def configure(level: str, log_format: Format, *, trace_ids: bool = False) -> None:
    """Send our own events and those of libraries, as lines of one form, to standard error.

    ``trace_ids``: whether a line tells of the trace that it belongs to.
    """
    as_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([_trace_id] if trace_ids else []),
    ]
    renderer: Processor = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if as_text else _as_json
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _frames_only, renderer],
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # These tell of every request or task at INFO; our own lines say more, and bind the job's id.
    for name in ("httpx2", "httpx", "openai", "botocore", "celery.app.trace", "celery.worker.strategy"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Its warnings and debug lines quote URLs and what receivers answer.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    # Our own lines go straight out: the standard library's way would take twice as long for each.
    structlog.configure(
        processors=[*shared, _frames_only, renderer],
        logger_factory=lambda name: _Lines(name, sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )


class _Lines:
    """What structlog writes finished lines to, one for each name."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self.name = name
        self._write = stream.write

    def info(self, line: str) -> None:
        """Write it, in one piece. Where it cannot be written (a full disk, a closed pipe) the work goes on without it,
        as with the standard library's handlers."""
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            self._write(line + "\n")

    debug = warning = error = critical = info


_encode = json.JSONEncoder(default=repr).encode


def _as_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    return _encode(event)


def _trace_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    from opentelemetry.trace import format_trace_id, get_current_span  # an extra

    context = get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = format_trace_id(context.trace_id)
    return event


def _frames_only(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Render an exception as its class and its frames: a message or a local variable could quote a prompt."""
    exc_info = event.pop("exc_info", None)
    if not exc_info:
        return event
    if exc_info is True:
        exc_info = sys.exc_info()
    error = exc_info if isinstance(exc_info, BaseException) else exc_info[1]
    if error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        event["exception"] = type(error).__qualname__
        event["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return event
