"""``promptq cancel``: end a job."""

from __future__ import annotations

import click

from cli.client import display
from cli.client.api import Api
from cli.client.options import connection


@click.command()
@click.argument("job_id", metavar="ID")
@connection
def cancel(job_id: str, url: str, api_key: str, as_json: bool) -> None:
    """Cancel the job ID; a call of the LLM that runs is aborted. One that has ended stays as it is."""
    with Api(url, api_key) as api:
        job = api.cancel(job_id)
    if as_json:
        display.as_json(job)
    else:
        display.summary(job)
