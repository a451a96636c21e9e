"""Contents as files in a directory, which all API and worker processes share."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import structlog

from jobs.errors import ContentMissing
from jobs.storage import ABANDONED_AFTER, CHUNK, Offload, checked_folder, checked_key, directly, unavailable

_log = structlog.get_logger("promptq.storage")
#: Where unfinished contents lie: no key begins so.
_DRAFTS: Final = ".drafts"
#: The system is made to write as often as that (bytes), so that no single step of the disk takes long.
_SYNC_EVERY: Final = 8 * 1024 * 1024
#: Like an answer of 507: it takes an operator.
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class DirectoryStorage:
    """A ``Storage`` in a directory, which is made when it is needed. Prompts lie in it: only its user may read it."""

    def __init__(self, root: Path, *, offload: Offload = directly) -> None:
        self._root = root.absolute()
        self._offload = offload

    @contextlib.contextmanager
    def writer(self, key: str, /) -> Iterator[_Draft]:
        """As ``Storage.writer``: a draft, fsynced and then renamed, and the rename fsynced, too."""
        target = self._path(key)
        with _errors("write"):
            draft = self._offload(lambda: _Draft(self._new_draft(), self._offload))
        try:
            yield draft
            with _errors("write"):
                self._offload(lambda: draft.publish(target))
        finally:
            # After the rename there is nothing left to remove.
            self._offload(draft.discard)

    def read(self, key: str, /, offset: int = 0) -> _Chunks:
        """As ``Storage.read``. Content that is deleted meanwhile is read to its end all the same."""
        path = self._path(key)

        def opened() -> IO[bytes]:
            file = path.open("rb")
            file.seek(offset)
            return file

        with _errors("read"):
            return _Chunks(self._offload(opened), self._offload)

    def size(self, key: str, /) -> int:
        """As ``Storage.size``."""
        path = self._path(key)
        with _errors("size"):
            return self._offload(lambda: path.stat().st_size)

    def delete(self, key: str, /) -> None:
        """As ``Storage.delete``; folders that become empty go, too."""
        path = self._path(key)

        def remove() -> None:
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder.parent in (self._root, folder):
                    break
                try:
                    folder.rmdir()
                except OSError:
                    break  # it is not empty, or gone already

        with _errors("delete"):
            self._offload(remove)

    def keys(self, folder: str, /) -> Iterator[str]:
        """As ``Storage.keys``."""
        top = self._root / checked_folder(folder)
        with _errors("list"):
            found = self._offload(lambda: [Path(at, name) for at, _, names in os.walk(top) for name in names])
        for path in found:
            yield path.relative_to(self._root).as_posix()

    def sweep(self, older_than: float = ABANDONED_AFTER, /) -> int:
        """As ``Storage.sweep``: drafts that have not grown for so long."""
        before = time.time() - older_than

        def remove() -> int:
            removed = 0
            for draft in (self._root / _DRAFTS).glob("*"):
                # A writer may end, or another sweep remove it, at this very moment.
                with contextlib.suppress(FileNotFoundError):
                    if draft.stat().st_mtime < before:
                        draft.unlink()
                        removed += 1
            return removed

        with _errors("sweep"):
            return self._offload(remove)

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    def _new_draft(self) -> Path:
        folder = self._root / _DRAFTS
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder / secrets.token_hex(16)


class _Draft:
    """Content on its way. A buffered file, since its lock keeps ``discard`` off a write that still runs elsewhere."""

    def __init__(self, path: Path, offload: Offload) -> None:
        self._path = path
        self._offload = offload
        self._unsynced = 0
        self._file = open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")  # noqa: SIM115

    def write(self, data: bytes, /) -> None:
        """As ``Sink.write``."""
        with _errors("write"):
            self._offload(lambda: self._write(data))

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._unsynced += len(data)
        if self._unsynced >= _SYNC_EVERY:
            self._sync()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._unsynced = 0

    def publish(self, target: Path) -> None:
        self._sync()
        self._file.close()
        while True:
            _make(target.parent)
            try:
                self._path.replace(target)
            except FileNotFoundError:
                # Another process has just removed the folder, which was empty. But is the draft still there?
                if not self._path.exists():
                    raise
                continue
            break
        _sync_folder(target.parent)

    def discard(self) -> None:
        # What cannot be written any more need not be; what stays of it, a sweep takes.
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


class _Chunks:
    """The rest of an open file."""

    def __init__(self, file: IO[bytes], offload: Offload) -> None:
        self._file = file
        self._offload = offload

    def __iter__(self) -> _Chunks:
        return self

    def __next__(self) -> bytes:
        if self._file.closed:
            raise StopIteration
        try:
            with _errors("read"):
                chunk = self._offload(lambda: self._file.read(CHUNK))
        except BaseException:
            self.close()
            raise
        if not chunk:
            self.close()
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _make(folder: Path) -> None:
    """Make a folder and those above it, all for its user only, and each there for good."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        _make(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _errors(operation: str) -> Iterator[None]:
    """Turn the system's errors into ours."""
    try:
        yield
    except FileNotFoundError as error:
        if operation in ("read", "size"):
            raise ContentMissing("The content of this file is gone.") from error
        _log.error("storage.failed", step=operation, error=errno.errorcode.get(error.errno or 0))
        raise unavailable() from error
    except OSError as error:
        _log.error("storage.failed", step=operation, error=errno.errorcode.get(error.errno or 0))
        raise unavailable("is full" if error.errno in _FULL else "does not answer") from error
