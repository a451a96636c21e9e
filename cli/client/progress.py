"""A progress bar for what is done many times."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="dim")


def shown() -> bool:
    """Whether bars are shown: stderr is a terminal."""
    return sys.stderr.isatty()


@contextmanager
def bytes_bar(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show bytes, rate and time left on stderr, if that is a terminal; yields what says how many bytes there are now.

    ``total``: None where it is not known.
    """
    if not shown():
        yield lambda _: None
        return
    with _progress(DownloadColumn(), TransferSpeedColumn()) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done: progress.update(task, completed=done)


@contextmanager
def counts_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Show count, rate and time left of something that goes on by itself; yields what says its state, how many are
    done, and of how many."""
    if not shown():
        yield lambda _title, _done, _total: None
        return
    with _progress(MofNCompleteColumn(), _Rate()) as progress:
        tasks: list[TaskID] = []

        def show(title: str, done: int, total: int) -> None:
            if not tasks:
                # What was done before we looked says nothing of the rate.
                tasks.append(progress.add_task(title, total=total or None, completed=done))
            progress.update(tasks[0], description=title, completed=done, total=total or None)

        yield show


def _progress(*columns: ProgressColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=False,  # what goes to stdout belongs there: it may be a file
    )


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show count, rate and time left on stderr, if that is a terminal; yields what counts one more."""
    if not shown():
        yield lambda: None
        return
    with _progress(MofNCompleteColumn(), _Rate()) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)
