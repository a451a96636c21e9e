"""One try to deliver, against receivers of all kinds."""

from __future__ import annotations

import contextlib
import email.utils
import ipaddress
import select
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from jobs.webhook_urls import Address, Allowed, Refused, Target
from tests.processes import free_port
from worker.webhooks.resolver import Resolver
from worker.webhooks.sender import Answer, Sender

BODY = '{"id": "evt_1", "ü": "€"}'.encode()
HEADERS = {"webhook-id": "evt_1", "webhook-timestamp": "1", "webhook-signature": "v1,x"}
LOOPBACK = ipaddress.ip_address("127.0.0.1")
NOW = 1_750_000_000.0

Script = bytes | Callable[[socket.socket], None]


def ok(body: bytes = b"", status: str = "200 OK", *headers: str) -> bytes:
    """An answer that is whole."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Receiver:
    """Answers one request after the other from a script, the last entry for ever; bytes are sent as they are, and an
    entry that is a function has the connection, which is closed after it."""

    def __init__(self, *script: Script) -> None:
        self.script = list(script or (ok(),))
        self.requests: list[bytes] = []
        self.connections = 0
        self.sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closing, self._wakes = socket.socketpair()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def target(self, path: str = "/hook?a=b", host: str = "hooks.example", scheme: str = "http") -> Target:
        return Target(scheme, host, self.port, path)

    def close(self) -> None:
        self._closing.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        self._listener.close()
        self._wakes.close()

    def over(self, connection: socket.socket) -> bool:
        """Whether the test is over, or there is something to read."""
        ready, _, _ = select.select([connection, self._wakes], [], [])
        return self._wakes in ready

    def _accept(self) -> None:
        while not self.over(self._listener):
            connection, _ = self._listener.accept()
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while request := self._read(connection):
                    self.requests.append(request)
                    step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                    if callable(step):
                        step(connection)
                        return
                    connection.sendall(step)
            except OSError:
                pass  # the sender has gone

    def _read(self, connection: socket.socket) -> bytes:
        request = b""
        while not self.over(connection) and (part := connection.recv(65536)):
            request += part
            head, end, body = request.partition(b"\r\n\r\n")
            if request[:1] == b"\x16":  # TLS
                return request
            if end and len(body) >= int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]):
                return request
        return b""


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiver]]:
    """Starts receivers."""
    running: list[Receiver] = []

    def start(*script: Script) -> Receiver:
        running.append(Receiver(*script))
        return running[-1]

    yield start
    for receiver in running:
        receiver.close()


class At:
    """A resolver that leads every name to one place, or raises."""

    def __init__(self, found: Address | Exception = LOOPBACK) -> None:
        self.found = found

    def address(self, target: Target) -> Address:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.fixture
def sender() -> Iterator[Sender]:
    """A sender that finds every name on this machine."""
    made = Sender(At(), timeout=5, per_host=2, wall_clock=lambda: NOW)
    yield made
    made._pools.clear()


def post(sender: Sender, receiver: Receiver) -> Answer:
    """One try."""
    return sender.post(receiver.target(), BODY, HEADERS)


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202 Accepted", "299 Whatever"])
def test_a_2xx_is_a_success(receive: Callable[..., Receiver], sender: Sender, status: str) -> None:
    """Any 2xx is a success, with a body or without."""
    receiver = receive(ok(b"thanks", status), ok(b"", status))
    for _ in range(2):
        assert post(sender, receiver) == Answer(int(status[:3]), None)


def test_an_answer_without_a_body_is_a_success(receive: Callable[..., Receiver], sender: Sender) -> None:
    """A 204 has no length, and the connection is good for more."""
    receiver = receive(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert [post(sender, receiver) for _ in range(2)] == [Answer(204, None)] * 2
    assert receiver.connections == 1


def test_what_is_sent_is_what_was_signed(receive: Callable[..., Receiver], sender: Sender) -> None:
    """The request is a POST to the path and query, with the URL's host, our headers and the body byte for byte."""
    receiver = receive()
    post(sender, receiver)
    head, _, body = receiver.requests[0].partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in lines)}
    assert line == "POST /hook?a=b HTTP/1.1"
    assert body == BODY
    assert headers["host"] == f"hooks.example:{receiver.port}"
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(BODY))
    assert headers["user-agent"].startswith("PromptQ-Webhooks/")
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert len(headers) == len(lines), "no header twice"
    assert not {"authorization", "cookie", "transfer-encoding"} & set(headers)


@pytest.mark.parametrize("path", ["/", "/a%20b/%C3%BC?x=%2F&y", "//two", "/a/../b", "/?url=https://x.example/"])
def test_the_path_goes_as_it_is(receive: Callable[..., Receiver], sender: Sender, path: str) -> None:
    """Path and query are not changed on the way, and lead to no other host."""
    receiver = receive()
    assert sender.post(receiver.target(path), BODY, HEADERS).error is None
    assert receiver.requests[0].split(b" ")[1] == path.encode()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(receive: Callable[..., Receiver], sender: Sender, status: int) -> None:
    """A receiver that points elsewhere is a failure, and there nobody is asked."""
    elsewhere = receive()
    location = f"Location: http://127.0.0.1:{elsewhere.port}/"
    receiver = receive(ok(b"", f"{status} Moved", location))
    answer = post(sender, receiver)
    assert (answer.status_code, answer.error) == (status, "redirect")
    assert (len(receiver.requests), elsewhere.connections) == (1, 0)


@pytest.mark.parametrize("status", [400, 401, 404, 410, 429, 500, 503])
def test_another_status_is_a_failure(receive: Callable[..., Receiver], sender: Sender, status: int) -> None:
    """A 4xx and a 5xx are told by their number; no word of the answer is kept."""
    answer = post(sender, receive(ok(b"sesame", f"{status} Sesame")))
    assert answer == Answer(status, "http_status", f"HTTP {status}")


def http_date(seconds: float) -> str:
    return email.utils.formatdate(NOW + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("-5", 0.0),
        (http_date(90), 90.0),
        (http_date(-90), 0.0),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("Wed, 99 Foo 2025 25:61:61 GMT", None),
        ("Wed, 21 Oct 99999999999 07:28:00 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 +9999999999999999", None),
    ],
)
def test_retry_after_is_read(
    receive: Callable[..., Receiver], sender: Sender, text: str, seconds: float | None
) -> None:
    """Retry-After is seconds or a date; what makes no sense is none, and no error."""
    answer = post(sender, receive(ok(b"", "429 Slow Down", f"Retry-After: {text}")))
    assert (answer.status_code, answer.retry_after) == (429, seconds)


def test_without_retry_after_there_is_none(receive: Callable[..., Receiver], sender: Sender) -> None:
    """A 503 without the header asks for nothing."""
    assert post(sender, receive(ok(b"", "503 Away"))).retry_after is None


def closing(data: bytes) -> Callable[[socket.socket], None]:
    """Send this and close the connection."""
    return lambda connection: connection.sendall(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n",
        b"220 mail.example ESMTP\r\n",
        b"\x00\xff" * 100,
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 200 + b"\r\n",
    ],
    ids=[
        "nothing",
        "cut",
        "cut-line",
        "cut-header",
        "cut-head",
        "smtp",
        "binary",
        "no-status",
        "long-header",
        "many-headers",
    ],
)
def test_what_is_no_answer_is_a_failure(receive: Callable[..., Receiver], sender: Sender, data: bytes) -> None:
    """A connection that ends before an answer, or brings something else than HTTP, is a failure."""
    answer = post(sender, receive(closing(data)))
    assert (answer.status_code, answer.error) == (None, "bad_answer")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nnot gzip",
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    ],
    ids=["length", "chunk", "no-chunk", "gzip", "http-1.0"],
)
def test_a_2xx_that_breaks_off_in_its_body_is_a_success(
    receive: Callable[..., Receiver], sender: Sender, data: bytes
) -> None:
    """With its status a receiver has taken the message, whatever becomes of the rest; the next try has its own
    connection."""
    receiver = receive(closing(data), ok())
    assert post(sender, receiver) == Answer(200, None)
    assert post(sender, receiver) == Answer(200, None)
    assert receiver.connections == 2


def test_little_is_read_of_a_large_body(receive: Callable[..., Receiver], sender: Sender) -> None:
    """A body without end is read a little and then left; that takes neither memory nor time."""
    sent: list[int] = []

    def flood(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        total = 0
        try:
            while total < 200_000_000:
                total += connection.send(b"x" * 65536)
        except OSError:
            pass  # the sender has closed
        sent.append(total)

    receiver = receive(flood)
    assert post(sender, receiver) == Answer(200, None)
    receiver.close()
    assert sent[0] < 100_000_000, "what the kernels buffer, and no more"


@pytest.mark.parametrize(
    ("begin", "flood"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n" * 5000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a" * 10_000),
    ],
    ids=["interim answers", "trailers", "an extension of a chunk"],
)
def test_an_answer_without_end_is_left(
    receive: Callable[..., Receiver], sender: Sender, begin: bytes, flood: bytes
) -> None:
    """Whatever a receiver sends for ever, little of it is read, and the connection is closed."""
    left = threading.Event()

    def send_for_ever(connection: socket.socket) -> None:
        try:
            connection.sendall(begin)
            while True:
                connection.sendall(flood)
        except OSError:
            left.set()

    answer = post(sender, receive(send_for_ever))
    assert answer == (Answer(200, None) if begin else Answer(None, "bad_answer", answer.detail))
    assert left.wait(10)


def test_a_flood_lets_others_go_on(receive: Callable[..., Receiver]) -> None:
    """While a receiver floods a worker with all that it can send, its other greenlets run, and the time limit holds."""

    def flood(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

    program = """
        from gevent import monkey; monkey.patch_all()
        import gevent, ipaddress, sys, time
        from jobs.webhook_urls import Target
        from worker.webhooks import metered
        from worker.webhooks.sender import Sender

        metered.MOST_BYTES = 10**12  # only the time limit ends it

        class At:
            def address(self, target):
                return ipaddress.ip_address("127.0.0.1")

        longest, last = 0.0, time.monotonic()
        def tick():
            global longest, last
            while True:
                gevent.sleep(0.01)
                longest, last = max(longest, time.monotonic() - last), time.monotonic()

        gevent.spawn(tick)
        sender = Sender(At(), timeout=1, per_host=20)
        answer = sender.post(Target("http", "h", int(sys.argv[1]), "/"), b"{}", {})
        print(answer.error, longest < 0.5)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(receive(flood).port)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.stdout.strip() == "timeout True", found.stdout + found.stderr


def test_connections_are_used_again(receive: Callable[..., Receiver], sender: Sender) -> None:
    """Messages to one receiver share a connection, also after failures and bodies."""
    receiver = receive(ok(b"x" * 1000), ok(b"", "500 Broken"), ok(b"{}", "404 None"), ok())
    assert [post(sender, receiver).status_code for _ in range(5)] == [200, 500, 404, 200, 200]
    assert (receiver.connections, len(receiver.requests)) == (1, 5)


def test_a_connection_that_was_closed_meanwhile_is_no_failure(receive: Callable[..., Receiver], sender: Sender) -> None:
    """A receiver may close what it kept open: the next message has a new connection."""
    closed = threading.Event()

    def once(connection: socket.socket) -> None:
        connection.sendall(ok())
        connection.shutdown(socket.SHUT_WR)
        closed.set()

    receiver = receive(once, ok())
    assert post(sender, receiver) == Answer(200, None)
    assert closed.wait(5)
    assert post(sender, receiver) == Answer(200, None)
    assert receiver.connections == 2


def test_nobody_listens(sender: Sender) -> None:
    """A refused connection is told from an answer that was none."""
    answer = sender.post(Target("http", "hooks.example", free_port(), "/"), BODY, HEADERS)
    assert (answer.status_code, answer.error) == (None, "connection_failed")


def test_https_to_a_plain_server(receive: Callable[..., Receiver], sender: Sender) -> None:
    """A receiver that does not speak TLS gets no message."""
    receiver = receive(ok(b"", "400 Bad Request"))
    answer = sender.post(receiver.target(scheme="https"), BODY, HEADERS)
    assert (answer.status_code, answer.error) == (None, "tls_failed")
    assert b"evt_1" not in b"".join(receiver.requests)


def test_no_answer_in_time(receive: Callable[..., Receiver]) -> None:
    """A receiver that takes the message and says nothing is a time-out."""
    done = threading.Event()
    receiver = receive(lambda _: done.wait(10) and None)
    sender = Sender(At(), timeout=0.2, per_host=1)
    try:
        assert post(sender, receiver) == Answer(None, "timeout", "no answer within 0.2 s")
    finally:
        done.set()


def test_the_time_out_is_for_all_together() -> None:
    """A receiver that sends a byte now and then is ended when the whole try has taken too long."""
    program = """
        from gevent import monkey; monkey.patch_all()
        import gevent, ipaddress, time
        from gevent.server import StreamServer
        from jobs.webhook_urls import Target
        from worker.webhooks.sender import Sender

        def drip(connection, _):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nX: ")
            while True:
                connection.sendall(b"x")
                gevent.sleep(0.05)

        class At:
            def address(self, target):
                return ipaddress.ip_address("127.0.0.1")

        server = StreamServer(("127.0.0.1", 0), drip)
        server.start()
        began = time.monotonic()
        answer = Sender(At(), timeout=0.5, per_host=1).post(Target("http", "h", server.server_port, "/"), b"{}", {})
        print(answer.error, time.monotonic() - began < 20)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.stdout.split() == ["timeout", "True"], found.stderr


@pytest.mark.parametrize(
    ("trouble", "error", "detail"),
    [
        (Refused("the host is a private address"), "url_refused", "the host is a private address"),
        (socket.gaierror(-2, "Name or service not known"), "dns_failed", "the host's name has no address"),
        (OSError("the host has no address"), "dns_failed", "the host's name has no address"),
    ],
)
def test_a_name_that_leads_nowhere(trouble: Exception, error: str, detail: str) -> None:
    """A host without an address, or with one that is refused, is told apart, and nobody is connected to."""
    assert Sender(At(trouble), timeout=5, per_host=1).post(
        Target("https", "hooks.example", 443, "/"), BODY, HEADERS
    ) == Answer(None, error, detail)


def test_what_was_checked_is_what_is_connected_to(receive: Callable[..., Receiver]) -> None:
    """The name is looked up once for a try, the connection goes to the address that was checked, and a DNS that answers
    otherwise later leads nowhere, though a connection to the first place is open."""
    receiver, asked, now = receive(), [], [0.0]

    def rebinding(host: str, _: int) -> Sequence[Address]:
        asked.append(host)
        return [ipaddress.ip_address("127.0.0.1" if len(asked) == 1 else "127.0.0.2")]

    resolver = Resolver(Allowed.parse(["127.0.0.1"]), rebinding, clock=lambda: now[0])
    sender = Sender(resolver, timeout=5, per_host=1)
    target = receiver.target(host="rebind.invalid")
    assert sender.post(target, BODY, HEADERS) == Answer(200, None), "no other lookup would have found it"
    assert asked == ["rebind.invalid"]
    now[0] += 3600
    answer = sender.post(target, BODY, HEADERS)
    assert (answer.error, answer.status_code) == ("url_refused", None)
    assert (len(asked), len(receiver.requests)) == (2, 1)


def test_no_proxy_is_asked(receive: Callable[..., Receiver], sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment, which would look the name up itself, is not used."""
    proxy, receiver = receive(), receive()
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    fresh = Sender(At(), timeout=5, per_host=1)
    assert [post(one, receiver).error for one in (sender, fresh)] == [None, None]
    assert (proxy.connections, len(receiver.requests)) == (0, 2)


def test_no_password_of_the_environment_is_sent(
    receive: Callable[..., Receiver], sender: Sender, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """What ~/.netrc knows of the host stays here."""
    (netrc := tmp_path / "netrc").write_text("machine hooks.example login ann password sesame\n")  # type: ignore[operator]
    monkeypatch.setenv("NETRC", str(netrc))
    receiver = receive()
    post(sender, receiver)
    assert b"uthorization" not in receiver.requests[0]
