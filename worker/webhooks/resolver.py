"""From a URL's host to an address that a webhook may be sent to."""

from __future__ import annotations

import ipaddress
import math
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import gevent
from gevent import monkey
from gevent.threadpool import ThreadPool

from jobs.webhook_urls import Address, Allowed, Target, check

#: Lookups at once. They block a thread each, so these are not the threads by which the LLM's address is looked up.
_LOOKUPS: Final = 100
#: How long an answer is used again, how long it may take before the last one is used again, and how old that may be
#: (seconds).
_KEPT: Final = 10.0
_PATIENCE: Final = 1.0
_STALE: Final = 3600.0
_KEPT_HOSTS: Final = 10_000

Lookup = Callable[[str, int], Sequence[Address]]
_Place = tuple[str, int]


class Resolver:
    """Looks a host up at most once for each try; what is told then is what is connected to: no later answer of the DNS
    can lead elsewhere.

    A host is asked for once at a time, however many wait for it, and one that is known is not waited for: so a zone
    whose servers do not answer costs one thread, and delays its own hosts alone.
    """

    def __init__(
        self, allowed: Allowed, lookup: Lookup | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._allowed = allowed
        self._lookup = lookup or _Threads(_LOOKUPS)
        self._clock = clock
        #: When each host's addresses were told.
        self._known: dict[_Place, tuple[float, Sequence[Address]]] = {}
        self._asking: dict[_Place, gevent.Greenlet[..., Sequence[Address] | OSError]] = {}

    def address(self, target: Target) -> Address:
        """The address to connect to. Raises ``OSError`` where there is none, ``Refused`` where one of the host's
        addresses is private: a name that leads to both is not to be trusted."""
        addresses = [target.address] if target.address is not None else self._addresses((target.host, target.port))
        for address in addresses:
            check(address, target, self._allowed)
        return addresses[0]

    def _addresses(self, place: _Place) -> Sequence[Address]:
        told, known = self._known.get(place, (-math.inf, ()))
        age = self._clock() - told
        if age < _KEPT:
            return known
        asking = self._asking.get(place)
        if asking is None:
            # In a greenlet of its own: who asked first may be broken off, and the others wait on.
            asking = self._asking[place] = gevent.spawn(self._ask, place)
        if age < _STALE:
            asking.join(_PATIENCE)
            if not asking.ready() or isinstance(asking.value, OSError):
                return known
        found = asking.get()
        if isinstance(found, OSError):
            raise OSError(*found.args)
        return found

    def _ask(self, place: _Place) -> Sequence[Address] | OSError:
        """The host's addresses, or why there are none: raised here, gevent would print it."""
        try:
            addresses = self._lookup(*place)
        except OSError as error:
            return error
        finally:
            del self._asking[place]
        if not addresses:
            return OSError("the host has no address")
        if len(self._known) >= _KEPT_HOSTS:
            self._known.clear()
        self._known[place] = (self._clock(), addresses)
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
