"""A progress bar for what is done many times."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="dim")


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show count, rate and time left on stderr, if that is a terminal; yields what counts one more."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=False,  # what goes to stdout belongs there: it may be a file
    ) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)
