"""Where webhooks may go: how a URL must be written, and which addresses are refused.

A URL is taken apart once, here, and what is sent goes by these parts: no second parser can read it otherwise. The
addresses are those of IANA's special-purpose registries (RFC 6890 and its updates), and clouds' metadata services.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL: Final = 2048
_PORTS: Final = {"https": 443, "http": 80}
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
#: What a resolver would read as a number: 127, 0x7f.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
#: No space, no control character, nothing beyond ASCII, no backslash (RFC 3986 has none of them).
_WRITTEN: Final = re.compile(r"[!-\[\]-~]+")
_LOCAL_NAMES: Final = ("localhost", "local", "internal", "home.arpa")

_REFUSED_V4: Final = {
    "0.0.0.0/8": "this network",
    "10.0.0.0/8": "a private address",
    "100.64.0.0/10": "a shared (carrier) address",
    "127.0.0.0/8": "a loopback address",
    "168.63.129.16/32": "a cloud metadata address",
    "169.254.0.0/16": "a link-local or cloud metadata address",
    "172.16.0.0/12": "a private address",
    "192.0.0.0/24": "a protocol or cloud metadata address",
    "192.0.2.0/24": "a documentation address",
    "192.88.99.0/24": "a 6to4 relay",
    "192.168.0.0/16": "a private address",
    "198.18.0.0/15": "a benchmarking address",
    "198.51.100.0/24": "a documentation address",
    "203.0.113.0/24": "a documentation address",
    "224.0.0.0/4": "a multicast address",
    "240.0.0.0/4": "a reserved or broadcast address",
}
_REFUSED_V6: Final = {
    "::/128": "the unspecified address",
    "::1/128": "a loopback address",
    "2001::/23": "a protocol or tunnel address",
    "2001:db8::/32": "a documentation address",
    "2002::/16": "a 6to4 tunnel address",
    "3fff::/20": "a documentation address",
    "fc00::/7": "a private address",
    "fe80::/10": "a link-local address",
    "fec0::/10": "a private address",
    "ff00::/8": "a multicast address",
}
_REFUSED: Final = [(ipaddress.ip_network(net), why) for net, why in (_REFUSED_V4 | _REFUSED_V6).items()]
#: All that is given out for use on the internet; anything else has no business there.
_GLOBAL_V6: Final = ipaddress.IPv6Network("2000::/3")
#: Ways to write an IPv4 address as an IPv6 one that lead to the IPv4 address: mapped, compatible, NAT64 (RFC 6052).
_CARRY_V4: Final = [ipaddress.IPv6Network(net) for net in ("::ffff:0:0/96", "::/96", "64:ff9b::/96")]


class Refused(ValueError):
    """Raised when a webhook may not go where the URL points; the message says why, and quotes nothing of the URL."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL in its parts: what is resolved, connected to and asked for."""

    scheme: str
    #: In lower case, without a final dot and without brackets.
    host: str
    port: int
    #: Path and query, as they go into the request line.
    path: str

    @property
    def authority(self) -> str:
        """``host``, or ``host:port`` where the port is not the scheme's own: the ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def address(self) -> Address | None:
        """The host as an address; None where it is a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Allowed:
    """Hosts (``name``, or ``.suffix`` for all names below it) and networks that are exempt from the refusals."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Allowed:
        """Read entries such as ``hooks.example``, ``.corp.example``, ``10.1.2.3`` and ``10.0.0.0/8``.

        Raises ``ValueError`` on one that is neither.
        """
        hosts, networks = set(), []
        for entry in (entry.strip().lower().rstrip(".") for entry in entries):
            try:
                networks.append(ipaddress.ip_network(entry.strip("[]")))
            except ValueError:
                if "/" in entry or not _is_name(entry.removeprefix(".")):
                    raise ValueError("must be hosts and networks (CIDR), separated by commas") from None
                hosts.add(entry)
        return cls(frozenset(hosts), tuple(networks))

    def name(self, host: str) -> bool:
        """Whether a host is exempt by its name."""
        return host in self.hosts or any(host.endswith(entry) for entry in self.hosts if entry.startswith("."))

    def reaches(self, address: Address) -> bool:
        """Whether an address is exempt."""
        plain = _carried(address) or address
        return any(plain in network for network in self.networks if network.version == plain.version)


def parse(url: str, allowed: Allowed) -> Target:
    """Take a URL apart. Raises ``Refused`` where it is not one, or may not be called whatever its host resolves to."""
    if len(url) > MAX_URL:
        raise Refused(f"the URL is longer than {MAX_URL} characters")
    if not _WRITTEN.fullmatch(url):
        raise Refused("the URL has characters that must be percent-encoded, or in Punycode")
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _PORTS:
        raise Refused("the URL must begin with https://")
    authority, path = re.fullmatch(r"([^/?#]*)(.*)", rest).groups()  # type: ignore[union-attr]  # it matches anything
    if "@" in authority:
        raise Refused("the URL has a user or password before its host")
    if "#" in path:
        raise Refused("the URL has a fragment")
    host, port = _host_and_port(authority, _PORTS[scheme])
    target = Target(scheme, host, port, path if path.startswith("/") else f"/{path}")
    address = target.address
    exempt = allowed.name(host) or (address is not None and allowed.reaches(address))
    if exempt:
        return target
    if scheme != "https":
        raise Refused("the URL must begin with https://")
    if address is not None:
        check(address, target, allowed)
    elif host in _LOCAL_NAMES or host.endswith(tuple(f".{name}" for name in _LOCAL_NAMES)):
        raise Refused("the host is a name for this machine or a private network")
    elif "." not in host:
        raise Refused("the host is not a full domain name")
    return target


def check(address: Address, target: Target, allowed: Allowed) -> None:
    """Return if a webhook for this target may be sent to the address. Raises ``Refused``."""
    if allowed.name(target.host) or allowed.reaches(address):
        return
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise Refused("the address is bound to an interface")
    plain = _carried(address) or address
    for network, why in _REFUSED:
        if network.version == plain.version and plain in network:
            raise Refused(f"the host is {why}")
    if plain.version == 6 and plain not in _GLOBAL_V6:
        raise Refused("the host is not a public address")


def _carried(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 one leads to, if it is one of that kind."""
    if address.version == 6 and int(address) > 1 and any(address in network for network in _CARRY_V4):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _host_and_port(authority: str, default: int) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?", authority)
    if match is None:
        raise Refused("the URL's host or port cannot be read")
    host, digits = match.groups()
    port = default if digits is None else int(digits)
    if not 0 < port < 65536:
        raise Refused("the URL's host or port cannot be read")
    return _host(host.lower()), port


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise Refused("the host is not an IPv6 address") from None
    host = text.removesuffix(".")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        # What a resolver would make of 127.1, 0x7f000001 or 0177.0.0.1 is not ours to guess.
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise Refused("an IPv4 address must be written as four decimal numbers") from None
    if not _is_name(host):
        raise Refused("the host is not a domain name")
    return host


def _is_name(host: str) -> bool:
    return 0 < len(host) <= 253 and all(_LABEL.fullmatch(label) for label in host.split("."))
