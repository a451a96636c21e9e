"""A TCP proxy before Redis that loses the replies to chosen steps, after they ran, and cuts connections."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import Self

#: A name of a script in a request may lie across two reads.
_OVERLAP = 64


class LossyProxy:
    """Forwards connections to a port of this machine. A context manager; ``url`` is where it listens."""

    def __init__(self, port: int) -> None:
        self._upstream = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._sha = b""
        self._left = 0
        #: How many replies were lost so far.
        self.lost = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The Redis URL of the proxy."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # On Linux a blocked accept() returns when its socket is shut down, not when it is closed.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()
        self.cut_all()
        for link in self._snapshot():
            link.thread.join(5)

    def lose_replies(self, sha: str, times: int) -> None:
        """Let the next requests that name this script run, swallow their replies and cut their connections.

        The script must be known to Redis already: the reply would otherwise be that it is not.
        """
        with self._lock:
            self._sha, self._left, self.lost = sha.encode(), times, 0

    def cut_all(self) -> None:
        """Cut every connection, wherever it stands."""
        for link in self._snapshot():
            link.cut()

    def _snapshot(self) -> list[_Link]:
        with self._lock:
            return list(self._links)

    def names_the_step(self, sent: bytes) -> bool:
        """Whether the reply to what was sent is to be lost; counts it if so."""
        with self._lock:
            if self._left == 0 or self._sha not in sent:
                return False
            self._left -= 1
            return True

    def count_loss(self) -> None:
        """A reply was lost."""
        with self._lock:
            self.lost += 1

    def ended(self, link: _Link) -> None:
        """Forget a connection."""
        with self._lock:
            self._links.discard(link)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                server = socket.create_connection(self._upstream, timeout=5)
            except OSError:  # Redis is away
                client.close()
                continue
            link = _Link(self, client, server)
            with self._lock:
                self._links.add(link)
            link.thread.start()


class _Link:
    """One connection and its counterpart."""

    def __init__(self, proxy: LossyProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self.thread = threading.Thread(target=self._run, daemon=True)

    def cut(self) -> None:
        """End both sides; the thread closes them."""
        for side in (self._client, self._server):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            with self._client, self._server:
                self._forward()
        except OSError:  # either side was cut
            pass
        finally:
            self._proxy.ended(self)

    def _forward(self) -> None:
        tail, swallow = b"", False
        while True:
            readable, _, _ = select.select([self._client, self._server], [], [])
            if self._client in readable:
                sent = self._client.recv(65536)
                if not sent:
                    return
                if not swallow and self._proxy.names_the_step(tail + sent):
                    swallow = True
                tail = sent[-_OVERLAP:]
                self._server.sendall(sent)
            if self._server in readable:
                reply = self._server.recv(65536)
                if not reply:
                    return
                if swallow:
                    # Redis answers when the whole step has run, so it has.
                    self._proxy.count_loss()
                    return
                self._client.sendall(reply)
                tail = b""  # what comes next is another request
