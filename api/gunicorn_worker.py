"""The gunicorn worker of the API: gevent's, with a shutdown that loses nobody and waits for nobody idle."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import gevent
from gunicorn.workers.ggevent import GeventWorker

if TYPE_CHECKING:
    # gunicorn imports this module before gevent has patched anything; Redis and HTTP clients must come after.
    from api.services import Services

#: Waiting callers are answered this many seconds before gunicorn would cut them off.
_MARGIN = 3.0
#: As much of a refused body is read (bytes), and for so long (seconds), before its connection is closed.
_MAX_DISCARDED = 512 * 1024 * 1024
_DISCARD_SECONDS = 30.0
_PIECE = 256 * 1024
_CONTINUE = b"HTTP/1.1 100"
_CHUNKED = b"\r\ntransfer-encoding:"


class DrainingWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """On SIGTERM: unready first, then no new connections, then waiting callers are answered, then the end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Connections that are kept alive between two requests; gunicorn would wait for them until it cuts everybody.
        self._idle: set[socket.socket] = set()

    def handle(self, listener: Any, client: socket.socket, addr: Any) -> None:
        """Serve one connection, for as many requests as it brings."""
        self._idle.add(client)
        try:
            super().handle(listener, client, addr)
        finally:
            self._idle.discard(client)

    def handle_request(self, listener_name: Any, req: Any, sock: socket.socket, addr: Any) -> Any:
        """Answer one request."""
        self._idle.discard(sock)
        together = _Together(sock)
        try:
            answered = super().handle_request(listener_name, req, together, addr)
            together.flush()
            if not _discarded(req.body):
                req.force_close()
            return answered
        finally:
            # The client may be gone, or gunicorn have closed the connection after an error.
            with contextlib.suppress(OSError):
                together.flush()
            self._idle.add(sock)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; gunicorn's own handler follows when load balancers have had time to notice."""
        services: Services = self.wsgi.extensions["promptq"]
        stop_accepting = super().handle_exit
        # What wakes waiting greenlets must not run in the signal handler itself.
        gevent.spawn(self._drain, services, lambda: stop_accepting(sig, frame))

    def _drain(self, services: Services, stop_accepting: Callable[[], None]) -> None:
        services.stopping.set()
        services.waiter.wake_all()
        gevent.sleep(services.settings.drain_seconds)
        stop_accepting()
        answer_by = self.cfg.graceful_timeout - services.settings.drain_seconds - _MARGIN
        while answer_by > 0:
            self._close_idle()
            gevent.sleep(0.25)
            answer_by -= 0.25
        services.closing.set()
        services.waiter.wake_all()
        services.wakeups.wake_all()

    def _close_idle(self) -> None:
        for client in list(self._idle):
            # Its greenlet then reads the end of the stream, and closes it. On a duplicate, since gevent's own shutdown
            # would raise in that greenlet instead. One that the client has closed meanwhile is none of our trouble.
            with contextlib.suppress(OSError), client.dup() as twin:
                twin.shutdown(socket.SHUT_RD)


def _discarded(body: Any) -> bool:
    """Read what is left of a body that was refused, so that its sender reads the answer; False if it is too much.

    gunicorn would do so without an end and in small pieces, with no turn for anybody else.
    """
    if getattr(body.reader, "length", None) == 0:
        return True  # as nearly always
    left = _MAX_DISCARDED
    with gevent.Timeout(_DISCARD_SECONDS, False):  # type: ignore[arg-type]  # the stubs know no False
        while left > 0:
            piece = body.read(_PIECE)
            if not piece:
                return True
            left -= len(piece)
            gevent.sleep(0)
    return False


class _Together:
    """A connection on which the head of an answer waits for its body: one packet and one system call, not two.

    What is sent in chunks is not held up, nor is ``100 Continue``.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._head = b""
        self._begun = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendall(self, data: bytes) -> None:
        """Send what was held and this; or hold this, if it is a head that a body follows at once."""
        if not self._begun and not data.startswith(_CONTINUE):
            self._begun = True
            if _CHUNKED not in data.lower():
                self._head = data
                return
        # Forgotten first: what is cut off in the middle must not be begun again.
        data, self._head = self._head + data, b""
        self._sock.sendall(data)

    def flush(self) -> None:
        """Send what is held: the head of an answer without a body."""
        if self._head:
            head, self._head = self._head, b""
            self._sock.sendall(head)
