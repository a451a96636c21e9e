"""``promptq submit``: put a prompt into the queue."""

from __future__ import annotations

import sys

import click

from cli.client import display, outcome
from cli.client.api import Api
from cli.client.options import WaitCommand, connection, waiting


@click.command(cls=WaitCommand)
@click.argument("prompt")
@click.option("-m", "--model", help="Model to ask.  [default: the server's]")
@click.option("-q", "--queue", help="interactive, default or bulk.  [default: the server's]")
@click.option("--idempotency-key", metavar="KEY", help="The same key with the same prompt gives the same job.")
@click.option("--deadline", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Give up after that.")
@click.option(
    "--attempt-timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End and repeat an attempt that takes longer.",
)
@click.option("--webhook-url", metavar="URL", help="Where to tell of the job's end (see `promptq webhooks --help`).")
@click.option("--metadata", multiple=True, metavar="NAME=VALUE", help="Kept with the job; may be repeated.")
@waiting
@connection
def submit(
    prompt: str,
    model: str | None,
    queue: str | None,
    idempotency_key: str | None,
    deadline: float | None,
    attempt_timeout: float | None,
    webhook_url: str | None,
    metadata: tuple[str, ...],
    wait: float | None,
    url: str,
    api_key: str,
    as_json: bool,
) -> None:
    """Submit PROMPT (- reads it from stdin) and print the job, or with --wait the answer.

    Exits with 1 if the API refuses, or if the job waited for brings no answer.
    """
    wishes = {
        "prompt": _text(prompt),
        "model": model,
        "queue": queue,
        "deadline_seconds": deadline,
        "attempt_timeout_seconds": attempt_timeout,
        "webhook_url": webhook_url,
        "metadata": _pairs(metadata) or None,
    }
    body = {name: value for name, value in wishes.items() if value is not None}
    with Api(url, api_key) as api:
        job = api.submit(body, idempotency_key=idempotency_key)
        if wait is not None:
            job = outcome.wait_for(api, str(job.get("id")), wait)
            outcome.finish(job, waited=wait, as_json=as_json)
        elif as_json:
            display.as_json(job)
        else:
            display.summary(job)
            click.secho(f"promptq status {job.get('id')} --wait   shows the answer", err=True, dim=True)


def _text(prompt: str) -> str:
    """Return the prompt, from stdin for ``-``; it has to be UTF-8."""
    given = sys.stdin.buffer.read() if prompt == "-" else prompt.encode(errors="surrogateescape")
    try:
        return given.decode()
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"is not UTF-8: {error.reason} at byte {error.start}", param_hint="PROMPT") from error


def _pairs(words: tuple[str, ...]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{word!r} is not NAME=VALUE", param_hint="--metadata")
        pairs[name] = value
    return pairs
