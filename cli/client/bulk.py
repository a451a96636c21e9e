"""Doing the same to many jobs, so that it can be interrupted and repeated."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import click

from cli.client import confirm, display, progress
from cli.client.api import Api
from cli.client.errors import ClientError
from cli.client.letters import Choice, matching

INTERRUPTED = 130  # what a shell reports of a process that Ctrl-C ended
# Trouble with this one job. Anything else would be the same for every other.
_OF_ONE_JOB = frozenset({400, 404, 409, 500})


@dataclass(frozen=True)
class Deed:
    """What is done to each job, and the words for it; doing it twice does what doing it once does."""

    do: Callable[[str], dict[str, Any]]  # gives what is told of the job besides its id
    verb: str
    past: str
    question: str


@dataclass
class Tally:
    """What has become of each job so far."""

    deed: Deed
    total: int
    outcomes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """How many could not be done."""
        return sum("error" in outcome for outcome in self.outcomes)

    def __str__(self) -> str:
        """Say how many, in a line."""
        done = len(self.outcomes) - self.failed
        some = f"{done} of {self.total}" if len(self.outcomes) < self.total else f"{done}"
        return f"{some} {self.deed.past}" + (f", {self.failed} could not be" if self.failed else "")


def collect(api: Api, deed: Deed, choice: Choice, *, yes: bool) -> list[str]:
    """Return the ids of the dead letters that are meant, oldest first, once the user has agreed; exits if not."""
    confirm.check_possible(yes=yes)

    def ask(**params: str | int | None) -> dict[str, Any]:
        return api.patiently(lambda: api.dead_letters(**params), on_away=_tell_away)

    try:
        with display.spinner("reading the dead letters"):
            ids = [str(job["id"]) for job in matching(ask, choice)]
        if not ids:
            click.echo("no dead letters", err=True)
            return ids
        click.echo(f"{len(ids)} dead letter{'s' if len(ids) != 1 else ''}", err=True)
        if confirm.agreed(deed.question, yes=yes):
            return ids[::-1]
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"interrupted: nothing was {deed.past}", err=True)
        sys.exit(INTERRUPTED)
    click.echo(f"nothing was {deed.past}", err=True)
    sys.exit(1)


def carry_out(
    api: Api,
    deed: Deed,
    ids: Sequence[str],
    *,
    as_json: bool,
    show: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Do it to each job, then print what was done; exits with 1 if some of it could not be, 130 on Ctrl-C.

    ``show`` is given each outcome at once; without it there is a progress bar, and the count at the end.
    """
    tally, code = Tally(deed, len(ids)), 0
    try:
        if show is not None:
            _each(api, ids, tally, show)
        elif ids:
            with progress.bar(deed.verb, len(ids)) as advance:
                _each(api, ids, tally, lambda _: advance())
    except ClientError as error:
        error.show()
        code = 1
    except KeyboardInterrupt:
        code = INTERRUPTED
    if as_json:
        display.as_json(tally.outcomes)
    if code:
        why = "interrupted: " if code == INTERRUPTED else ""
        click.echo(f"{why}{tally}; the same command again goes on where this one stopped", err=True)
    elif ids and not as_json and show is None:
        click.echo(str(tally))
    sys.exit(code or (1 if tally.failed else 0))


def _each(api: Api, ids: Sequence[str], tally: Tally, show: Callable[[dict[str, Any]], None]) -> None:
    for job_id in ids:
        try:
            told = api.patiently(partial(tally.deed.do, job_id), on_away=_tell_away)
        except ClientError as error:
            if error.status not in _OF_ONE_JOB:
                raise
            told = {"error": {"code": error.code, "message": error.message}}
            click.echo(f"error: {display.plain(job_id, err=True)}: {display.plain(error.message, err=True)}", err=True)
        outcome = {"id": job_id, **told}
        tally.outcomes.append(outcome)
        show(outcome)


def _tell_away(error: ClientError) -> None:
    click.echo(f"waiting for the API: {error.message}", err=True)
