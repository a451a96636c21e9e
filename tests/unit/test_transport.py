"""The LLM client's connections, against servers that do what servers do."""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from jobs.settings import Settings
from tests.certificates import self_signed
from tests.processes import eventually, free_port
from worker.llm import LLMClient
from worker.transport import StackedTransport

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Server:
    """Answers each request with the same bytes, or does ``act`` with the connection."""

    def __init__(
        self,
        answer: bytes = ANSWER,
        act: Callable[[socket.socket], object] | None = None,
        wrap: Callable[[socket.socket], socket.socket] = lambda connection: connection,
    ) -> None:
        self.answer, self.act, self.wrap = answer, act, wrap
        #: What the last piece of a request ends with.
        self.last = b"}"
        self.connections, self.closed, self.requests = 0, 0, bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1/responses?a=b"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, accepted: socket.socket) -> None:
        with contextlib.suppress(OSError), self.wrap(accepted) as connection:
            while chunk := connection.recv(65536):
                self.requests += chunk
                if not chunk.endswith(self.last):
                    continue
                if self.act is not None:
                    self.act(connection)
                    break
                connection.sendall(self.answer)
        self.closed += 1

    def end(self) -> None:
        """Listen no more."""
        self._listener.close()


@pytest.fixture
def client() -> Iterator[httpx2.Client]:
    """A client on such connections."""
    transport = StackedTransport(connections=10, verify=httpx2.create_ssl_context())
    with httpx2.Client(transport=transport, timeout=5) as made:
        yield made


def test_a_request_goes_out_as_it_is_and_the_answer_comes_as_it_is(client: httpx2.Client) -> None:
    """Method, path with its query, headers and body; status, repeated headers and a compressed body."""
    body = gzip.compress(b'{"a": 1}')
    head = (
        f"HTTP/1.1 429 Slow Down\r\nContent-Encoding: gzip\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    server = Server(head.encode() + body)
    got = client.post(server.url, content=b"{}", headers={"X-Sent": "ü".encode(), "Content-Type": "application/json"})
    assert (got.status_code, got.json(), got.headers.get_list("x-a")) == (429, {"a": 1}, ["1", "2"])
    line, *headers = server.requests.split(b"\r\n")
    assert line == b"POST /v1/responses?a=b HTTP/1.1"
    sent = [header.lower() for header in headers]
    assert b"x-sent: \xc3\xbc" in sent
    assert sum(header.startswith(b"host: 127.0.0.1:") for header in sent) == 1
    assert sum(header.startswith(b"content-length: 2") for header in sent) == 1
    assert headers[-1] == b"{}"
    server.end()


def test_a_connection_is_used_again_and_a_stale_one_is_not(client: httpx2.Client) -> None:
    """Calls that follow each other take one connection, until the server has closed it."""
    server = Server()
    for _ in range(3):
        assert client.post(server.url, content=b"{}").status_code == 200
    assert server.connections == 1
    closing = Server(act=lambda connection: connection.sendall(ANSWER))
    for number in range(3):
        eventually(lambda number=number: closing.closed == number)  # type: ignore[misc]
        assert client.post(closing.url, content=b"{}").status_code == 200
    assert closing.connections == 3


@pytest.mark.parametrize("informs", ["102 Processing", "103 Early Hints\r\nLink: </a>", "100 Continue"])
def test_a_head_that_informs_is_not_the_answer(client: httpx2.Client, informs: str) -> None:
    """Any number of 1xx come before the answer, which is that of its own request and of no other."""
    server = Server(f"HTTP/1.1 {informs}\r\n\r\n".encode() * 3 + ANSWER)
    for _ in range(2):
        got = client.post(server.url, content=b"{}")
        assert (got.status_code, got.content) == (200, b"{}")
    assert server.connections == 1
    server.end()


def test_headers_of_any_bytes_are_taken(client: httpx2.Client) -> None:
    """A header that is not ASCII costs nobody an answer."""
    server = Server("HTTP/1.1 200 OK\r\nX-Model: Qwün-通\r\nContent-Length: 2\r\n\r\n{}".encode())
    got = client.post(server.url, content=b"{}")
    assert (got.status_code, got.headers["x-model"]) == (200, "Qwün-通")
    server.end()


def test_sending_has_its_own_time_limit(client: httpx2.Client) -> None:
    """A server that reads late gets a large body all the same, on a new connection and on one that is used again; one
    that never reads is given up."""
    server = Server(wrap=read_late)
    limit = httpx2.Timeout(5, connect=0.3)
    for _ in range(2):
        assert client.post(server.url, content=b" " * 20_000_000 + b"{}", timeout=limit).status_code == 200
    server.end()
    deaf = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
    with pytest.raises(httpx2.TransportError):
        client.post(url, content=b" " * 20_000_000, timeout=httpx2.Timeout(5, write=0.3))
    deaf.close()


def read_late(connection: socket.socket) -> socket.socket:
    """Begin to read after a while."""
    time.sleep(1)
    return connection


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is in between may have forgotten it."""
    server = Server()
    assert client.post(server.url, content=b"{}").status_code == 200
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 5)
    assert client.post(server.url, content=b"{}").status_code == 200
    assert server.connections == 2
    server.end()


def test_redirects_are_followed_by_the_client_alone(client: httpx2.Client) -> None:
    """What the server says is answered; where it points to is not asked."""
    server = Server(b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")
    assert client.post(server.url, content=b"{}").status_code == 307


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda connection: None, httpx2.RemoteProtocolError),
        (_reset, httpx2.RemoteProtocolError),
        (lambda connection: connection.sendall(ANSWER[:-1]), httpx2.RemoteProtocolError),
        (lambda connection: connection.sendall(b"nonsense\r\n\r\n"), httpx2.RemoteProtocolError),
        (lambda connection: connection.recv(1), httpx2.ReadTimeout),
        (lambda connection: (connection.sendall(ANSWER[:-1]), connection.recv(1)), httpx2.ReadTimeout),
    ],
    ids=["closed", "reset", "cut", "nonsense", "silent", "silent in the body"],
)
def test_trouble_has_the_name_that_the_sdk_knows(
    client: httpx2.Client, act: Callable[[socket.socket], object], error: type[Exception]
) -> None:
    """Each is httpx2's own exception, as its own transport would raise it."""
    server = Server(act=act)
    with pytest.raises(error):
        client.post(server.url, content=b"{}", timeout=0.5)
    server.end()


def test_nobody_there_and_no_tls_there(client: httpx2.Client) -> None:
    """A refused connection, a name that there is not, and a server that speaks no TLS."""
    server = Server()
    server.last = b""  # of what is no request
    for url in (
        f"http://127.0.0.1:{free_port()}/",
        "http://llm.invalid/",
        server.url.replace("http:", "https:"),
    ):
        with pytest.raises(httpx2.ConnectError):
            client.post(url, content=b"{}")
    server.end()


@pytest.mark.parametrize(
    ("name", "trusted", "taken"),
    [("localhost", True, True), ("localhost", False, False), ("other.example.com", True, False)],
    ids=["trusted", "of nobody", "for another name"],
)
def test_certificates_are_checked_as_the_sdk_checks_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, trusted: bool, taken: bool
) -> None:
    """A call is made to a server whose certificate is for its name and by an authority that the system trusts."""
    self_signed(tmp_path / "own.pem", name)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.pem")
    server = Server(wrap=lambda connection: context.wrap_socket(connection, server_side=True))
    url = server.url.replace("http://127.0.0.1", "https://localhost")
    transport = StackedTransport(connections=10, verify=httpx2.create_ssl_context())
    with httpx2.Client(transport=transport, timeout=5) as client:
        if taken:
            assert client.post(url, content=b"{}").status_code == 200
        else:
            with pytest.raises(httpx2.ConnectError, match="certificate"):
                client.post(url, content=b"{}")
    server.end()


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With a proxy in the environment the SDK's own connections go through it, as without us."""
    made: list[httpx2.Client] = []
    LLMClient.from_settings(Settings(openai_base_url="http://127.0.0.1:1/v1"), made.append)
    monkeypatch.setenv(name, "http://127.0.0.1:3128")
    LLMClient.from_settings(Settings(openai_base_url="http://127.0.0.1:1/v1"), made.append)
    assert [isinstance(client._transport, StackedTransport) for client in made] == [True, False]


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "until it is closed"])
def test_a_piece_of_a_stream_is_there_when_it_came(client: httpx2.Client, chunked: bool) -> None:
    """Nothing waits for the next piece, however the end of the body is told."""
    read = threading.Event()

    def act(connection: socket.socket) -> None:
        how = b"Transfer-Encoding: chunked" if chunked else b"Connection: close"
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + how + b"\r\n\r\n")
        for piece in (b"one", b"two"):
            connection.sendall(b"3\r\n%s\r\n" % piece if chunked else piece)
            assert read.wait(5)
            read.clear()
        connection.sendall(b"0\r\n\r\n" if chunked else b"")

    server = Server(act=act)
    with client.stream("POST", server.url, content=b"{}") as answer:
        pieces = []
        for piece in answer.iter_raw():
            pieces.append(piece)
            read.set()
    assert pieces == [b"one", b"two"]
    server.end()
