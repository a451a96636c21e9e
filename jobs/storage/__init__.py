"""Where the bytes of files live: a directory, or a bucket of an S3-compatible store. Their records are in Redis.

Keys are ours alone (``files/file-…``, ``batches/batch_…/part-000001.out``) and never made of what a user sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol, TypeVar

from jobs.errors import StorageOff, StorageUnavailable
from jobs.settings import Settings

#: ``PROMPTQ_STORAGE`` where there shall be no files.
OFF: Final = "none"
S3_SCHEME: Final = "s3://"
#: What ``Storage.read`` gives at once, in bytes.
CHUNK: Final = 1024 * 1024
#: What a writer that died has left is taken away after so long (seconds): no upload or part of a batch takes longer.
ABANDONED_AFTER: Final = 24 * 3600

#: Where keys begin: contents of files, and parts of batches' results.
FOLDERS: Final = ("files", "batches")
_PART = r"[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*"
_KEY: Final = re.compile(rf"{_PART}(/{_PART})+")
_FOLDER: Final = re.compile(rf"{_PART}(/{_PART})*")
_LONGEST: Final = 200

T = TypeVar("T")


class Offload(Protocol):
    """Runs work that may block for long (a disk) where it holds up nobody else, and gives its result."""

    def __call__(self, work: Callable[[], T], /) -> T: ...


class Sink(Protocol):
    """Where the content that is being written goes, piece by piece."""

    def write(self, data: bytes, /) -> None:
        """Take the next piece. Raises ``StorageUnavailable``."""


class Chunks(Iterator[bytes], Protocol):
    """Content that is being read, in pieces of at most ``CHUNK`` bytes; to be closed if it is not read to its end."""

    def close(self) -> None:
        """Let go of it. May be called twice."""


class Storage(Protocol):
    """Contents under keys. Every method raises ``StorageUnavailable`` where the storage does not do what it should,
    and ``ValueError`` for a key that cannot be one of ours."""

    def writer(self, key: str, /) -> AbstractContextManager[Sink]:
        """Content that appears under ``key``, whole, when the block ends well, in place of what was there.

        If the block is left by an exception nothing appears, and what was there stays.
        """

    def read(self, key: str, /, offset: int = 0) -> Chunks:
        """The content from this byte on; nothing if it has no more bytes. Raises ``ContentMissing`` at once."""

    def size(self, key: str, /) -> int:
        """The content's size in bytes. Raises ``ContentMissing``."""

    def delete(self, key: str, /) -> None:
        """Remove the content, if there is any."""

    def keys(self, folder: str, /) -> Iterator[str]:
        """The keys below a folder (``batches/batch_…``), in no order; what comes or goes meanwhile may be missed."""

    def sweep(self, older_than: float = ABANDONED_AFTER, /) -> int:
        """Remove what writers that died have left, if it is older than so many seconds; answer how many."""


def open_storage(settings: Settings, *, offload: Offload | None = None) -> Storage:
    """The storage that the settings name. Nothing is connected or made until it is used.

    ``offload``: for a process with an event loop, what keeps the disk from holding that up. Raises ``ValueError`` where
    boto3 is needed and not installed.
    """
    if settings.storage == OFF:
        return NoStorage()
    if not settings.storage.startswith(S3_SCHEME):
        from jobs.storage.directory import DirectoryStorage

        return DirectoryStorage(Path(settings.storage), offload=offload or directly)
    try:
        from jobs.storage.s3 import S3Storage
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("boto3", "botocore"):
            raise
        raise ValueError("PROMPTQ_STORAGE is s3://…, which needs boto3: pip install boto3") from error
    return S3Storage.from_settings(settings)


def directly(work: Callable[[], T], /) -> T:
    """Do it here and now: an ``Offload`` for a process without an event loop."""
    return work()


def checked_key(key: str) -> str:
    """The key. Raises ``ValueError`` if it is none of ours."""
    if len(key) > _LONGEST or not _KEY.fullmatch(key):
        raise ValueError(f"not a storage key: {key[:_LONGEST]!r}")
    return key


def checked_folder(folder: str) -> str:
    """The folder of keys, without a slash at its end. Raises ``ValueError`` if it is none of ours."""
    if len(folder) > _LONGEST or not _FOLDER.fullmatch(folder):
        raise ValueError(f"not a folder of storage keys: {folder[:_LONGEST]!r}")
    return folder


def unavailable(problem: str = "does not answer") -> StorageUnavailable:
    """The error for a storage that fails; the log, not the caller, is told by what."""
    return StorageUnavailable(f"The file storage {problem}. Try again.", retry_after=2)


class NoStorage:
    """No files on this server (``PROMPTQ_STORAGE=none``): every method raises ``StorageOff``."""

    def writer(self, key: str, /) -> AbstractContextManager[Sink]:
        """Raises ``StorageOff``, as all do."""
        raise _off()

    def read(self, key: str, /, offset: int = 0) -> Chunks:
        """Raises ``StorageOff``."""
        raise _off()

    def size(self, key: str, /) -> int:
        """Raises ``StorageOff``."""
        raise _off()

    def delete(self, key: str, /) -> None:
        """Raises ``StorageOff``."""
        raise _off()

    def keys(self, folder: str, /) -> Iterator[str]:
        """Raises ``StorageOff``."""
        raise _off()

    def sweep(self, older_than: float = ABANDONED_AFTER, /) -> int:
        """Raises ``StorageOff``."""
        raise _off()


def _off() -> StorageOff:
    return StorageOff(f"Files are not set up on this server: PROMPTQ_STORAGE is {OFF}.")
