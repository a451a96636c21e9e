"""What a command that may have waited for a job shows and exits with."""

from __future__ import annotations

import math
import sys

import click

from cli.client import display
from cli.client.api import ENDED, Api, Job
from cli.client.errors import Unreachable


def wait_for(api: Api, job_id: str, seconds: float) -> Job:
    """Wait for the end of a job, ``seconds`` at most, with a spinner; when that is cut short, say how to go on."""
    try:
        with display.spinner(f"waiting for {job_id}"):
            return api.wait(job_id, seconds=seconds)
    except (Unreachable, KeyboardInterrupt):
        click.echo(f"the job goes on without us: promptq status {job_id} --wait", err=True)
        raise


def finish(job: Job, *, waited: float, as_json: bool) -> None:
    """Show the job after a wait of ``waited`` seconds; exits with 1 unless it has an answer."""
    ended = job.get("status") in ENDED
    if as_json:
        display.as_json(job)
    elif ended:
        display.answer(job)
    else:
        display.summary(job)
    if not ended:
        within = "" if math.isinf(waited) else f" after {waited:g} s"
        click.echo(f"not finished{within}: promptq status {job.get('id')} --wait", err=True)
    if job.get("status") not in ("completed", "incomplete"):
        sys.exit(1)
