"""How jobs are shown to a person."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.client.answers import text_of
from cli.client.api import ENDED, Job

_COLOURS = {"completed": "green", "failed": "red", "cancelled": "yellow", "incomplete": "yellow", "in_progress": "cyan"}


def as_json(content: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Print the API's JSON to stdout; non-ASCII escaped, so that any terminal and any pipe takes it."""
    click.echo(json.dumps(content, indent=2))


def summary(job: Job) -> None:
    """Print everything but the answer to stdout, a line each."""
    rows = [
        ("job", job.get("id")),
        ("status", click.style(str(job.get("status")), fg=_COLOURS.get(str(job.get("status"))))),
        ("model", job.get("model")),
        ("queue", _queue(job)),
        ("attempt", job.get("attempt")),
        ("created", moment(job.get("created_at"))),
        ("took", _took(job)),
        ("tokens", _tokens(job)),
        ("retry at", moment(job.get("retry_at"))),
        ("deadline", moment(job.get("deadline_at"))),
        ("metadata", ", ".join(f"{name}={value}" for name, value in (job.get("metadata") or {}).items())),
        ("error", _error(job)),
    ]
    for name, value in rows:
        if value not in (None, ""):
            click.echo(f"{name:<9} {plain(str(value), keep_colours=name == 'status')}")


def answer(job: Job) -> None:
    """Print the LLM's answer to stdout and nothing else there; why there is none goes to stderr."""
    text = text_of(job.get("result"))
    if text is not None:
        click.echo(plain(text))
    elif job.get("status") in ("completed", "incomplete"):
        click.echo(json.dumps(job.get("result"), indent=2))
    note = [
        str(job.get("id")),
        str(job.get("status")),
        _took(job) or "",
        str(job.get("model") or ""),
        _tokens(job) or "",
    ]
    click.secho(plain(" · ".join(part for part in note if part), err=True), err=True, dim=True)
    if job.get("error"):
        click.echo(f"error: {plain(_error(job) or '', err=True)}", err=True)


def table(jobs: list[Job]) -> None:
    """Print a page of jobs to stdout, one row each."""
    rows_under(
        ("id", "status", "queue", "model", "created", "took", "attempt"),
        (
            (
                job.get("id"), job.get("status"), job.get("queue"), job.get("model"),
                moment(job.get("created_at")), _took(job), job.get("attempt"),
            )
            for job in jobs
        ),
        whole=("id", "status", "created"),
        styles=[_COLOURS.get(str(job.get("status"))) for job in jobs],
    )  # fmt: skip


def rows_under(
    names: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    whole: Sequence[str],
    styles: Sequence[str | None] | None = None,
) -> None:
    """Print rows under their names; columns that are not ``whole`` give way where the terminal is narrow."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        shown.add_column(name, no_wrap=name in whole, overflow="ellipsis")
    for number, row in enumerate(rows):
        cells = (console.render_str(plain(_cell(cell)), markup=False, emoji=False) for cell in row)
        shown.add_row(*cells, style=styles[number] if styles else None)
    console.print(shown)


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show a spinner on stderr, if that is a terminal, while something is waited for."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(Text(plain(text, err=True))):
        yield


def plain(text: str, *, err: bool = False, keep_colours: bool = False) -> str:
    """Return ``text`` without what would steer a terminal, if stdout (stderr with ``err``) is one: an LLM may answer
    anything."""
    text = text.encode(errors="replace").decode()  # JSON can hold half a surrogate pair, UTF-8 cannot
    if keep_colours or not (sys.stderr if err else sys.stdout).isatty():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)


def _cell(value: object) -> str:
    return "-" if value in (None, "") else str(value)


def _queue(job: Job) -> str:
    position = job.get("queue_position")
    return str(job.get("queue") or "") + (f" (position {position})" if position is not None else "")


def moment(seconds: Any) -> str | None:
    """Return a moment of the API's in local time; None for what is none."""
    if not isinstance(seconds, (int, float)):
        return None
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _took(job: Job) -> str | None:
    begun, ended = job.get("created_at"), job.get("finished_at")
    if job.get("status") not in ENDED or not isinstance(begun, (int, float)) or not isinstance(ended, (int, float)):
        return None
    return f"{ended - begun:.2f} s"


def _tokens(job: Job) -> str | None:
    usage = job.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return None if total is None else f"{total} tokens"


def _error(job: Job) -> str | None:
    error = job.get("error")
    if not isinstance(error, dict):
        return None
    code = f" ({error['code']})" if error.get("code") else ""
    return f"{error.get('message') or 'unknown'}{code}"
