"""Which ports the stack listens on."""

from __future__ import annotations

import errno
import ipaddress
import random
import socket
from types import TracebackType

from cli.stack.errors import StackError

# Below the kernel's ephemeral range (32768 up): the source port of somebody's outgoing connection cannot take a port
# between our choosing it and our server's binding it.
_FREE = range(20000, 32768)
_TRIES = 100


class Ports:
    """Chooses the stack's ports; holds them all until the end of the ``with``, so that no two parts get the same."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take(self, host: str, port: int, *, option: str) -> int:
        """Return ``port`` if ``host`` has it free, or a free one for 0; raises `StackError` naming ``option``."""
        for candidate in [port] if port else random.sample(_FREE, _TRIES):
            try:
                self._held.append(_listen(host, candidate))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise StackError(_unusable(host, candidate, option, error)) from error
            else:
                return candidate
        if port:
            raise StackError(f"port {port} on {host} is taken: choose another with {option} (0 picks a free one)")
        raise StackError(f"found no free port on {host} for {option}: choose one yourself")

    def __enter__(self) -> Ports:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for held in self._held:
            held.close()


def reachable(host: str) -> str:
    """Return the host by which this machine reaches a server bound to ``host``, ready for a URL."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return str(address) if address.version == 4 else f"[{address}]"


def _listen(host: str, port: int) -> socket.socket:
    family, kind, proto, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    held = socket.socket(family, kind, proto)
    try:
        # As servers do; without it a port stays "taken" for a minute after the last stack closed its connections.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(address)
        held.listen(1)
    except OSError:
        held.close()
        raise
    return held


def _unusable(host: str, port: int, option: str, error: OSError) -> str:
    if error.errno == errno.EACCES:
        return f"no permission to listen on port {port}: choose another with {option} (0 picks a free one)"
    return f"cannot listen on {host}: {error.strerror or error} (see --host)"
