"""Clients that go away, and clients that do not read."""

from __future__ import annotations

import gevent
import pytest
from gevent import socket

from api.disconnects import cut_off


def test_a_client_that_does_not_read_is_cut_off() -> None:
    """Sending to it ends as if it had gone, once the time is over."""
    ours, theirs = socket.socketpair()
    whole = b"x" * 10_000_000
    with ours, theirs, gevent.Timeout(10), cut_off({"gunicorn.socket": ours}, 0.1), pytest.raises(BrokenPipeError):
        ours.sendall(whole)


def test_who_is_done_in_time_is_left_alone() -> None:
    """The connection can be used again."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with cut_off({"gunicorn.socket": ours}, 0.05):
            pass
        gevent.sleep(0.1)
        ours.sendall(b"x")
        assert theirs.recv(1) == b"x"
    with cut_off({}, 0) as goes_on:
        goes_on()


def test_who_goes_on_is_left_alone() -> None:
    """The time is counted from the last piece that was taken, however many there were."""
    ours, theirs = socket.socketpair()
    with ours, theirs, gevent.Timeout(10), cut_off({"gunicorn.socket": ours}, 1.0) as goes_on:
        for _ in range(6):
            gevent.sleep(0.2)
            goes_on()
            ours.sendall(b"x")
        assert theirs.recv(100) == b"x" * 6
        with pytest.raises(BrokenPipeError):
            ours.sendall(b"x" * 10_000_000)
