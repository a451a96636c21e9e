"""How bytes get to the LLM and back: urllib3's connections below the SDK's httpx2 client.

httpx2's own pool looks at all its connections for each request and each answer, so that a call costs the more CPU the
more of them are in flight (docs/performance.md). This one takes a connection from the top of a stack.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import NoReturn

import httpx2
import urllib3
from urllib3 import exceptions

_CHUNK = 64 * 1024


class StackedTransport(httpx2.BaseTransport):
    """HTTP/1.1 without redirects, retries or proxies. Raises what httpx2's own transport raises."""

    def __init__(self, *, connections: int, verify: ssl.SSLContext) -> None:
        """``connections``: how many are kept open between two calls; there may be more."""
        self._pools = urllib3.PoolManager(num_pools=8, maxsize=connections, block=False, ssl_context=verify)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request, and answer once the head of the response is there; its body is read when asked for."""
        url, limits = request.url, request.extensions.get("timeout", {})
        pool = self._pools.connection_from_host(url.host, url.port, url.scheme)
        try:
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
            headers=[(name, value) for name, value in answer.headers.iteritems()],
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
            yield from self._answer.stream(_CHUNK, decode_content=False)
        except exceptions.HTTPError as error:
            _raise_theirs(error, self._request)

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
