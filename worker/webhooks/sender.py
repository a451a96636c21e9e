"""One try to deliver a message: one POST to an address that was checked, and no step further."""

from __future__ import annotations

import contextlib
import email.utils
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import gevent
import urllib3
from urllib3.exceptions import HTTPError, NewConnectionError, SSLError
from urllib3.exceptions import TimeoutError as HTTPTimeout

from jobs import __version__
from jobs.webhook_urls import Address, Refused, Target
from worker.webhooks.metered import PlainPool, SecurePool

#: Receivers that connections are kept open to.
_RECEIVERS: Final = 1000
#: What is read of an answer's body, and for how long, for the sake of the connection; it says nothing to us.
_BODY_BYTES: Final = 16 * 1024
_BODY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a try brought."""

    #: The receiver's HTTP status; None if it gave none.
    status_code: int | None
    #: A word for what went wrong; None after a 2xx.
    error: str | None
    #: What more there is to say of it: never what was sent or answered.
    detail: str | None = None
    #: Seconds that the receiver asks us to wait; None if it does not.
    retry_after: float | None = None


class Addresses(Protocol):
    """What a sender needs of a resolver."""

    def address(self, target: Target) -> Address:
        """The address to connect to, or ``Refused``, or ``OSError``."""


class Sender:
    """Posts to receivers, over connections that it keeps; a receiver is an address under a name."""

    def __init__(
        self, addresses: Addresses, *, timeout: float, per_host: int, wall_clock: Callable[[], float] = time.time
    ) -> None:
        """``timeout``: seconds for a try in all, looking up the host included."""
        self._addresses = addresses
        self._timeout = timeout
        self._per_host = per_host
        self._wall_clock = wall_clock
        self._pools = urllib3.PoolManager(num_pools=_RECEIVERS, maxsize=per_host, block=False)
        self._pools.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}

    def post(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Post the body once. Follows no redirect, asks no proxy, and never raises for what a receiver does."""
        # Across all steps: urllib3's own times begin anew with each packet.
        limit = gevent.Timeout(self._timeout)
        with limit:
            try:
                return self._post(target, body, headers)
            except gevent.Timeout as reached:
                if reached is not limit:
                    raise
                return Answer(None, "timeout", f"no answer within {self._timeout:g} s")
            except Refused as error:
                return Answer(None, "url_refused", str(error))
            except NewConnectionError:  # urllib3 counts it among the timeouts
                return Answer(None, "connection_failed", "no connection")
            except HTTPTimeout:
                return Answer(None, "timeout", f"no answer within {self._timeout:g} s")
            except SSLError:
                return Answer(None, "tls_failed", "no secure connection: is the certificate valid for the host?")
            except HTTPError as error:
                return Answer(None, "bad_answer", f"the answer broke off or is not HTTP ({type(error).__name__})")
            except OSError:
                return Answer(None, "dns_failed", "the host's name has no address")
        raise AssertionError("unreachable: the limit suppresses nothing")

    def _post(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Answer:
        address = self._addresses.address(target)
        # The certificate is checked for the name, whatever the address is.
        tls = {"server_hostname": target.host, "assert_hostname": target.host} if target.scheme == "https" else {}
        pool = self._pools.connection_from_host(str(address), target.port, target.scheme, pool_kwargs=tls)
        response = pool.urlopen(
            "POST",
            target.path,
            body=body,
            headers={
                **headers,
                "Host": target.authority,
                "Content-Type": "application/json",
                "User-Agent": f"PromptQ-Webhooks/{__version__}",
            },
            redirect=False,
            retries=False,
            assert_same_host=False,
            timeout=urllib3.Timeout(total=self._timeout),
            preload_content=False,
            decode_content=False,
        )
        answer = self._judge(response)
        self._finish(response)
        return answer

    @staticmethod
    def _finish(response: urllib3.BaseHTTPResponse) -> None:
        """Read the rest, so that the connection can be used again, if that is little and comes at once."""
        # What was answered stands, whatever comes of the rest.
        with contextlib.suppress(HTTPError, OSError, gevent.Timeout), gevent.Timeout(_BODY_SECONDS):
            rest = response.read(_BODY_BYTES + 1)
            if len(rest) <= _BODY_BYTES:
                response.release_conn()
                return
        response.close()

    def _judge(self, response: urllib3.BaseHTTPResponse) -> Answer:
        status = response.status
        if 200 <= status < 300:
            return Answer(status, None)
        if 300 <= status < 400:
            return Answer(status, "redirect", "redirects are not followed")
        return Answer(status, "http_status", f"HTTP {status}", self._retry_after(response.headers.get("Retry-After")))

    def _retry_after(self, text: str | None) -> float | None:
        """Seconds, or an HTTP date (RFC 9110, 10.2.3); None for anything else."""
        if text is None:
            return None
        try:
            seconds = float(text)
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(text).timestamp() - self._wall_clock()
            except (ValueError, OverflowError):
                return None
        return max(0.0, seconds) if math.isfinite(seconds) else None
