"""What every storage does: a directory, and a bucket on a real S3 server."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from jobs.errors import ContentMissing, StorageOff, StorageUnavailable
from jobs.settings import Settings
from jobs.storage import CHUNK, Storage, open_storage
from jobs.storage.directory import DirectoryStorage
from jobs.storage.s3 import S3Storage
from tests import processes

T = TypeVar("T")
KEY = "files/0123456789abcdef"
OTHER = "batches/batch_1/part-000001.out"
BIG = os.urandom(CHUNK) * 20 + b"the rest"
NO_KEYS = [
    *("", "single", "/files/a", "files/", "files//a", "../a", "files/..", "files/../a", "files/.drafts", ".drafts/a"),
    *("files/a b", "files/é", "files/a\x00", "files/a\n", "files/a\\b", "files/-a", "files/" + "a" * 200),
]


class Cut(Exception):
    """What a test leaves a block by."""


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The settings for a running S3 server."""
    with processes.s3_server(tmp_path_factory.mktemp("s3")) as settings:
        yield settings


@pytest.fixture(params=["directory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """An empty storage of each kind."""
    if request.param == "directory":
        return open_storage(Settings(storage=str(tmp_path / "made" / "when needed")))
    for name, value in request.getfixturevalue("s3").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PROMPTQ_STORAGE", f"s3://promptq/{tmp_path.name.replace('[', '-').replace(']', '-')}")
    return open_storage(Settings())


def write(storage: Storage, key: str, *pieces: bytes) -> None:
    with storage.writer(key) as sink:
        for piece in pieces:
            sink.write(piece)


def read(storage: Storage, key: str, offset: int = 0) -> bytes:
    return b"".join(storage.read(key, offset))


@pytest.mark.parametrize("pieces", [(), (b"",), (b"one",), (b"one ", b"", b"two"), (BIG,), (BIG[:CHUNK], BIG[CHUNK:])])
def test_what_was_written_is_read(storage: Storage, pieces: tuple[bytes, ...]) -> None:
    """Content is what was written piece by piece, of any size, and is read in pieces that are not too large."""
    write(storage, KEY, *pieces)
    whole = b"".join(pieces)
    chunks = list(storage.read(KEY))
    assert b"".join(chunks) == whole
    assert all(0 < len(chunk) <= CHUNK for chunk in chunks)
    assert storage.size(KEY) == len(whole)


def test_content_is_read_from_any_byte_on(storage: Storage) -> None:
    """Reading begins where it is asked to; at the end and beyond it there is nothing."""
    write(storage, KEY, BIG)
    for offset in (0, 1, CHUNK - 1, CHUNK, 9 * CHUNK + 5, len(BIG) - 1, len(BIG), len(BIG) + 1):
        assert read(storage, KEY, offset) == BIG[offset:]


def test_content_appears_only_when_it_is_whole(storage: Storage) -> None:
    """Until the block ends well there is nothing under the key, or what was there before."""
    with storage.writer(KEY) as sink:
        sink.write(BIG)
        with pytest.raises(ContentMissing):
            storage.size(KEY)
        with pytest.raises(ContentMissing):
            storage.read(KEY)
        assert list(storage.keys("files")) == []
    with storage.writer(KEY) as sink:
        sink.write(b"new")
        assert read(storage, KEY) == BIG
    assert read(storage, KEY) == b"new"


@pytest.mark.parametrize("error", [Cut, KeyboardInterrupt])
@pytest.mark.parametrize("size", [0, 3, len(BIG)])
def test_nothing_appears_of_what_was_broken_off(storage: Storage, error: type[BaseException], size: int) -> None:
    """Where the block is left by an exception, nothing is left of it, and what was there stays."""

    def broken_off() -> None:
        with storage.writer(KEY) as sink:
            sink.write(BIG[:size])
            raise error

    with pytest.raises(error):
        broken_off()
    assert list(storage.keys("files")) == []
    assert storage.sweep(-5) == 0
    write(storage, KEY, b"before")
    with pytest.raises(error):
        broken_off()
    assert read(storage, KEY) == b"before"


def test_two_writers_of_one_key_do_not_mix(storage: Storage) -> None:
    """Of two that write under the same key, the last to end wins as a whole."""
    with storage.writer(KEY) as first:
        first.write(b"a" * CHUNK)
        write(storage, KEY, b"b" * CHUNK)
        first.write(b"a")
    assert read(storage, KEY) == b"a" * (CHUNK + 1)


def test_content_that_is_deleted_is_gone(storage: Storage) -> None:
    """A deleted key has no content, and can be deleted again."""
    write(storage, KEY, b"one")
    write(storage, OTHER, b"other")
    storage.delete(KEY)
    storage.delete(KEY)
    for gone in (storage.size, storage.read):
        with pytest.raises(ContentMissing):
            gone(KEY)
    assert read(storage, OTHER) == b"other"
    write(storage, KEY, b"again")
    assert read(storage, KEY) == b"again"


def test_reading_may_be_broken_off(storage: Storage) -> None:
    """A reader that is closed gives no more, and may be closed twice, or before it began."""
    write(storage, KEY, BIG)
    chunks = storage.read(KEY)
    assert next(chunks) == BIG[:CHUNK]
    chunks.close()
    chunks.close()
    assert list(chunks) == []
    storage.read(KEY).close()


def test_keys_are_those_below_a_folder(storage: Storage) -> None:
    """A listing has all keys below the folder, at any depth, and no others."""
    for key in ("batches/batch_1/a", "batches/batch_1/parts/b.out", "batches/batch_12/c", "files/d"):
        write(storage, key, b"x")
    assert sorted(storage.keys("batches/batch_1")) == ["batches/batch_1/a", "batches/batch_1/parts/b.out"]
    assert len(list(storage.keys("batches"))) == 3
    assert list(storage.keys("nothing/here")) == []


@pytest.mark.parametrize("key", NO_KEYS)
def test_only_keys_of_ours_are_taken(storage: Storage, key: str) -> None:
    """A key that could lead elsewhere is refused by every method."""
    uses: list[Callable[[], object]] = [
        lambda: write(storage, key, b""),
        lambda: storage.read(key),
        lambda: storage.size(key),
        lambda: storage.delete(key),
    ]
    if key not in ("single",):
        uses.append(lambda: list(storage.keys(key)))
    for use in uses:
        with pytest.raises(ValueError, match="storage key"):
            use()


def test_what_a_dead_writer_left_is_swept_away(storage: Storage) -> None:
    """A sweep removes what was begun and never ended, and it cannot appear any more."""
    left = storage.writer(KEY)
    left.__enter__().write(BIG)
    assert storage.sweep(-5) == 1
    assert storage.sweep(-5) == 0
    with pytest.raises(StorageUnavailable):
        left.__exit__(None, None, None)
    assert list(storage.keys("files")) == []


def test_what_is_being_written_is_left_alone(tmp_path: Path) -> None:
    """A sweep of a directory leaves alone what has grown lately."""
    storage = DirectoryStorage(tmp_path)
    with storage.writer(KEY) as sink:
        sink.write(BIG)
        assert storage.sweep() == 0
        assert storage.sweep(3600) == 0
    assert read(storage, KEY) == BIG


class Uploads:
    """A client of a store that has some unfinished uploads: moto's server gives them all one date."""

    def __init__(self) -> None:
        now = datetime.now(UTC)
        hours = {"files/young": 23, "files/old": 25, "batches/b/old": 25, "another-applications/old": 25}
        self.uploads = {name: now - timedelta(hours=passed) for name, passed in hours.items()}

    def get_paginator(self, name: str) -> Uploads:
        """The one that lists them."""
        assert name == "list_multipart_uploads"
        return self

    def paginate(self, **where: str) -> list[dict[str, object]]:
        """All of them, on a page each."""
        assert where["Bucket"] == "bucket"
        return [
            {"Uploads": [{"Key": name, "UploadId": name, "Initiated": begun}]}
            for name, begun in list(self.uploads.items())
            if name.startswith(where["Prefix"])
        ] + [{}]

    def abort_multipart_upload(self, **which: str) -> None:
        """Forget one."""
        assert which == {"Bucket": "bucket", "Key": which["UploadId"], "UploadId": which["UploadId"]}
        del self.uploads[which["UploadId"]]


def test_only_old_uploads_are_aborted() -> None:
    """A sweep of a bucket leaves alone what was begun less than a day ago, and what is not ours."""
    client = Uploads()
    assert S3Storage(client, "bucket", "").sweep() == 2
    assert set(client.uploads) == {"files/young", "another-applications/old"}


# --- A storage that fails --------------------------------------------------------------------------------------------


@pytest.fixture(params=["directory", "s3"])
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A storage that is not there: a file is in the directory's way; nobody listens at the endpoint."""
    if request.param == "directory":
        (tmp_path / "file").touch()
        return open_storage(Settings(storage=str(tmp_path / "file" / "below")))
    return open_storage(
        Settings(
            storage="s3://promptq",
            s3_endpoint=f"http://127.0.0.1:{processes.free_port()}",
            s3_region="us-east-1",
            s3_access_key_id="key",
            s3_secret_access_key="secret",
        )
    )


@pytest.mark.parametrize(
    "use",
    [
        lambda storage: write(storage, KEY, b"x"),
        lambda storage: storage.read(KEY),
        lambda storage: storage.size(KEY),
        lambda storage: storage.delete(KEY),
    ],
    ids=["write", "read", "size", "delete"],
)
def test_a_storage_that_is_away_is_told_of(broken: Storage, use: Callable[[Storage], object]) -> None:
    """Every method says in one error, worth a retry, that the storage does not answer; it quotes no address or path."""
    with pytest.raises(StorageUnavailable) as caught:
        use(broken)
    assert caught.value.retryable
    assert "127.0.0.1" not in caught.value.message
    assert "/" not in caught.value.message


def test_a_bucket_takes_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where boto3 is not installed, who asks for a bucket is told what to install."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "jobs.storage.s3")
    with pytest.raises(ValueError, match="pip install boto3"):
        open_storage(Settings(storage="s3://promptq"))


def test_no_storage_takes_nothing() -> None:
    """With PROMPTQ_STORAGE=none every method says that files are not set up."""
    storage = open_storage(Settings(storage="none"))
    for use in (storage.writer, storage.read, storage.size, storage.delete, storage.keys):
        with pytest.raises(StorageOff, match="PROMPTQ_STORAGE"):
            use("files/a")


# --- A directory alone -----------------------------------------------------------------------------------------------


def test_nobody_else_can_read_a_directory(tmp_path: Path) -> None:
    """Files and the folders that are made for them are for their user only."""
    storage = DirectoryStorage(tmp_path / "root")
    before = os.umask(0)
    try:
        write(storage, OTHER, b"x")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "root").rglob("*")}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_empty_folders_go(tmp_path: Path) -> None:
    """Where the last content of a folder is deleted, the folder goes; the first one below the root stays."""
    storage = DirectoryStorage(tmp_path)
    write(storage, "batches/batch_1/parts/a", b"x")
    write(storage, "batches/batch_2/a", b"x")
    storage.delete("batches/batch_1/parts/a")
    assert sorted(path.name for path in (tmp_path / "batches").iterdir()) == ["batch_2"]


def test_a_full_disk_is_told_of_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk is full the caller is told so, and no draft stays on it."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    storage = DirectoryStorage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageUnavailable, match="full"):
            write(storage, KEY, b"x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_content_that_is_deleted_meanwhile_is_read_to_its_end(tmp_path: Path) -> None:
    """Who has begun to read gets all of it."""
    storage = DirectoryStorage(tmp_path)
    write(storage, KEY, BIG)
    chunks = storage.read(KEY)
    first = next(chunks)
    storage.delete(KEY)
    assert first + b"".join(chunks) == BIG


def test_all_that_touches_the_disk_is_done_elsewhere(tmp_path: Path) -> None:
    """What is given as ``offload`` runs every step that may wait for a disk."""
    opened = threading.local()
    opened.allowed = False

    def offload(work: Callable[[], T], /) -> T:
        opened.allowed = True
        try:
            return work()
        finally:
            opened.allowed = False

    used: list[str] = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        about = str(arguments[0]) if arguments else ""
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and str(tmp_path) in about:
            used.append(event)
            assert opened.allowed, event

    sys.addaudithook(watch)  # it stays, and knows this test's folder only
    storage = DirectoryStorage(tmp_path / "root", offload=offload)
    write(storage, OTHER, BIG)
    assert read(storage, OTHER) == BIG
    assert list(storage.keys("batches")) == [OTHER]
    storage.delete(OTHER)
    storage.sweep()
    assert {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"} <= set(used)
