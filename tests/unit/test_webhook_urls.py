"""Where webhooks may go: the table of hostile URLs, and the names that lead to places of that kind."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import gevent
import pytest
from gevent.event import AsyncResult
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.webhook_urls import MAX_URL, Address, Allowed, Refused, Target, check, parse
from worker.webhooks.resolver import Resolver

NOBODY = Allowed()
UNREADABLE = "host or port cannot be read"
DECIMAL = "four decimal numbers"
WRITTEN = "must be percent-encoded, or in Punycode"
LOCAL = "a name for this machine or a private network"
HTTPS = "must begin with https://"

HOSTILE = [
    # Loopback, this network, and what is written otherwise and means the same.
    ("https://127.0.0.1/", "loopback"),
    ("https://127.0.0.1:8443/hook", "loopback"),
    ("https://127.255.255.254/", "loopback"),
    ("https://127.0.0.1./", "loopback"),
    ("https://0.0.0.0/", "this network"),
    ("https://0.1.2.3/", "this network"),
    ("https://[::1]/", "loopback"),
    ("https://[0:0:0:0:0:0:0:1]:443/", "loopback"),
    ("https://[::]/", "unspecified"),
    ("https://2130706433/", DECIMAL),
    ("https://0x7f000001/", DECIMAL),
    ("https://0X7F000001/", DECIMAL),
    ("https://0x7f.0.0.1/", DECIMAL),
    ("https://017700000001/", DECIMAL),
    ("https://0177.0.0.1/", DECIMAL),
    ("https://127.0.0.01/", DECIMAL),
    ("https://127.1/", DECIMAL),
    ("https://127.0.1/", DECIMAL),
    ("https://127.0.0.0x1/", DECIMAL),
    ("https://127.0.0.0x/", DECIMAL),
    ("https://0/", DECIMAL),
    ("https://256.256.256.256/", DECIMAL),
    ("https://8.8.8.8.8/", DECIMAL),
    ("https://hooks.example.1/", DECIMAL),
    ("https://%31%32%37.0.0.1/", DECIMAL),
    # Private networks, of IPv4 and IPv6.
    ("https://10.0.0.1/", "private"),
    ("https://172.16.0.1/", "private"),
    ("https://172.31.255.255/", "private"),
    ("https://192.168.1.1/", "private"),
    ("https://100.64.0.1/", "shared (carrier)"),
    ("https://[fc00::1]/", "private"),
    ("https://[fd12:3456:789a::1]/", "private"),
    ("https://[fec0::1]/", "private"),
    # Link-local, and the clouds' metadata services.
    ("https://169.254.0.1/", "link-local"),
    ("https://169.254.169.254/latest/meta-data/", "cloud metadata"),
    ("https://169.254.170.2/v2/credentials", "cloud metadata"),
    ("https://168.63.129.16/", "cloud metadata"),
    ("https://100.100.100.200/", "shared (carrier)"),
    ("https://192.0.0.192/", "cloud metadata"),
    ("https://[fe80::1]/", "link-local"),
    ("https://[fe80::a9fe:a9fe]/", "link-local"),
    ("https://[fd00:ec2::254]/latest/", "private"),
    ("https://metadata.google.internal/", LOCAL),
    ("https://METADATA.GOOGLE.INTERNAL./", LOCAL),
    # Multicast, broadcast, and what is nobody's.
    ("https://224.0.0.1/", "multicast"),
    ("https://239.255.255.250/", "multicast"),
    ("https://[ff02::1]/", "multicast"),
    ("https://255.255.255.255/", "broadcast"),
    ("https://240.0.0.1/", "reserved"),
    ("https://192.0.2.1/", "documentation"),
    ("https://198.51.100.1/", "documentation"),
    ("https://203.0.113.1/", "documentation"),
    ("https://198.18.0.1/", "benchmarking"),
    ("https://192.88.99.1/", "6to4"),
    ("https://[2001:db8::1]/", "documentation"),
    ("https://[3fff::1]/", "documentation"),
    ("https://[100::1]/", "not a public address"),
    ("https://[5f00::1]/", "not a public address"),
    ("https://[4000::1]/", "not a public address"),
    # IPv4 within IPv6: mapped, compatible, translated, NAT64, 6to4, Teredo.
    ("https://[::ffff:127.0.0.1]/", "loopback"),
    ("https://[::ffff:7f00:1]/", "loopback"),
    ("https://[0:0:0:0:0:ffff:a9fe:a9fe]/", "cloud metadata"),
    ("https://[::ffff:10.0.0.1]/", "private"),
    ("https://[::ffff:0.0.0.0]/", "this network"),
    ("https://[::127.0.0.1]/", "loopback"),
    ("https://[::192.168.0.1]/", "private"),
    ("https://[::ffff:0:127.0.0.1]/", "not a public address"),
    ("https://[64:ff9b::7f00:1]/", "loopback"),
    ("https://[64:ff9b::169.254.169.254]/", "cloud metadata"),
    ("https://[64:ff9b:1::a00:1]/", "not a public address"),
    ("https://[2002:7f00:1::]/", "6to4"),
    ("https://[2002:a9fe:a9fe::1]/", "6to4"),
    ("https://[2001:0:53aa:64c:0:7fff:80ff:fffe]/", "tunnel"),
    # An address that is bound to an interface.
    ("https://[fe80::1%25eth0]/", "bound to an interface"),
    ("https://[fe80::1%eth0]/", "bound to an interface"),
    ("https://[2606:4700::1111%1]/", "bound to an interface"),
    # Names for this machine and for networks that are not the internet.
    ("https://localhost/", LOCAL),
    ("https://LocalHost:8443/", LOCAL),
    ("https://localhost./", LOCAL),
    ("https://hooks.localhost/", LOCAL),
    ("https://a.b.localhost./", LOCAL),
    ("https://printer.local/", LOCAL),
    ("https://api.default.svc.cluster.local/", LOCAL),
    ("https://vault.internal/", LOCAL),
    ("https://router.home.arpa/", LOCAL),
    ("https://intranet/", "not a full domain name"),
    ("https://redis:6379/", "not a full domain name"),
    ("https://redis./", "not a full domain name"),
    # What two parsers read as two hosts.
    ("https://user@hooks.example/", "user or password"),
    ("https://user:secret@hooks.example/", "user or password"),
    ("https://hooks.example@127.0.0.1/", "user or password"),
    ("https://hooks.example:443@127.0.0.1/", "user or password"),
    ("https://@127.0.0.1/", "user or password"),
    ("https://hooks.example\\@127.0.0.1/", WRITTEN),
    ("https://127.0.0.1\\.hooks.example/", WRITTEN),
    ("https:\\\\127.0.0.1/", WRITTEN),
    ("https://127.0.0.1#@hooks.example/", "fragment"),
    ("https://hooks.example/#top", "fragment"),
    ("https://hooks.example?x#y", "fragment"),
    ("https://127.0.0.1?@hooks.example/", "loopback"),
    ("https://hooks%2eexample/", "not a domain name"),
    ("https://hooks.example%00.evil.example/", "not a domain name"),
    # Spaces, control characters, and a second header or request.
    (" https://hooks.example/", WRITTEN),
    ("https://hooks.example/\n", WRITTEN),
    ("https://hooks.example/\r\nX-Admin: 1", WRITTEN),
    ("https://hooks.example\r\n\r\nGET /", WRITTEN),
    ("https://hooks.example/\x00", WRITTEN),
    ("https://hooks.\texample/", WRITTEN),
    ("https://hooks.example/a b", WRITTEN),
    ("https://hooks.example/\x7f", WRITTEN),
    # Digits, dots and letters that only look like those of a host.
    ("https://①②⑦.⓪.⓪.①/", WRITTEN),
    ("https://１２７.0.0.1/", WRITTEN),
    ("https://١٢٧.٠.٠.١/", WRITTEN),
    ("https://127。0。0。1/", WRITTEN),
    ("https://ｌocalhost/", WRITTEN),
    ("https://hοοks.example/", WRITTEN),
    ("https://hooks.exämple/", WRITTEN),
    ("https://hooks.example/ünd", WRITTEN),
    # Other schemes, and none.
    ("http://hooks.example/", HTTPS),
    ("http://127.0.0.1/", HTTPS),
    ("ftp://hooks.example/", HTTPS),
    ("file:///etc/passwd", HTTPS),
    ("gopher://127.0.0.1:6379/_FLUSHALL", HTTPS),
    ("unix:///var/run/docker.sock", HTTPS),
    ("data:text/plain,x", HTTPS),
    ("javascript:alert(1)", HTTPS),
    ("https:hooks.example", HTTPS),
    ("//hooks.example/", HTTPS),
    ("hooks.example", HTTPS),
    # Not a host, not a port, too long.
    ("", WRITTEN),
    ("https://", "not a domain name"),
    ("https:///hook", "not a domain name"),
    ("https://:443/", "not a domain name"),
    ("https://./", "not a domain name"),
    ("https://hooks..example/", "not a domain name"),
    ("https://.hooks.example/", "not a domain name"),
    ("https://hooks.example../", "not a domain name"),
    ("https://-hooks.example/", "not a domain name"),
    ("https://hooks-.example/", "not a domain name"),
    ("https://*.example/", "not a domain name"),
    (f"https://{'a' * 64}.example/", "not a domain name"),
    (f"https://{'a.' * 127}example/", "not a domain name"),
    ("https://[hooks.example]/", "not an IPv6 address"),
    ("https://[127.0.0.1]/", "not an IPv6 address"),
    ("https://[]/", "not an IPv6 address"),
    ("https://[::1/", UNREADABLE),
    ("https://::1/", UNREADABLE),
    ("https://[::1]x/", UNREADABLE),
    ("https://hooks.example:0/", UNREADABLE),
    ("https://hooks.example:65536/", UNREADABLE),
    ("https://hooks.example:99999/", UNREADABLE),
    ("https://hooks.example:123456/", UNREADABLE),
    ("https://hooks.example:-1/", UNREADABLE),
    ("https://hooks.example:/", UNREADABLE),
    ("https://hooks.example:443:443/", UNREADABLE),
    ("https://hooks.example:0x1bb/", UNREADABLE),
    (f"https://hooks.example/{'a' * MAX_URL}", "longer than 2048"),
]


@pytest.mark.parametrize(("url", "reason"), HOSTILE)
def test_a_hostile_url_is_refused_with_the_reason(url: str, reason: str) -> None:
    """What leads to this machine, to a private network, or to two places at once is refused, and the reason said."""
    with pytest.raises(Refused, match=r".") as refusal:
        parse(url, NOBODY)
    assert reason in str(refusal.value)


def test_a_refusal_quotes_nothing_of_the_url() -> None:
    """The reason can be shown and logged: no part of the URL, which may hold a secret, is in it."""
    for url, _ in HOSTILE:
        with pytest.raises(Refused, match=r".") as refusal:
            parse(url.replace("/hook", "/sesame") + "?token=sesame", NOBODY)
        assert "sesame" not in str(refusal.value)


@given(st.ip_addresses().filter(lambda address: not address.is_global))
@settings(deadline=None, derandomize=True, database=None)
def test_what_is_not_global_is_refused(address: Address) -> None:
    """Any address that Python does not count as global is refused, in a URL and as the answer of a lookup."""
    host = f"[{address}]" if address.version == 6 else str(address)
    with pytest.raises(Refused):
        parse(f"https://{host}/", NOBODY)
    with pytest.raises(Refused):
        check(address, Target("https", "hooks.example", 443, "/"), NOBODY)


@given(
    st.ip_addresses(v=4).filter(lambda address: not address.is_global), st.sampled_from(["::ffff:", "::", "64:ff9b::"])
)
@settings(deadline=None, derandomize=True, database=None)
def test_what_is_not_global_is_refused_within_ipv6(address: ipaddress.IPv4Address, before: str) -> None:
    """An IPv6 address that leads to such an IPv4 address is refused, too."""
    with pytest.raises(Refused):
        parse(f"https://[{before}{address}]/", NOBODY)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://hooks.example", Target("https", "hooks.example", 443, "/")),
        ("https://hooks.example/", Target("https", "hooks.example", 443, "/")),
        ("https://hooks.example:8443/a/b?c=d&e", Target("https", "hooks.example", 8443, "/a/b?c=d&e")),
        ("https://hooks.example?c=d", Target("https", "hooks.example", 443, "/?c=d")),
        ("HTTPS://Hooks.EXAMPLE./A", Target("https", "hooks.example", 443, "/A")),
        ("https://hooks.example:0443/", Target("https", "hooks.example", 443, "/")),
        ("https://hooks.example/@x:y//z%20", Target("https", "hooks.example", 443, "/@x:y//z%20")),
        ("https://xn--bcher-kva.example/", Target("https", "xn--bcher-kva.example", 443, "/")),
        ("https://a_b.hooks.example/", Target("https", "a_b.hooks.example", 443, "/")),
        ("https://127.0.0.1.nip.example/", Target("https", "127.0.0.1.nip.example", 443, "/")),
        ("https://localhost.example/", Target("https", "localhost.example", 443, "/")),
        ("https://8.8.8.8/", Target("https", "8.8.8.8", 443, "/")),
        ("https://172.32.0.1/", Target("https", "172.32.0.1", 443, "/")),
        ("https://[2606:4700:4700::1111]:8443/", Target("https", "2606:4700:4700::1111", 8443, "/")),
        ("https://[2606:4700:4700:0:0:0:0:1111]/", Target("https", "2606:4700:4700::1111", 443, "/")),
        ("https://[::ffff:8.8.8.8]/", Target("https", "::ffff:808:808", 443, "/")),
    ],
)
def test_a_public_url_is_taken_apart(url: str, target: Target) -> None:
    """A public URL is accepted, with its port, path and query, its host in lower case and without a final dot."""
    assert parse(url, NOBODY) == target


def test_the_longest_url_is_accepted() -> None:
    """The limit is the last length that is accepted."""
    before = "https://hooks.example/"
    assert parse(before + "a" * (MAX_URL - len(before)), NOBODY).host == "hooks.example"


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("https://hooks.example/", "hooks.example"),
        ("https://hooks.example:443/", "hooks.example"),
        ("https://hooks.example:80/", "hooks.example:80"),
        ("https://[2606:4700::1111]/", "[2606:4700::1111]"),
        ("https://[2606:4700::1111]:8443/", "[2606:4700::1111]:8443"),
        ("http://127.0.0.1/", "127.0.0.1"),
        ("http://127.0.0.1:443/", "127.0.0.1:443"),
    ],
)
def test_the_authority_is_the_host_header(url: str, authority: str) -> None:
    """The port is told where it is not the scheme's own, and an IPv6 address is in brackets."""
    assert parse(url, Allowed.parse(["127.0.0.1"])).authority == authority


@pytest.mark.parametrize(
    ("entries", "url"),
    [
        ("hooks.corp.internal", "https://hooks.corp.internal/"),
        ("Hooks.Corp.Internal.", "http://hooks.corp.internal:8080/x"),
        (".corp.internal", "http://hooks.corp.internal/"),
        (".corp.internal", "https://a.b.corp.internal/"),
        ("redis", "https://redis/"),
        ("localhost", "http://localhost:8080/"),
        ("10.0.0.0/8", "https://10.1.2.3/"),
        ("10.0.0.0/8", "http://10.1.2.3:8080/"),
        ("10.0.0.0/8", "http://[::ffff:10.1.2.3]/"),
        ("10.1.2.3", "http://10.1.2.3/"),
        ("hooks.example, 127.0.0.0/8", "http://127.0.0.1/"),
        ("fd00::/8", "http://[fd00::1]/"),
        ("::1", "http://[::1]:8080/"),
        ("[::1]", "http://[::1]/"),
        ("8.8.8.8", "http://8.8.8.8/"),
    ],
)
def test_what_is_listed_is_allowed(entries: str, url: str) -> None:
    """A host, a suffix, a network or an address of the list is exempt, also over http."""
    assert parse(url, Allowed.parse(entries.split(","))).path
    with pytest.raises(Refused):
        parse(url, NOBODY if url.startswith("https") else Allowed.parse(["other.example"]))


@pytest.mark.parametrize(
    ("entries", "url", "reason"),
    [
        ("hooks.corp.internal", "https://other.corp.internal/", LOCAL),
        ("hooks.corp.internal", "https://a.hooks.corp.internal/", LOCAL),
        (".corp.internal", "https://corp.internal/", LOCAL),
        (".corp.internal", "https://evilcorp.internal/", LOCAL),
        (".corp.example", "http://corp.example.evil.example/", HTTPS),
        ("hooks.example", "ftp://hooks.example/", HTTPS),
        ("hooks.example", "https://user@hooks.example/", "user or password"),
        ("10.0.0.0/8", "https://11.0.0.0@10.0.0.1/", "user or password"),
        ("10.0.0.0/8", "https://192.168.0.1/", "private"),
        ("10.0.0.0/8", "https://167772161/", DECIMAL),
        ("10.0.0.1", "https://10.0.0.2/", "private"),
        ("10.0.0.0/8", "http://hooks.example/", HTTPS),
        ("fd00::/8", "https://[fc00::1]/", "private"),
    ],
)
def test_what_is_not_listed_stays_refused(entries: str, url: str, reason: str) -> None:
    """The list exempts what it names and nothing beside it."""
    with pytest.raises(Refused) as refusal:
        parse(url, Allowed.parse(entries.split(",")))
    assert reason in str(refusal.value)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        ".",
        "*.example",
        "https://hooks.example",
        "hooks.example:443",
        "10.0.0.0/33",
        "10.1.2.3/8",
        "a/b",
        "ä.example",
    ],
)
def test_a_list_that_makes_no_sense_is_refused(entry: str) -> None:
    """An entry that is neither a host nor a network is an error, not an entry that never matches."""
    with pytest.raises(ValueError, match="hosts and networks"):
        Allowed.parse(["hooks.example", entry])


# --- Names, as they are resolved -------------------------------------------------------------------------------------


class DNS:
    """Gives one answer after the other, the last one for ever, and counts."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = [[ipaddress.ip_address(address) for address in answer] for answer in answers]
        self.asked: list[tuple[str, int]] = []
        self.now = 1000.0

    def __call__(self, host: str, port: int) -> Sequence[Address]:
        self.asked.append((host, port))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def resolver(self, *allowed: str) -> Resolver:
        return Resolver(Allowed.parse(allowed), self, clock=lambda: self.now)


HOOKS = parse("https://hooks.example/", NOBODY)
PUBLIC, OTHER = ipaddress.ip_address("8.8.8.8"), ipaddress.ip_address("8.8.4.4")


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        (["127.0.0.1"], "loopback"),
        (["::1"], "loopback"),
        (["10.0.0.1"], "private"),
        (["169.254.169.254"], "cloud metadata"),
        (["100.100.100.200"], "carrier"),
        (["168.63.129.16"], "cloud metadata"),
        (["fd00:ec2::254"], "private"),
        (["fe80::1%eth0"], "bound to an interface"),
        (["::ffff:10.0.0.1"], "private"),
        (["64:ff9b::a00:1"], "private"),
        (["0.0.0.0"], "this network"),
        (["8.8.8.8", "10.0.0.1"], "private"),
        (["2606:4700::1111", "8.8.8.8", "::1"], "loopback"),
        (["8.8.8.8", "127.0.0.1", "8.8.4.4"], "loopback"),
    ],
)
def test_a_name_that_leads_astray_is_refused(addresses: list[str], reason: str) -> None:
    """A public name with a private address, or with one among its public ones, is refused."""
    with pytest.raises(Refused) as refusal:
        DNS(addresses).resolver().address(HOOKS)
    assert reason in str(refusal.value)


def test_a_name_leads_to_its_first_address() -> None:
    """A name whose addresses are all public is connected to by the first of them."""
    dns = DNS(["2606:4700::1111", "8.8.8.8"])
    assert dns.resolver().address(HOOKS) == ipaddress.ip_address("2606:4700::1111")
    assert dns.asked == [("hooks.example", 443)]


def test_an_address_is_not_looked_up_but_checked() -> None:
    """A URL with an address asks no DNS, and is checked as what a name leads to."""
    dns = DNS([])
    public = Target("https", "8.8.8.8", 443, "/")
    assert dns.resolver().address(public) == ipaddress.ip_address("8.8.8.8")
    with pytest.raises(Refused):
        dns.resolver().address(Target("https", "127.0.0.1", 443, "/"))
    assert dns.asked == []


def test_a_second_answer_cannot_lead_elsewhere() -> None:
    """A DNS that names a public address to be checked and another later is asked once for each try, and each answer of
    it is checked: it never names an address that is connected to and was not checked."""
    dns = DNS(["8.8.8.8"], ["127.0.0.1"])
    resolver = dns.resolver()
    assert resolver.address(HOOKS) == ipaddress.ip_address("8.8.8.8")
    assert len(dns.asked) == 1
    dns.now += 3600
    with pytest.raises(Refused):
        resolver.address(HOOKS)
    assert len(dns.asked) == 2


def test_an_answer_is_used_again_for_a_while() -> None:
    """Tries to one receiver that follow each other share a lookup, and later ones have a new one."""
    dns = DNS(["8.8.8.8"], ["8.8.4.4"])
    resolver = dns.resolver()
    assert {str(resolver.address(HOOKS)) for _ in range(5)} == {"8.8.8.8"}
    other = parse("https://hooks.example:8443/", NOBODY)
    assert str(resolver.address(other)) == "8.8.4.4", "each port is a place of its own"
    dns.now += 60
    assert str(resolver.address(HOOKS)) == "8.8.4.4"
    assert [port for _, port in dns.asked] == [443, 8443, 443]


def test_a_host_that_is_known_does_not_wait_for_the_dns() -> None:
    """While a host is looked up anew its last addresses serve, for an hour; then whoever asks must wait."""
    now, answers = [0.0], AsyncResult()

    def lookup(host: str, port: int) -> Sequence[Address]:
        return [PUBLIC] if now[0] == 0 else answers.get()

    resolver = Resolver(Allowed(), lookup, clock=lambda: now[0])
    assert resolver.address(HOOKS) == PUBLIC
    now[0] = 3000.0
    assert resolver.address(HOOKS) == PUBLIC
    now[0] = 4000.0
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.1):
        resolver.address(HOOKS)
    answers.set([OTHER])
    assert resolver.address(HOOKS) == OTHER


def test_a_host_is_asked_for_once_at_a_time() -> None:
    """However many wait for a host whose DNS does not answer, it takes one lookup, which outlives who asked first."""
    asked, answers = [], AsyncResult()

    def lookup(host: str, port: int) -> Sequence[Address]:
        asked.append(host)
        found: Sequence[Address] = answers.get()
        return found

    resolver = Resolver(Allowed(), lookup)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
        resolver.address(HOOKS)
    waiting = [gevent.spawn(resolver.address, HOOKS) for _ in range(20)]
    gevent.sleep(0.01)
    answers.set([PUBLIC])
    assert [one.get(timeout=5) for one in waiting] == [PUBLIC] * 20
    assert asked == ["hooks.example"]


def test_a_refused_answer_stays_refused() -> None:
    """What is used again is checked again."""
    resolver = DNS(["10.0.0.1"]).resolver()
    for _ in range(2):
        with pytest.raises(Refused):
            resolver.address(HOOKS)


def test_a_name_without_an_address_is_an_error_and_asked_for_again() -> None:
    """No address is an error of the lookup, which the next try does not inherit."""
    dns = DNS([], ["8.8.8.8"])
    resolver = dns.resolver()
    with pytest.raises(OSError, match="no address"):
        resolver.address(HOOKS)
    assert str(resolver.address(HOOKS)) == "8.8.8.8"


def test_a_listed_name_may_lead_to_a_private_address() -> None:
    """A listed host may resolve to any address, a listed network may be what any host resolves to; not more."""
    dns = DNS(["10.0.0.1"])
    assert dns.resolver("hooks.example").address(HOOKS) == ipaddress.ip_address("10.0.0.1")
    assert dns.resolver(".example").address(HOOKS) == ipaddress.ip_address("10.0.0.1")
    assert dns.resolver("10.0.0.0/24").address(HOOKS) == ipaddress.ip_address("10.0.0.1")
    for allowed in ("other.example", "10.0.1.0/24"):
        with pytest.raises(Refused):
            dns.resolver(allowed).address(HOOKS)


def test_the_systems_own_resolver_is_asked() -> None:
    """Without another lookup, names are looked up as the system does."""
    localhost = parse("http://localhost:8080/", Allowed.parse(["localhost"]))
    assert Resolver(Allowed.parse(["localhost"])).address(localhost).is_loopback
    with pytest.raises(Refused):
        Resolver(NOBODY).address(localhost)
    with pytest.raises(OSError, match=r"."):
        Resolver(NOBODY).address(Target("https", "nobody.invalid", 443, "/"))
