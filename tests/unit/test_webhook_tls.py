"""Webhooks by https: connected to by address, believed by name."""

from __future__ import annotations

import ipaddress
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from jobs.webhook_urls import Allowed, parse
from tests.certificates import self_signed
from worker.webhooks.resolver import Resolver
from worker.webhooks.sender import Answer, Sender

NAME = "hooks.example.com"
LOOPBACK = Allowed.parse(["127.0.0.0/8"])


class Handler(BaseHTTPRequestHandler):
    """Answers 200, and notes what was asked for."""

    hosts: list[str]

    def do_POST(self) -> None:
        """Note the host and answer."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.hosts.append(self.headers["Host"])  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    """A receiver with a certificate for NAME; ``sni`` is what clients named in the handshake."""

    def __init__(self, certificate: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hosts: list[str] = []
        self.sni: list[str | None] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.sni_callback = lambda _, name, __: self.sni.append(name)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: refused handshakes are meant."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running receiver; ``tmp_path / 'own.pem'`` is its certificate, which signs itself."""
    self_signed(tmp_path / "own.pem", NAME)
    receiver = Server(tmp_path / "own.pem")
    thread = threading.Thread(target=receiver.serve_forever, daemon=True)
    thread.start()
    yield receiver
    receiver.shutdown()
    receiver.server_close()
    thread.join(5)


def post(port: int, name: str = NAME) -> Answer:
    """One try, with a DNS that leads the name to this machine."""
    resolver = Resolver(LOOPBACK, lookup=lambda _, __: [ipaddress.ip_address("127.0.0.1")])
    sender = Sender(resolver, timeout=10, per_host=1)
    return sender.post(parse(f"https://{name}:{port}/x", LOOPBACK), b"{}", {"webhook-id": "evt_1"})


def test_the_name_is_asked_for_and_verified_though_the_connection_goes_to_an_address(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a certificate for the URL's name, by an authority that the system trusts, the message arrives."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem"))
    port = server.server_address[1]
    assert post(port) == Answer(200, None)
    assert server.sni == [NAME]
    assert server.hosts == [f"{NAME}:{port}"]


def test_a_certificate_for_another_name_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate must be for the host that the URL names."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem"))
    assert post(server.server_address[1], "other.example.com").error == "tls_failed"
    assert server.hosts == []


def test_a_certificate_of_nobody_is_refused(server: Server) -> None:
    """The certificate must come of an authority that the system trusts."""
    assert post(server.server_address[1]).error == "tls_failed"
    assert server.hosts == []
