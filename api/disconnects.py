"""Noticing that a caller who waits for an answer has gone away."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
