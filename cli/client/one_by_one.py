"""Commands that do the same to several things, named one by one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Sequence
from typing import Any

import click

from cli.client import display
from cli.client.errors import ClientError


def one_by_one(
    names: Sequence[str],
    do: Callable[[str], dict[str, Any]],
    *,
    refusals: Container[int],
    show: Callable[[list[dict[str, Any]]], None],
    as_json: bool,
) -> None:
    """Do it to each and show what came of them; one that is refused with a status of ``refusals`` does not stop the
    rest, and makes the command exit with 1 at the end."""
    done: list[dict[str, Any]] = []
    failed = False
    try:
        for name in dict.fromkeys(names):
            try:
                done.append(do(name))
            except ClientError as error:
                if error.status not in refusals:
                    raise
                click.echo(f"error: {display.plain(f'{name}: {error.message}', err=True)}", err=True)
                failed = True
    finally:
        # What was done is told, whatever ends the rest.
        if as_json:
            display.as_json(done)
        elif done:
            show(done)
    if failed:
        sys.exit(1)
