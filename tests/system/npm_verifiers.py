"""npm's ``standardwebhooks`` and ``openai`` on real deliveries: what is ours they accept, and nothing else.

``tests/system/run`` installs them and names this file; its own name keeps it out of ``make test``.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest

from jobs import signing
from tests.integration.driving import unique
from tests.processes import Stack

VERIFY = Path(__file__).parent / "webhooks" / "verify.mjs"
VERIFIERS = {"standardwebhooks", "openai"}
TYPES = ["response.completed", "response.failed", "response.cancelled", "response.incomplete"]


@dataclass(frozen=True)
class Message:
    """A message as it arrived, and what it is to be verified with."""

    headers: dict[str, str]
    body: str
    secret: str = ""
    #: Seconds after now at which it is verified.
    late: float = 0

    @property
    def event(self) -> Any:
        """What the body says."""
        return json.loads(self.body)


class Receiver:
    """Answers each message with a 200 and keeps it."""

    def __init__(self) -> None:
        self._arrived: queue.Queue[Message] = queue.Queue()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver._arrived.put(Message(headers, body.decode()))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"

    def about(self, job_id: str) -> Message:
        """The message about this job, once it has come."""
        deadline = time.monotonic() + 20
        while True:
            message = self._arrived.get(timeout=max(0.0, deadline - time.monotonic()))
            if message.event["data"]["id"] == job_id:
                return message


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver on loopback."""
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, daemon=True)
    thread.start()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
    thread.join()


@pytest.fixture
def client(stack: Stack) -> Iterator[openai.OpenAI]:
    """The SDK on the shared stack."""
    with openai.OpenAI(base_url=f"{stack.api}/v1", api_key=stack.api_key, max_retries=0) as client:
        yield client


@pytest.fixture
def endpoint(client: openai.OpenAI, receiver: Receiver) -> Iterator[Any]:
    """An endpoint that leads to the receiver, with its ``signing_secret``."""
    endpoint = client.webhooks.create(name="npm verifiers", url=receiver.url, event_types=TYPES)
    yield endpoint
    client.webhooks.delete(endpoint.id)


def delivered(client: openai.OpenAI, receiver: Receiver, model: str = "sim", **more: Any) -> Message:
    """The delivery about the end of a new response."""
    job = client.responses.create(model=model, input=unique(), background=True, **more)
    return receiver.about(job.id)


def verdicts(*messages: Message) -> list[dict[str, Any]]:
    """What each verifier says of each message: ``{"accepted": event}`` or ``{"refused": why}``."""
    asked = [
        {"headers": message.headers, "body": message.body, "secret": message.secret, "late": message.late}
        for message in messages
    ]
    answer = subprocess.run(["node", VERIFY], input=json.dumps(asked), capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    found: list[dict[str, Any]] = json.loads(answer.stdout)
    assert [set(verdict) for verdict in found] == [VERIFIERS] * len(messages)
    return found


def assert_accepted(*messages: Message) -> None:
    """Both verifiers accept all of them, and read from each the event that it holds."""
    for message, verdict in zip(messages, verdicts(*messages), strict=True):
        assert verdict == {name: {"accepted": message.event} for name in VERIFIERS}


def assert_refused(why: dict[str, str], *messages: Message) -> None:
    """Both verifiers refuse all of them, each in its own words."""
    for verdict in verdicts(*messages):
        assert verdict == {name: {"refused": words} for name, words in why.items()}


NO_MATCH = {
    "standardwebhooks": "No matching signature found",
    "openai": "The given webhook signature does not match the expected signature",
}
TOO_OLD = {"standardwebhooks": "Message timestamp too old", "openai": "Webhook timestamp is too old"}
TOO_NEW = {"standardwebhooks": "Message timestamp too new", "openai": "Webhook timestamp is too new"}


def test_npm_accepts_what_an_endpoint_gets(client: openai.OpenAI, receiver: Receiver, endpoint: Any) -> None:
    """A response's end arrives as an event that both accept, also four minutes later."""
    message = replace(delivered(client, receiver), secret=endpoint.signing_secret)
    assert message.event["type"] == "response.completed"
    assert message.event["id"] == message.headers["webhook-id"]
    assert_accepted(message, replace(message, late=240))


def test_npm_accepts_both_secrets_after_a_rotation(client: openai.OpenAI, receiver: Receiver, endpoint: Any) -> None:
    """With the old secret kept for 24 hours, whoever has either accepts the same message; otherwise the old is out."""
    old = endpoint.signing_secret
    kept = client.webhooks.rotate_secret(endpoint.id, keep_old_secret_active_for_24_hours=True).signing_secret
    message = delivered(client, receiver)
    assert kept != old
    assert_accepted(replace(message, secret=old), replace(message, secret=kept))

    new = client.webhooks.rotate_secret(endpoint.id).signing_secret
    message = delivered(client, receiver)
    assert_accepted(replace(message, secret=new))
    assert_refused(NO_MATCH, replace(message, secret=old), replace(message, secret=kept))


def test_npm_accepts_what_a_job_own_url_gets(client: openai.OpenAI, receiver: Receiver, stack: Stack) -> None:
    """A message to the URL that a job named itself is signed with the owner's secret."""
    message = delivered(client, receiver, extra_body={"promptq": {"webhook_url": receiver.url}})
    with stack.client() as http:
        # Shown once only: another test may have seen it.
        rotated = http.post("/v1/webhook_secret/rotate").raise_for_status().json()
    assert_refused(NO_MATCH, replace(message, secret=rotated["signing_secret"]))
    message = delivered(client, receiver, extra_body={"promptq": {"webhook_url": receiver.url}})
    assert_accepted(replace(message, secret=rotated["signing_secret"]))


def test_npm_refuses_a_changed_message(client: openai.OpenAI, receiver: Receiver, endpoint: Any) -> None:
    """Another body, id, time or signature than was sent."""
    message = replace(delivered(client, receiver), secret=endpoint.signing_secret)
    assert_accepted(message)

    def with_header(name: str, value: str) -> Message:
        return replace(message, headers={**message.headers, f"webhook-{name}": value})

    later = str(int(message.headers["webhook-timestamp"]) + 1)
    others = signing.headers("evt_other", int(later), message.body.encode(), [message.secret])
    assert_refused(
        NO_MATCH,
        replace(message, body=message.body.replace("completed", "failed")),
        replace(message, body=message.body + " "),
        with_header("id", message.headers["webhook-id"] + "0"),
        with_header("timestamp", later),
        with_header("signature", others["webhook-signature"]),
        with_header("signature", message.headers["webhook-signature"].replace("v1,", "v1,A")),
    )


def test_npm_refuses_an_old_message(client: openai.OpenAI, receiver: Receiver, endpoint: Any) -> None:
    """The very message that was accepted is refused once it is more than five minutes old, or far ahead of the time."""
    message = replace(delivered(client, receiver), secret=endpoint.signing_secret)
    assert_accepted(message)
    assert_refused(TOO_OLD, replace(message, late=305), replace(message, late=24 * 3600))
    assert_refused(TOO_NEW, replace(message, late=-310))


def test_npm_refuses_another_secret(client: openai.OpenAI, receiver: Receiver, endpoint: Any) -> None:
    """Neither a secret that nobody has nor that of another endpoint fits."""
    message = delivered(client, receiver)
    other = client.webhooks.create(name="other", url=receiver.url, event_types=TYPES)
    client.webhooks.delete(other.id)
    assert_accepted(replace(message, secret=endpoint.signing_secret))
    assert_refused(
        NO_MATCH, replace(message, secret=signing.new_secret()), replace(message, secret=other.signing_secret)
    )
