"""``promptq queues``: how long the queues are, and pausing them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from cli.client import display, tables
from cli.client.api import Api
from cli.client.groups import ListGroup
from cli.client.one_by_one import one_by_one
from cli.client.options import connection


@click.group(cls=ListGroup)
def queues() -> None:
    """Show the queues, pause and resume them; without a COMMAND, list them.

    \b
    promptq queues                              how long each is, and whether it is paused
    promptq queues pause bulk                   start none of its jobs until it is resumed
    promptq queues resume bulk
    """


@queues.command("list")
@connection
def list_(url: str, api_key: str, as_json: bool) -> None:
    """List the queues, with what waits and runs in each, of all owners together.

    The last column is how long the job that is next has waited.
    """
    with Api(url, api_key) as api:
        page = api.queues()
    if as_json:
        display.as_json(page)
    else:
        tables.queues(page.get("data") or [])


@queues.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@connection
def pause(names: tuple[str, ...], url: str, api_key: str, as_json: bool) -> None:
    """Start no further job of the queues NAME; those that run go on. Needs an operator's API key.

    The queue goes on taking jobs, of every owner. Example: promptq queues pause bulk default
    """
    with Api(url, api_key) as api:
        _switch(api.pause, names, as_json=as_json)


@queues.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@connection
def resume(names: tuple[str, ...], url: str, api_key: str, as_json: bool) -> None:
    """Let the paused queues NAME go on where they stood. Needs an operator's API key.

    Example: promptq queues resume bulk
    """
    with Api(url, api_key) as api:
        _switch(api.resume, names, as_json=as_json)


def _switch(switch: Callable[[str], dict[str, Any]], names: Sequence[str], *, as_json: bool) -> None:
    one_by_one(names, switch, refusals=(404,), show=tables.queues, as_json=as_json)
