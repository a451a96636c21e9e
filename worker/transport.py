"""How bytes get to the LLM and back: urllib3's connections below the SDK's httpx2 client.

httpx2's own pool looks at all its connections for each request and each answer, so that a call costs the more CPU the
more of them are in flight (docs/performance.md). This one takes a connection from the top of a stack.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import httpx2
import urllib3
from urllib3 import connection, connectionpool, exceptions

_CHUNK: Final = 64 * 1024
#: How long (seconds) a connection may have been idle to be used again: less than servers keep them for (uvicorn: 5),
#: and than a NAT does, which forgets without a word.
_IDLE: Final = 4.0


class _Response(http.client.HTTPResponse):
    """An answer behind any number of heads that only inform (1xx); Python skips ``100`` alone, and would take another
    for the answer, and the answer for that of the next request."""

    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc]
        informs = http.client.CONTINUE <= status < http.client.OK
        return version, http.client.CONTINUE if informs else status, reason


class _Sending:
    """A connection that has as long for sending as the request says; urllib3 would give it the time for connecting."""

    write_timeout: float | None = None
    idle_since = 0.0
    sock: Any

    def send(self, data: Any) -> None:
        """Send, connected first if need be."""
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]
        self.sock.settimeout(self.write_timeout)
        super().send(data)  # type: ignore[misc]


class _PlainConnection(_Sending, connection.HTTPConnection):
    response_class = _Response


class _SecureConnection(_Sending, connection.HTTPSConnection):
    response_class = _Response


class _Stack:
    """A pool that gives no connection out again that was idle for too long."""

    write_timeout: float | None = None

    def _get_conn(self, timeout: float | None = None) -> Any:
        found = super()._get_conn(timeout)  # type: ignore[misc]
        if found.sock is not None and time.monotonic() - found.idle_since > _IDLE:
            found.close()
        found.write_timeout = self.write_timeout
        return found

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.idle_since = time.monotonic()
        super()._put_conn(conn)  # type: ignore[misc]


class _PlainStack(_Stack, connectionpool.HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _SecureStack(_Stack, connectionpool.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class StackedTransport(httpx2.BaseTransport):
    """HTTP/1.1 without redirects, retries or proxies. Raises what httpx2's own transport raises."""

    def __init__(self, *, connections: int, verify: ssl.SSLContext) -> None:
        """``connections``: how many are kept open between two calls; there may be more."""
        self._pools = urllib3.PoolManager(num_pools=8, maxsize=connections, block=False, ssl_context=verify)
        self._pools.pool_classes_by_scheme = {"http": _PlainStack, "https": _SecureStack}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request, and answer once the head of the response is there; its body is read when asked for."""
        url, limits = request.url, request.extensions.get("timeout", {})
        try:
            pool: Any = self._pools.connection_from_host(url.host, url.port, url.scheme)
            pool.write_timeout = limits.get("write")
            answer = pool.urlopen(
                request.method,
                url.raw_path.decode("ascii"),
                body=request.read() or None,
                headers={name.decode("ascii"): value.decode("latin-1") for name, value in request.headers.raw},
                timeout=urllib3.Timeout(connect=limits.get("connect"), read=limits.get("read")),
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
            )
        except exceptions.HTTPError as error:
            _raise_theirs(error, request)
        return httpx2.Response(
            answer.status,
            # Bytes: httpx2 would refuse what is not ASCII, and Python reads headers as Latin-1.
            headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.iteritems()],
            stream=_Body(answer, request),
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": (answer.reason or "").encode("latin-1")},
        )

    def close(self) -> None:
        """Close what is idle; what is in flight is closed when it ends."""
        self._pools.clear()


class _Body(httpx2.SyncByteStream):
    def __init__(self, answer: urllib3.BaseHTTPResponse, request: httpx2.Request) -> None:
        self._answer = answer
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._pieces()
        except exceptions.HTTPError as error:
            _raise_theirs(error, self._request)

    def _pieces(self) -> Iterator[bytes]:
        answer: Any = self._answer
        if answer.chunked or "content-length" in answer.headers:
            yield from answer.stream(_CHUNK, decode_content=False)
            return
        # It ends with the connection: it may be a stream, of which nothing may wait for more.
        while piece := answer.read1(_CHUNK, decode_content=False):
            yield piece

    def close(self) -> None:
        # Read to its end, it has gone back to the stack by itself, and this does nothing to the connection.
        self._answer.close()


def _raise_theirs(error: exceptions.HTTPError, request: httpx2.Request) -> NoReturn:
    """Raise httpx2's exception for one of urllib3's; the SDK knows no others."""
    raise _theirs(error)(str(error), request=request) from error


def _theirs(error: exceptions.HTTPError) -> type[httpx2.TransportError]:
    match error:
        # urllib3 counts a connection that is refused among its connect timeouts.
        case exceptions.NewConnectionError() | exceptions.SSLError():
            return httpx2.ConnectError
        case exceptions.ConnectTimeoutError():
            return httpx2.ConnectTimeout
        case exceptions.TimeoutError():
            return httpx2.ReadTimeout
        case exceptions.ProtocolError():
            return httpx2.RemoteProtocolError
    return httpx2.TransportError
