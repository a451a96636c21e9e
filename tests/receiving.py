"""A receiver of webhooks for tests: it keeps what comes, and answers as a test wants it to."""

from __future__ import annotations

import contextlib
import functools
import json
import select
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

import httpx2
import openai
import standardwebhooks

from tests.processes import eventually

#: ``whole``: an answer as it should be. ``hang``: none before ``Receiver.release``, then a whole one. ``close``: the
#: connection ends before an answer. ``cut_head``, ``cut_body``: it ends within. ``drip``: a head without an end.
Way = Literal["whole", "hang", "close", "cut_head", "cut_body", "drip"]


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    #: Seconds before it.
    delay: float = 0.0
    way: Way = "whole"


OK = Reply()


@dataclass(frozen=True)
class Request:
    """What came."""

    #: Of the monotonic clock, and Unix seconds: when it had come whole.
    at: float
    wall: float
    path: str
    #: By names in lower case.
    headers: Mapping[str, str]
    body: bytes
    #: The status that it was answered with, or is to be.
    status: int

    @property
    def webhook_id(self) -> str:
        """Which event it is, over all tries."""
        return self.headers["webhook-id"]

    @property
    def event(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def about(self) -> str:
        """The job or response whose end it tells of."""
        return str(self.event["data"]["id"])


def unwrap(body: bytes, headers: Mapping[str, str], secret: str) -> Any:
    """What the openai SDK makes of a message. Raises where the SDK or ``standardwebhooks`` refuses it."""
    standardwebhooks.Webhook(secret).verify(body, dict(headers))
    return _sdk().webhooks.unwrap(body, headers, secret=secret)


@functools.cache
def _sdk() -> openai.OpenAI:
    return openai.OpenAI(api_key="unused")  # it takes a while to make, and calls nobody


class Receiver:
    """Listens on loopback, on a port that it keeps over ``stop`` and ``start``. It believes everything: ``verified`` is
    for the test to call.

    ``answers`` says how a request is answered, by the tries of the same event before it.
    """

    def __init__(self, *replies: Reply) -> None:
        """``replies``: the first for the first try of each event, and so on; the last one for all that follow."""
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._slips: list[BaseException] = []
        self._server: _Server | None = None
        self._port = 0
        self._released = threading.Event()
        self.answers: Callable[[int], Reply] = _in_turn(replies or (OK,))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        assert not self._slips, self._slips

    @property
    def host(self) -> str:
        """Where it listens, as the ``Host`` header has it."""
        return f"127.0.0.1:{self._port}"

    def url(self, path: str = "/") -> str:
        """A URL at which it listens."""
        return f"http://{self.host}{path}"

    def answer(self, *replies: Reply) -> None:
        """Answer so from now on; as in the constructor."""
        self.answers = _in_turn(replies)

    def release(self, *replies: Reply) -> None:
        """Let what hangs be answered, and answer so from now on."""
        self.answer(*(replies or (OK,)))
        self._released.set()

    def start(self) -> None:
        """Listen, on the same port as before."""
        assert self._server is None, "it listens already"
        self._released.clear()
        self._server = _Server(self, self._port)
        self._port = self._server.server_address[1]

    def stop(self) -> None:
        """Break off all connections, and refuse new ones."""
        if self._server is not None:
            self._server.end()
            self._server = None

    def requests(self) -> list[Request]:
        """All that has come, the oldest first."""
        with self._lock:
            return list(self._requests)

    def events(self) -> list[Any]:
        """The bodies of all that has come, as JSON."""
        return [request.event for request in self.requests()]

    def by_id(self) -> dict[str, list[Request]]:
        """All tries of each event by its ``webhook-id``."""
        found: dict[str, list[Request]] = defaultdict(list)
        for request in self.requests():
            found[request.webhook_id].append(request)
        return dict(found)

    def about(self, job_id: str) -> list[Request]:
        """All that has come about a job."""
        return [request for request in self.requests() if request.about == job_id]

    def told(self, job_id: str, *, times: int = 1, within: float = 20.0) -> list[Request]:
        """All that has come about a job, once it is so many requests."""
        return eventually(lambda: self.about(job_id), lambda found: len(found) >= times, within=within)

    def verified(self, secret: str) -> list[Any]:
        """All that has come, as the openai SDK's events. Raises where the SDK or ``standardwebhooks`` refuses one."""
        return [unwrap(request.body, request.headers, secret) for request in self.requests()]

    def _keep(self, headers: Mapping[str, str], path: str, body: bytes) -> Reply:
        with self._lock:
            webhook_id = headers.get("webhook-id")
            before = sum(request.headers.get("webhook-id") == webhook_id for request in self._requests)
            reply = self.answers(before)
            self._requests.append(Request(time.monotonic(), time.time(), path, headers, body, reply.status))
        return reply

    def _slipped(self, error: BaseException) -> None:
        with self._lock:
            self._slips.append(error)


def _in_turn(replies: Sequence[Reply]) -> Callable[[int], Reply]:
    return lambda before: replies[min(before, len(replies) - 1)]


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # joined when it ends
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, receiver: Receiver, port: int) -> None:
        self.receiver = receiver
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def end(self) -> None:
        self.stopping.set()
        self.shutdown()
        self._thread.join()
        self.socket.close()  # nobody waits in the backlog for an answer
        with self._open_lock:
            for connection in self._open:
                _break_off(connection)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """What a client or a test breaks off is no mistake; anything else is ours."""


def _break_off(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client may have been first
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:  # the base class's name for it
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        receiver = self.server.receiver
        reply = receiver._keep({name.lower(): value for name, value in self.headers.items()}, self.path, body)
        try:
            self._answer(receiver, reply)
        except OSError:
            self.close_connection = True  # the client has gone
        except Exception as error:
            receiver._slipped(error)
            raise

    do_GET = do_POST  # noqa: N815  # what follows a redirect may come so

    def _answer(self, receiver: Receiver, reply: Reply) -> None:
        if reply.delay and not self._stay(lambda: False, reply.delay):
            return
        head = f"HTTP/1.1 {reply.status} X\r\n"
        match reply.way:
            case "hang":
                if self._stay(receiver._released.is_set, None):
                    self._whole(receiver.answers(1 << 30))
            case "close":
                self._close()
            case "cut_head":
                self.wfile.write(head.encode()[:10])  # within the status
                self._close()
            case "cut_body":
                self.wfile.write(head.encode() + b"Content-Length: 1000\r\n\r\n" + b"x" * 500)
                self._close()
            case "drip":
                self.wfile.write(head.encode() + b"X-Drip: ")
                while self._stay(receiver._released.is_set, 0.1):
                    self.wfile.write(b"x")
                self._close()
            case "whole":
                self._whole(reply)

    def _whole(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def _stay(self, until: Callable[[], bool], seconds: float | None) -> bool:
        """Wait, and answer whether the client and the server are still there after it."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self.server.stopping.is_set():
            if until() or (deadline is not None and time.monotonic() >= deadline):
                return True
            if select.select([self.connection], [], [], 0.02)[0]:
                break  # it has gone: there is nothing more to read of it
        self.close_connection = True
        return False

    def _close(self) -> None:
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Nothing: what has come, ``requests`` tells."""


@dataclass(frozen=True)
class Hook:
    """A webhook endpoint that leads to a receiver, or whatever else is signed with one secret and comes there."""

    receiver: Receiver
    endpoint_id: str
    secret: str

    def told(self, job_id: str, *, times: int = 1, within: float = 20.0) -> Request:
        """The last that has come about a job, once it is so many requests: all of the same event, word for word, and
        signed so that the openai SDK and ``standardwebhooks`` believe it."""
        found = self.receiver.told(job_id, times=times, within=within)
        assert len({(request.webhook_id, request.body) for request in found}) == 1, found
        self.receiver.verified(self.secret)
        return found[-1]


def register(client: httpx2.Client, receiver: Receiver, *event_types: str, path: str = "/") -> Hook:
    """Make an endpoint of the receiver, for these events or for all."""
    types = event_types or client.get("/v1/webhook_event_types").raise_for_status().json()["data"]
    body = {"name": "a test's", "url": receiver.url(path), "event_types": types}
    made = client.post("/v1/webhook_endpoints", json=body)
    assert made.status_code == 200, made.text
    return Hook(receiver, made.json()["id"], made.json()["signing_secret"])
