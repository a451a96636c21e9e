"""Who calls: API keys, each with an owner, kept as hashes and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from flask import Request

from jobs.errors import Forbidden, Unauthorized
from jobs.settings import LOCAL_OWNER, Settings, parse_keys

_log = structlog.get_logger("promptq.api")
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class KeyRing:
    """The keys of the settings and of the key file, which is looked at again within a second of a change."""

    def __init__(self, settings: Settings) -> None:
        self._open = settings.open_access
        self._fixed: Mapping[str, str] = settings.api_keys
        self._file: Path | None = settings.api_keys_file
        self._from_file: Mapping[str, str] = {}
        self._stamp: tuple[int, int] | None = None
        self._looked_at = float("-inf")
        self._lock = threading.Lock()
        if self._file is not None:
            # First: what changes in between is read again.
            self._stamp = _stamp(self._file)
            self._from_file = parse_keys(self._file.read_text().splitlines())

    def owner_of(self, request: Request) -> str:
        """The owner whose key the request carries. Raises ``Unauthorized``; or ``Forbidden`` on an open server that a
        web page of another site tries to reach through its visitor's browser."""
        if self._open:
            _refuse_foreign_page(request)
            return LOCAL_OWNER
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorized("No API key was given: send 'Authorization: Bearer YOUR_KEY'.")
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest()
        owner = None
        for known, its_owner in (*self._fixed.items(), *self._file_keys().items()):
            # All are compared, so that the time tells nothing of which one matched.
            if hmac.compare_digest(known, digest):
                owner = its_owner
        if owner is None:
            raise Unauthorized("This API key is not valid.")
        return owner

    def _file_keys(self) -> Mapping[str, str]:
        if self._file is None or time.monotonic() - self._looked_at < 1:
            return self._from_file
        with self._lock:
            self._looked_at = time.monotonic()
            try:
                stamp = _stamp(self._file)
                if stamp != self._stamp:
                    self._from_file = parse_keys(self._file.read_text().splitlines())
                    self._stamp = stamp
                    _log.info("keys.reloaded", keys=len(self._from_file))
            except (OSError, ValueError) as error:
                # A file that is being replaced or has a slip must not lock everybody out: the last good keys hold.
                _log.error("keys.not_reloaded", error=type(error).__name__, file=str(self._file))
        return self._from_file


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_ino


def _refuse_foreign_page(request: Request) -> None:
    """Without keys, anything on this machine may call, but a page from elsewhere in a browser here may not."""
    origin = request.headers.get("Origin")
    names = [_hostname("//" + request.headers.get("Host", ""))] + ([_hostname(origin)] if origin else [])
    if any(name not in _LOOPBACK_NAMES for name in names):
        raise Forbidden(
            "This server has no API keys and answers only to callers of this machine. Set PROMPTQ_API_KEYS."
        )


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
