"""``promptq batch``: a file of prompts, run in the background."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from cli.batches import prompts as formats
from cli.batches.prompts import Prompts
from cli.batches.results import tally, to_retry
from cli.batches.run import Run
from cli.batches.state import State
from cli.client import display, tables
from cli.client.api import Api
from cli.client.errors import ClientError
from cli.client.groups import ListGroup
from cli.client.options import connection

_GONE = 404
INTERRUPTED = 130  # what a shell reports of a process that Ctrl-C ended
_file = click.Path(path_type=Path, dir_okay=False)


@click.group(cls=ListGroup)
def batch() -> None:
    """Run files of prompts, and look at batches; without a COMMAND, list them.

    \b
    promptq batch run prompts.jsonl -o results.jsonl
    promptq batch run questions.csv -o results.jsonl -m gpt-5-mini
    promptq batch run prompts.jsonl -o results.jsonl --retry-failed
    promptq batch status ID
    promptq batch cancel ID
    """


@batch.command()
@click.argument("prompts", type=click.Path(path_type=Path, exists=True, dir_okay=False, readable=True))
@click.option("-o", "--output", type=_file, required=True, help="Where the results go, a JSON object for each line.")
@click.option("-m", "--model", help="Model to ask, where the prompts name none.")
@click.option("--endpoint", type=click.Choice(formats.ENDPOINTS), help="Where to ask.  [default: chat completions]")
@click.option("--window", default="24h", show_default=True, help="How long it may take: 90s, 30m, 24h, 7d.")
@click.option(
    "--format",
    type=click.Choice(formats.FORMATS),
    default="auto",
    show_default=True,
    help="batch: OpenAI's lines; prompts: objects with a prompt; csv: a column prompt; text: a prompt on each line.",
)
@click.option("--retry-failed", is_flag=True, help="Run only the lines again that have failed, and merge the results.")
@connection
def run(
    prompts: Path,
    output: Path,
    model: str | None,
    endpoint: str | None,
    window: str,
    format: str,
    retry_failed: bool,
    url: str,
    api_key: str,
    as_json: bool,
) -> None:
    """Run all PROMPTS of a file as one batch, and write what became of each to the output, in the order of the file.

    Ctrl-C leaves the batch running: the same command again goes on with it, and never begins a second one. What it
    needs for that is in a folder beside the output. Columns of a CSV besides prompt and custom_id, and "metadata" of an
    object, are not sent; they come back in the results.

    Exits with 1 if some lines failed or the batch did not complete, and 130 if it was interrupted.
    """
    read = Prompts(prompts, format=format, model=model, endpoint=endpoint)
    with State(output) as state, Api(url, api_key) as api:
        job = Run(api, read, output, state, window)
        try:
            ended = job.go_on(retry_failed=retry_failed)
        except (KeyboardInterrupt, click.Abort):
            click.echo(_how_to_go_on(state), err=True)
            sys.exit(INTERRUPTED)
        except ClientError as error:
            if error.status == _GONE:
                click.echo(f"if it is gone at the server, remove {state.folder} to begin anew", err=True)
            elif state.rounds:
                click.echo(_how_to_go_on(state), err=True)
            raise
        if as_json and ended is not None:
            display.as_json(ended)
        if ended is not None and ended.get("status") == "failed":
            _show_errors(ended)
            sys.exit(1)
        _conclude(output, read, ended)


def _how_to_go_on(state: State) -> str:
    batch_id = state.rounds[-1].batch_id if state.rounds else None
    if batch_id is None:
        return "interrupted before the batch was made; the same command again goes on"
    return (
        f"interrupted; the batch goes on without us. The same command again goes on with it, "
        f"and `promptq batch cancel {batch_id}` ends it"
    )


def _show_errors(ended: dict[str, Any]) -> None:
    click.echo(f"error: the batch {ended.get('id')} was refused as a whole:", err=True)
    for error in (ended.get("errors") or {}).get("data") or ():
        where = "" if error.get("line") is None else f"line {error['line']}: "
        click.echo(display.plain(f"  {where}{error.get('message')} ({error.get('code')})", err=True), err=True)


def _conclude(output: Path, prompts: Prompts, ended: dict[str, Any] | None) -> None:
    answered, left = tally(output)
    how = "nothing left to do" if ended is None else str(ended.get("status"))
    click.echo(f"{how}: {answered} answered, {left} failed, in {output}", err=True)
    if left and to_retry(output, prompts):
        click.echo("--retry-failed runs those that failed again", err=True)
    if left or (ended is not None and ended.get("status") != "completed"):
        sys.exit(1)


@batch.command()
@click.argument("batch_id", metavar="ID")
@connection
def status(batch_id: str, url: str, api_key: str, as_json: bool) -> None:
    """Show the batch ID as it stands."""
    with Api(url, api_key) as api:
        _show(api.batch(batch_id), as_json=as_json)


@batch.command()
@click.argument("batch_id", metavar="ID")
@connection
def cancel(batch_id: str, url: str, api_key: str, as_json: bool) -> None:
    """Cancel the batch ID; what is done already stands in its files."""
    with Api(url, api_key) as api:
        _show(api.cancel_batch(batch_id), as_json=as_json)


@batch.command("list")
@click.option("-n", "--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="How many.")
@click.option("--after", metavar="ID", help="Those older than the batch ID.")
@connection
def list_(limit: int, after: str | None, url: str, api_key: str, as_json: bool) -> None:
    """List batches, newest first."""
    with Api(url, api_key) as api:
        page = api.batches(limit=limit, after=after)
    if as_json:
        display.as_json(page)
        return
    found = page.get("data") or []
    if not found:
        click.echo("no batches", err=True)
        return
    tables.batches(found)
    if page.get("has_more"):
        click.secho(f"older ones: promptq batch list --after {page.get('last_id')}", err=True, dim=True)


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        display.as_json(found)
    else:
        tables.batch(found)
        if found.get("errors"):
            _show_errors(found)
