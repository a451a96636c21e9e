"""A local receiver of webhooks, for development."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final

from cli.client.errors import ClientError
from jobs import signing

_MAX_BODY: Final = 1024 * 1024


@dataclass(frozen=True)
class Received:
    """One message."""

    webhook_id: str | None
    #: None where the body is not a JSON object.
    event: dict[str, Any] | None
    #: Why it is not to be believed; None if it is.
    problem: str | None


def read(headers: Mapping[str, str], body: bytes, secret: str) -> Received:
    """Verify a message and take it apart."""
    problem = None
    try:
        signing.verify(headers, body, secret, now=time.time())
    except signing.NotVerified as error:
        problem = str(error)
    try:
        event = json.loads(body)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        event, problem = None, problem or "the body is not a JSON object"
    return Received(headers.get("webhook-id"), event, problem)


class Receiver:
    """Listens on loopback for as long as the ``with`` lasts; raises `ClientError` if the port is taken.

    Each message, headers by their names in lower case and body, is given to ``take``, and answered 200 if that says so,
    400 if not.
    """

    def __init__(self, port: int, take: Callable[[Mapping[str, str], bytes], bool]) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # the base class's name for it
                length = self.headers.get("Content-Length", "")
                body = self.rfile.read(min(int(length), _MAX_BODY)) if length.isdigit() else b""
                taken = take({name.lower(): value for name, value in self.headers.items()}, body)
                self.send_response(200 if taken else 400)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing: what is to be said, ``take`` says."""

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise ClientError(f"cannot listen on port {port}: {error.strerror} (--port)") from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
