"""Options that the client commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])

#: ``--wait`` without a number.
FOR_EVER = math.inf


def connection(command: _F) -> _F:
    """Add ``--url``, ``--api-key`` and ``--json``."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the API's JSON, for scripts."),
        click.option(
            "--api-key",
            envvar="PROMPTQ_API_KEY",
            default="local",
            show_envvar=True,
            help="API key to send.",
        ),
        click.option(
            "--url",
            envvar="PROMPTQ_URL",
            default="http://127.0.0.1:8000",
            show_envvar=True,
            show_default=True,
            help="Where the API answers.",
        ),
    ):
        command = option(command)
    return command


def waiting(command: _F) -> _F:
    """Add ``--wait [SECONDS]``, which needs `WaitCommand`."""
    return click.option(
        "--wait",
        type=click.FloatRange(min=0),
        metavar="[SECONDS]",
        help="Wait for the end of the job, SECONDS at most if given, and show the answer.",
    )(command)


class WaitCommand(click.Command):
    """A command whose ``--wait`` may stand without a number, even right before an argument."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give a bare ``--wait`` its value; click itself would take the next word for it."""
        given: list[str] = []
        for index, word in enumerate(args):
            if word == "--":
                given += args[index:]
                break
            bare = word == "--wait" and not _is_number(args[index + 1 : index + 2])
            given.append(f"--wait={FOR_EVER}" if bare else word)
        return super().parse_args(ctx, given)


def _is_number(words: list[str]) -> bool:
    try:
        return bool(words) and math.isfinite(float(words[0]))
    except ValueError:
        return False
