"""Who may call: keys in the settings, keys in a file that changes, and an open server."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from flask import Flask, Request
from werkzeug.test import EnvironBuilder

from api import access
from api.access import KeyRing
from jobs.errors import Forbidden, Unauthorized
from jobs.settings import Settings, parse_keys


def request(**headers: str) -> Request:
    return Flask.request_class(EnvironBuilder(headers=headers).get_environ())


def bearer(key: str) -> Request:
    return request(Authorization=f"Bearer {key}")


class Clock:
    """Stands in for the module ``time`` in api.access."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(access, "time", fake)
    return fake


def write(file: Path, text: str | bytes, mtime: int) -> None:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    os.utime(file, (mtime, mtime))


def test_a_key_names_its_owner() -> None:
    """A known key gives its owner, whether it was configured in the clear or as a hash."""
    digest = hashlib.sha256(b"k2").hexdigest()
    ring = KeyRing(Settings(api_keys=parse_keys(["ann:k1", f"bob:sha256:{digest}"])))
    assert ring.owner_of(bearer("k1")) == "ann"
    assert ring.owner_of(request(Authorization="bearer  k2 ")) == "bob"


@pytest.mark.parametrize(
    "header", [None, "", "k1", "Basic k1", "Bearer", "Bearer ", "Bearer k2", "Bearer k1x", "Bearer ü"]
)
def test_anything_else_is_refused(header: str | None) -> None:
    """No key, another scheme or an unknown key is refused; the message does not repeat the key."""
    ring = KeyRing(Settings(api_keys=parse_keys(["ann:k1"])))
    with pytest.raises(Unauthorized) as caught:
        ring.owner_of(request() if header is None else request(Authorization=header))
    assert "k2" not in caught.value.message


def test_a_hash_is_no_key() -> None:
    """Who knows the hash of a key only does not get in."""
    digest = hashlib.sha256(b"k1").hexdigest()
    ring = KeyRing(Settings(api_keys=parse_keys(["ann:k1"])))
    for key in (digest, f"sha256:{digest}"):
        with pytest.raises(Unauthorized):
            ring.owner_of(bearer(key))


def test_the_file_is_read_again(tmp_path: Path, clock: Clock) -> None:
    """Keys are added and revoked by changing the file, within a second; keys of the settings stay."""
    file = tmp_path / "keys"
    write(file, "ann:k1\n", 1)
    ring = KeyRing(Settings(api_keys=parse_keys(["eve:fixed"]), api_keys_file=file))
    assert ring.owner_of(bearer("k1")) == "ann"
    write(file, "# changed\nbob:k2\n", 2)
    clock.now += 1.1
    assert ring.owner_of(bearer("k2")) == "bob"
    assert ring.owner_of(bearer("fixed")) == "eve"
    with pytest.raises(Unauthorized):
        ring.owner_of(bearer("k1"))


@pytest.mark.parametrize("broken", ["no colon here", b"\xff\xfe", None])
def test_a_broken_file_locks_nobody_out(tmp_path: Path, clock: Clock, broken: str | bytes | None) -> None:
    """While the file is broken or gone the last good keys hold; once it is mended it counts again."""
    file = tmp_path / "keys"
    write(file, "ann:k1\n", 1)
    ring = KeyRing(Settings(api_keys_file=file))
    clock.now += 1.1
    if broken is None:
        file.unlink()
    else:
        write(file, broken, 2)
    assert ring.owner_of(bearer("k1")) == "ann"
    write(file, "ann:k3\n", 3)
    clock.now += 1.1
    assert ring.owner_of(bearer("k3")) == "ann"


def test_an_open_server_takes_any_key() -> None:
    """Without keys every local caller is the owner ``local``, with any key or none."""
    ring = KeyRing(Settings())
    assert ring.owner_of(request()) == ring.owner_of(bearer("whatever")) == "local"
    assert ring.owner_of(request(Host="[::1]:8000", Origin="http://localhost:8000")) == "local"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://[bad"},
        {"Host": "evil.example:8000"},
        {"Host": ""},
    ],
)
def test_an_open_server_refuses_foreign_pages(headers: dict[str, str]) -> None:
    """Without keys a page of another site, or a name that was pointed at this machine, is refused."""
    with pytest.raises(Forbidden):
        KeyRing(Settings()).owner_of(request(**headers))
