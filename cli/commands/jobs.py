"""``promptq jobs``: the newest jobs."""

from __future__ import annotations

import click

from cli.client import display
from cli.client.api import Api
from cli.client.options import connection


@click.command()
@click.option("--status", help="queued, in_progress, completed, failed, cancelled or incomplete only.")
@click.option("-q", "--queue", help="This queue's only.")
@click.option("-n", "--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="How many.")
@click.option("--after", metavar="ID", help="Those older than the job ID.")
@connection
def jobs(
    status: str | None, queue: str | None, limit: int, after: str | None, url: str, api_key: str, as_json: bool
) -> None:
    """List jobs, newest first."""
    with Api(url, api_key) as api:
        page = api.list(status=status, queue=queue, limit=limit, after=after)
    if as_json:
        display.as_json(page)
        return
    found = page.get("data") or []
    if not found:
        click.echo("no jobs", err=True)
        return
    display.table(found)
    if page.get("has_more"):
        click.secho(f"older ones: promptq jobs --after {page.get('last_id')}", err=True, dim=True)
