"""Noticing that a caller who waits for an answer has gone away."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import gevent
from gevent.socket import wait_read


@contextmanager
def on_disconnect(environ: dict[str, Any], callback: Callable[[], None]) -> Iterator[None]:
    """Call ``callback`` once if the client closes its connection within the block.

    WSGI has no word for this; gunicorn gives the socket as ``gunicorn.socket``. Under another server nothing happens.
    """
    client: socket.socket | None = environ.get("gunicorn.socket")
    if client is None:
        yield
        return
    watcher = gevent.spawn(_watch, client, callback)
    try:
        yield
    finally:
        watcher.kill()


def _watch(client: socket.socket, callback: Callable[[], None]) -> None:
    try:
        wait_read(client.fileno())
        gone = client.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        gone = True
    # Bytes that can be read are the next request on the same connection: its sender is still there.
    if gone:
        callback()


@contextmanager
def cut_off(environ: dict[str, Any], seconds: float) -> Iterator[Callable[[], None]]:
    """Close the client's connection if the block lasts longer: one that does not read would hold it for ever.

    What it answers gives the block all its time anew; it costs next to nothing, for it may be called at every piece.
    """
    client: socket.socket | None = environ.get("gunicorn.socket")
    since = time.monotonic()

    def goes_on() -> None:
        nonlocal since
        since = time.monotonic()

    def watch(client: socket.socket) -> None:
        while (left := since + seconds - time.monotonic()) > 0:
            gevent.sleep(left)
        _cut(client)

    if client is None:
        yield goes_on
        return
    watcher = gevent.spawn(watch, client)
    try:
        yield goes_on
    finally:
        watcher.kill()


def _cut(client: socket.socket) -> None:
    # On a duplicate: gevent's own shutdown would be an error in the greenlet that sends, and not a client that is gone.
    with suppress(OSError), client.dup() as twin:
        twin.shutdown(socket.SHUT_RDWR)
