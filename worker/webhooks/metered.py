"""HTTP connections that read no more of an answer than they must, and let others go on meanwhile.

Python's ``http.client`` reads any number of interim answers (``100 Continue``) and trailers, and takes a head that
breaks off for a whole one. A receiver could so keep a worker busy for ever, or be believed to have answered.
"""

from __future__ import annotations

import io
import socket
from http.client import HTTPException, HTTPResponse, RemoteDisconnected
from typing import Any, Final

import gevent
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

#: What is read of one answer in all: interim answers, head, body, trailers.
MOST_BYTES: Final = 128 * 1024
#: Reads (of up to 8 kB) without a break: a usual answer takes two, and a break costs as much as all the rest of it.
_READS_AT_A_TIME: Final = 8


class TooMuch(HTTPException):
    """Raised when an answer goes on for too long."""


class _Meter(io.RawIOBase):
    """A socket's bytes, counted."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._left = MOST_BYTES
        self._reads = 0
        #: Whether the connection must not end now.
        self.in_head = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._reads += 1
        if self._reads % _READS_AT_A_TIME == 0:
            # While bytes are there gevent's sockets do not yield: nobody else would run, and no time limit hold.
            gevent.sleep(0)
        count: int | None = self._raw.readinto(buffer)
        if not count and self.in_head:
            raise RemoteDisconnected("the connection ended before the answer's head did")
        self._left -= count or 0
        if self._left < 0:
            raise TooMuch("the answer is too long")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Metered:
    """What ``HTTPResponse`` needs of a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.meter = _Meter(sock.makefile("rb", buffering=0))

    def makefile(self, _: str) -> io.BufferedReader:
        return io.BufferedReader(self.meter)


class _Answer(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        metered = _Metered(sock)
        self._meter = metered.meter
        super().__init__(metered, *args, **kwargs)  # type: ignore[arg-type]  # it calls nothing but ``makefile``

    def begin(self) -> None:
        """Read the head."""
        super().begin()
        self._meter.in_head = False


class _Plain(HTTPConnection):
    response_class = _Answer


class _Secure(HTTPSConnection):
    response_class = _Answer


class PlainPool(HTTPConnectionPool):
    """Of connections without TLS."""

    ConnectionCls = _Plain


class SecurePool(HTTPSConnectionPool):
    """Of connections with TLS."""

    ConnectionCls = _Secure
