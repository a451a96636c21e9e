"""The directory that holds what a stack keeps: the queue's data, its logs, and what the running processes leave."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from cli.stack.errors import StackError
from jobs.sealing import new_key


class DataDir:
    """One data directory, owned by at most one ``promptq up`` at a time for as long as the ``with`` lasts.

    Raises `StackError` when another process owns it or when it cannot be made. Jobs hold prompts, so nobody but the
    user may read it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.logs = self.root / "logs"
        self.valkey = self.root / "valkey"
        self.files = self.root / "files"
        self.run = self.root / "run"
        self.metrics = self.run / "metrics"
        self._lock_file = self.root / "up.lock"
        self._lock: int | None = None

    def __enter__(self) -> DataDir:
        try:
            self._make()
            self._acquire()
            # Only now: what lies here belongs to the owner, and a stale ready file would be believed.
            shutil.rmtree(self.run, ignore_errors=True)
            for folder in (self.logs, self.valkey, self.files, self.run, self.metrics):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            self._release()
            raise StackError(f"cannot use the data directory {self.root}: {error.strerror} (--data-dir)") from error
        except StackError:
            self._release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._release()

    def encryption_key(self) -> str:
        """Return the key that this stack's webhook secrets are stored under, made at the first start and kept."""
        return self._kept("encryption.key", new_key)

    def flower_login(self) -> str:
        """Return the login of this stack's Flower (``user:password``), made at the first start and kept."""
        return self._kept("flower.login", lambda: f"admin:{secrets.token_urlsafe(18)}")

    def _kept(self, name: str, make: Callable[[], str]) -> str:
        file = self.root / name
        try:
            if not file.exists():
                # Whole or not at all, whenever this is killed.
                draft = file.with_suffix(".draft")
                with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
                    opened.write(make() + "\n")
                draft.replace(file)
            return file.read_text().strip()
        except OSError as error:
            raise StackError(f"cannot use {file}: {error.strerror}") from error

    def _make(self) -> None:
        if self.root.exists():
            if self.run.exists() and not self._lock_file.exists():
                # It is removed at each start.
                raise StackError(
                    f"{self.root} holds a folder `run` that is not PromptQ's: choose another directory with --data-dir"
                )
            return
        self.root.mkdir(mode=0o700, parents=True)
        (self.root / ".gitignore").write_text("*\n")

    def _acquire(self) -> None:
        self._lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._lock, 32).decode(errors="replace").strip()
            raise StackError(
                f"the data directory {self.root} is in use by another `promptq up` (process {holder or 'unknown'}): "
                "stop it, or choose another with --data-dir"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _release(self) -> None:
        # The file stays: removing it would let two owners lock two files of one name.
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
