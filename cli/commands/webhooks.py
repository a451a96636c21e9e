"""``promptq webhooks``: who is told of the jobs' ends, what became of that, and a receiver for development."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import click

from cli.client import display, tables
from cli.client.api import Api
from cli.client.errors import ClientError
from cli.client.groups import ListGroup
from cli.client.one_by_one import one_by_one
from cli.client.options import connection
from cli.client.receiver import Received, Receiver, read
from jobs.sealing import new_key
from jobs.signing import is_secret

_NAME: Final = "promptq webhooks listen"


@click.group(cls=ListGroup)
def webhooks() -> None:
    """Show webhook endpoints and deliveries, and receive webhooks here; without a COMMAND, list the endpoints.

    \b
    promptq webhooks listen                     register a receiver here; verify and print what comes
    promptq webhooks deliveries --status failed what did not arrive, and why
    promptq webhooks redeliver ID               send it again, now
    promptq webhooks key                        a key for PROMPTQ_ENCRYPTION_KEYS
    """


@webhooks.command("list")
@connection
def list_(url: str, api_key: str, as_json: bool) -> None:
    """List your webhook endpoints, the newest first."""
    with Api(url, api_key) as api:
        page = api.webhook_endpoints(limit=100)
    if as_json:
        display.as_json(page)
    else:
        tables.webhook_endpoints(page.get("data") or [])


@webhooks.command()
@click.option("--endpoint", metavar="ID", help="Only those of this endpoint; job: those to a job's own webhook_url.")
@click.option("--status", type=click.Choice(["pending", "succeeded", "failed"]), help="Only those.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="How many.")
@connection
def deliveries(endpoint: str | None, status: str | None, limit: int, url: str, api_key: str, as_json: bool) -> None:
    """List your webhook deliveries, the newest first; --json shows each try."""
    with Api(url, api_key) as api:
        page = api.webhook_deliveries(endpoint=endpoint, status=status, limit=limit)
    if as_json:
        display.as_json(page)
    else:
        tables.webhook_deliveries(page.get("data") or [])


@webhooks.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@connection
def redeliver(ids: tuple[str, ...], url: str, api_key: str, as_json: bool) -> None:
    """Send the deliveries ID again, now, whatever became of them."""
    with Api(url, api_key) as api:
        one_by_one(ids, api.redeliver, refusals=(404, 409), show=tables.webhook_deliveries, as_json=as_json)


@webhooks.command()
def key() -> None:
    """Print a fresh key for PROMPTQ_ENCRYPTION_KEYS, under which webhook secrets are stored."""
    click.echo(new_key())


@webhooks.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen at; by default a free one.")
@click.option("--event", "events", multiple=True, metavar="TYPE", help="Only such events; may be repeated.")
@click.option(
    "--public-url", metavar="URL", help="Where the API reaches this receiver, if not on this machine: a tunnel's URL."
)
@click.option(
    "--secret",
    envvar="PROMPTQ_WEBHOOK_SECRET",
    metavar="WHSEC",
    help="Register nothing, and verify with this secret what comes: for a job's own webhook_url.",
)
@connection
def listen(
    port: int,
    events: tuple[str, ...],
    public_url: str | None,
    secret: str | None,
    url: str,
    api_key: str,
    as_json: bool,
) -> None:
    """Receive webhooks here, verify them and print them, until Ctrl-C. For development.

    Registers itself as a webhook endpoint, and takes that back at the end.
    """
    if secret is not None and not is_secret(secret):
        raise ClientError("the secret is not one: it is whsec_ and base64 (--secret)")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    tell = _json_line if as_json else _line
    # Known once the endpoint is made, for which the port must be known.
    known = [secret] if secret is not None else []

    def take(headers: Mapping[str, str], body: bytes) -> bool:
        if not known:
            return False
        received = read(headers, body, known[0])
        tell(received)
        return received.problem is None

    with Receiver(port, take) as receiver:
        if secret is not None:
            click.echo(f"listening at {receiver.url}; Ctrl-C ends it", err=True)
            _until(stop)
            return
        with Api(url, api_key) as api:
            _take_back_what_was_left(api)
            asked = events or api.event_types()
            made = api.create_webhook_endpoint(name=_NAME, url=public_url or receiver.url, event_types=asked)
            try:
                known.append(str(made["signing_secret"]))
                click.echo(f"listening at {made['url']} as {made['id']}; Ctrl-C ends it", err=True)
                _until(stop)
            finally:
                try:
                    api.delete_webhook_endpoint(str(made["id"]))
                except ClientError:
                    click.echo(
                        f"the endpoint {made['id']} is left: the next `listen` on this machine removes it", err=True
                    )
                    raise


def _take_back_what_was_left(api: Api) -> None:
    """Remove endpoints of earlier receivers on this machine that nobody listens for any more."""
    for endpoint in api.webhook_endpoints(limit=100).get("data") or []:
        place = urlsplit(str(endpoint["url"]))
        if endpoint["name"] != _NAME or place.hostname != "127.0.0.1" or place.port is None:
            continue
        try:
            socket.create_connection(("127.0.0.1", place.port), timeout=1).close()
        except ConnectionRefusedError:
            api.delete_webhook_endpoint(str(endpoint["id"]))


def _until(stop: threading.Event) -> None:
    # Not for ever: a signal is handled between two waits only.
    while not stop.wait(0.2):
        pass


def _line(received: Received) -> None:
    event = received.event or {}
    verdict = "verified" if received.problem is None else f"NOT VERIFIED: {received.problem}"
    about = event.get("data")
    parts = (
        time.strftime("%H:%M:%S"),
        str(event.get("type")),
        str(about.get("id") if isinstance(about, dict) else None),
        f"[{received.webhook_id}]",
        verdict,
    )
    click.echo(display.plain("  ".join(parts)))


def _json_line(received: Received) -> None:
    told = {"webhook_id": received.webhook_id, "verified": received.problem is None, "problem": received.problem}
    click.echo(json.dumps({**told, "event": received.event}))
