"""From a URL's host to an address that a webhook may be sent to."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from gevent import monkey
from gevent.threadpool import ThreadPool

from jobs.webhook_urls import Address, Allowed, Target, check

#: Lookups at once. They block a thread each, so these are not the threads by which the LLM's address is looked up.
_LOOKUPS: Final = 50
#: How long an answer is used again (seconds), and how many are kept.
_KEPT: Final = 10.0
_KEPT_HOSTS: Final = 10_000

Lookup = Callable[[str, int], Sequence[Address]]


class Resolver:
    """Looks a host up once for each try; what it answers is what is connected to, so that no later answer of the DNS
    can lead elsewhere."""

    def __init__(
        self, allowed: Allowed, lookup: Lookup | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._allowed = allowed
        self._lookup = lookup or _Threads(_LOOKUPS)
        self._clock = clock
        self._known: dict[tuple[str, int], tuple[float, Sequence[Address]]] = {}

    def address(self, target: Target) -> Address:
        """The address to connect to. Raises ``OSError`` where there is none, ``Refused`` where one of the host's
        addresses is private: a name that leads to both is not to be trusted."""
        addresses = [target.address] if target.address is not None else self._addresses(target)
        for address in addresses:
            check(address, target, self._allowed)
        return addresses[0]

    def _addresses(self, target: Target) -> Sequence[Address]:
        place, now = (target.host, target.port), self._clock()
        until, addresses = self._known.get(place, (now, ()))
        if until <= now:
            addresses = self._lookup(*place)
            if not addresses:
                raise OSError("the host has no address")
            if len(self._known) >= _KEPT_HOSTS:
                self._known.clear()
            self._known[place] = (now + _KEPT, addresses)
        return addresses


class _Threads:
    """The system's resolver, in threads of its own."""

    def __init__(self, size: int) -> None:
        self._pool = ThreadPool(size)

    def __call__(self, host: str, port: int) -> Sequence[Address]:
        # The one that blocks its thread: gevent's would start an event loop there.
        lookup = monkey.get_original("socket", "getaddrinfo")
        found: list[Any] = self._pool.apply(lookup, (host, port), {"type": socket.SOCK_STREAM})
        return [ipaddress.ip_address(entry[4][0]) for entry in found]
