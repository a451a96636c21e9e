"""``promptq dead-letters``: the jobs that failed for good, to be retried or deleted."""

from __future__ import annotations

from itertools import islice
from typing import Any

import click

from cli.client import bulk, display, tables
from cli.client.api import Api
from cli.client.errors import ClientError
from cli.client.groups import ListGroup
from cli.client.letters import Choice, matching
from cli.client.options import connection

_queue = click.option("-q", "--queue", help="This queue's only.")
_code = click.option("--code", help="Those with this error code only, llm_unavailable for example.")
_yes = click.option("-y", "--yes", is_flag=True, help="Do not ask first.")


@click.group(cls=ListGroup)
def dead_letters() -> None:
    """Show the jobs that failed for good, retry or delete them; without a COMMAND, list them.

    \b
    promptq dead-letters --code llm_rejected    what the LLM refused
    promptq dead-letters retry ID ID            these two
    promptq dead-letters retry --all -q bulk    all of a queue
    promptq dead-letters purge --older-than 30  delete what failed more than 30 days ago
    """


@dead_letters.command("list")
@_queue
@click.option("-n", "--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="How many.")
@click.option("--after", metavar="ID", help="Those older than the job ID.")
@_code
@connection
def list_(
    queue: str | None, limit: int, after: str | None, code: str | None, url: str, api_key: str, as_json: bool
) -> None:
    """List dead letters, newest first.

    Example: promptq dead-letters list -q bulk --code llm_unavailable
    """
    choice = Choice(queue=queue, code=code)
    with Api(url, api_key) as api:
        page = _page(api, choice, limit, after)
    if as_json:
        display.as_json(page)
        return
    found = page.get("data") or []
    if not found:
        click.echo("no dead letters", err=True)
        return
    tables.dead_letters(found)
    if page.get("has_more"):
        hint = f"older ones: promptq dead-letters{display.plain(choice.words())} --after {page.get('last_id')}"
        click.secho(hint, err=True, dim=True)


@dead_letters.command()
@click.argument("job_ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every dead letter, of this queue and code if given.")
@_queue
@_code
@_yes
@connection
def retry(
    job_ids: tuple[str, ...],
    everything: bool,
    queue: str | None,
    code: str | None,
    yes: bool,
    url: str,
    api_key: str,
    as_json: bool,
) -> None:
    """Make a new job of each job ID, or of --all dead letters. Each retry calls the LLM, and is paid for.

    Retrying the same job again gives the same new job, so that a command that was interrupted can be repeated. Exits
    with 1 if some could not be retried.

    Example: promptq dead-letters retry --all --code llm_unavailable
    """
    if bool(job_ids) == everything:
        raise click.UsageError("name either the IDs or --all")
    if job_ids and (queue or code):
        raise click.UsageError("--queue and --code choose among --all; leave them out with IDs")
    with Api(url, api_key) as api:

        def do(job_id: str) -> dict[str, Any]:
            return {"retried_as": api.retry(job_id).get("id")}

        question = "Each retry calls the LLM anew, and is paid for. Retry them all?"
        deed = bulk.Deed(do, verb="retrying", past="retried", question=question)
        if everything:
            ids = bulk.collect(api, deed, Choice(queue=queue, code=code), yes=yes)
            bulk.carry_out(api, deed, ids, as_json=as_json)
        else:
            show = _nothing if as_json else _pair
            bulk.carry_out(api, deed, list(dict.fromkeys(job_ids)), as_json=as_json, show=show)


@dead_letters.command()
@_queue
@_code
@click.option("--older-than", type=click.FloatRange(min=0), metavar="DAYS", help="Those that failed before that only.")
@_yes
@connection
def purge(
    queue: str | None,
    code: str | None,
    older_than: float | None,
    yes: bool,
    url: str,
    api_key: str,
    as_json: bool,
) -> None:
    """Delete dead letters and their records: what was asked and why it failed can then neither be read nor retried.

    A command that was interrupted can be repeated. Exits with 1 if some could not be deleted.

    Example: promptq dead-letters purge -q bulk --older-than 30
    """
    with Api(url, api_key) as api:

        def do(job_id: str) -> dict[str, Any]:
            try:
                api.delete(job_id)
            except ClientError as error:
                # Gone is what it should be; the answer to the first try may have been lost.
                if error.status != 404:
                    raise
            return {"deleted": True}

        question = "They and their records are deleted, and can then neither be read nor retried. Delete them all?"
        deed = bulk.Deed(do, verb="deleting", past="deleted", question=question)
        ids = bulk.collect(api, deed, Choice(queue, code, older_than), yes=yes)
        bulk.carry_out(api, deed, ids, as_json=as_json)


def _page(api: Api, choice: Choice, limit: int, after: str | None) -> dict[str, Any]:
    """Return the API's page; with a code, one like it over as many pages as it takes."""
    if choice.code is None:
        return api.dead_letters(queue=choice.queue, limit=limit, after=after)
    found = list(islice(matching(api.dead_letters, choice, after=after), limit + 1))
    shown = found[:limit]
    first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
    return {"object": "list", "data": shown, "has_more": len(found) > limit, "first_id": first, "last_id": last}


def _pair(outcome: dict[str, Any]) -> None:
    """Print what a job was retried as."""
    if "retried_as" in outcome:
        click.echo(f"{display.plain(str(outcome['id']))} -> {outcome['retried_as']}")


def _nothing(outcome: dict[str, Any]) -> None:
    """Print nothing."""
