"""``promptq status``: one job."""

from __future__ import annotations

import click

from cli.client import display, outcome
from cli.client.answers import text_of
from cli.client.api import Api
from cli.client.options import WaitCommand, connection, waiting


@click.command(cls=WaitCommand)
@click.argument("job_id", metavar="ID")
@waiting
@connection
def status(job_id: str, wait: float | None, url: str, api_key: str, as_json: bool) -> None:
    """Show the job ID, with its answer if it has one.

    Exits with 1 if there is no such job, or if a job waited for brings no answer.
    """
    with Api(url, api_key) as api:
        if wait is not None:
            outcome.finish(outcome.wait_for(api, job_id, wait), waited=wait, as_json=as_json)
            return
        job = api.get(job_id)
    if as_json:
        display.as_json(job)
        return
    display.summary(job)
    text = text_of(job.get("result"))
    if text is not None:
        click.echo(f"\n{display.plain(text)}")
