"""Files at the store: their records, and that no content is left for good."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from jobs import queues
from jobs.errors import (
    ContentMissing,
    IdempotencyConflict,
    NotFound,
    OutcomeUnknown,
    StorageUnavailable,
    StoreUnavailable,
)
from jobs.files import File, FileStore, NewFile, new_file_id
from jobs.redis_clients import NotSent, worker_client
from jobs.scripts import Scripts
from jobs.settings import Settings
from jobs.storage.directory import DirectoryStorage
from jobs.store import JobStore
from tests.processes import eventually

DAY = 24 * 3600


class Fragile(DirectoryStorage):
    """A directory that refuses to delete what it is told to."""

    refused: frozenset[str] = frozenset()
    asked = 0

    def delete(self, key: str, /) -> None:
        """Delete it, unless it is one of ``refused``."""
        self.asked += 1
        if key in self.refused:
            raise StorageUnavailable("The file storage does not answer.")
        super().delete(key)


@pytest.fixture
def storage(tmp_path: Path) -> Fragile:
    """An empty directory."""
    return Fragile(tmp_path / "files")


@pytest.fixture
def files(redis_client: redis.Redis, redis_url: str, storage: Fragile) -> Iterator[FileStore]:
    """Files on an empty database and in an empty directory."""
    client = worker_client(Settings(redis_url=redis_url))
    yield FileStore(client, Scripts(client), storage)
    client.close()


def written(files: FileStore, data: bytes = b"x") -> str:
    """The key of new content."""
    content = files.reserve()
    with files.storage.writer(content) as sink:
        sink.write(data)
    return content


def make(files: FileStore, data: bytes = b"x", **changes: Any) -> File:
    """A file of ann's, but for the changes."""
    known: dict[str, Any] = {"owner": "ann", "filename": "in.jsonl", "purpose": "batch", "lifetime": 30 * DAY}
    content = changes.pop("content", None) or written(files, data)
    return files.create(NewFile(**(known | {"size": len(data), "content": content} | changes)))


def names(files: FileStore, owner: str = "ann", **asked: Any) -> list[str]:
    return [file.filename for file in files.page(owner, **asked).files]


def kept(storage: Fragile) -> set[str]:
    """All contents in the storage."""
    return {*storage.keys("files"), *storage.keys("batches")}


def make_due(client: redis.Redis, *contents: str) -> None:
    """As if the time for these to be deleted had come."""
    for content in contents:
        assert client.zadd(queues.GARBAGE, {content: 1}, xx=True, ch=True) == 1


def test_a_file_is_as_it_was_made(files: FileStore, redis_client: redis.Redis) -> None:
    """A file has its name, purpose, size, times and content; its owner alone finds it."""
    made = make(files, b"some bytes", filename="Ünï 文.jsonl", purpose="user_data", lifetime=None)
    assert queues.FILE_ID_PATTERN.fullmatch(made.id)
    assert (made.owner, made.filename, made.purpose, made.size) == ("ann", "Ünï 文.jsonl", "user_data", 10)
    assert made.created_at == pytest.approx(redis_client.time()[0], abs=5)
    assert made.expires_at is None
    assert files.get(made.id, "ann") == made
    assert b"".join(files.read(made)) == b"some bytes"
    assert b"".join(files.read(made, 5)) == b"bytes"
    with pytest.raises(NotFound):
        files.get(made.id, "bob")
    with pytest.raises(NotFound):
        files.get(new_file_id(), "ann")


def test_listings_are_paged_in_either_order(files: FileStore) -> None:
    """The newest stand first unless the oldest are asked for; a page begins after the file that is named."""
    made = [make(files, filename=str(number)) for number in range(5)]
    assert names(files) == ["4", "3", "2", "1", "0"]
    assert names(files, ascending=True) == ["0", "1", "2", "3", "4"]
    page = files.page("ann", limit=2)
    assert ([file.filename for file in page.files], page.has_more) == (["4", "3"], True)
    page = files.page("ann", limit=2, after=made[3].id)
    assert ([file.filename for file in page.files], page.has_more) == (["2", "1"], True)
    page = files.page("ann", limit=2, after=made[2].id)
    assert ([file.filename for file in page.files], page.has_more) == (["1", "0"], False)
    page = files.page("ann", limit=2, after=made[3].id, ascending=True)
    assert ([file.filename for file in page.files], page.has_more) == (["4"], False)
    for unknown in (new_file_id(), make(files, owner="bob").id):
        with pytest.raises(NotFound):
            files.page("ann", after=unknown)


def test_a_long_listing_is_whole(files: FileStore) -> None:
    """More files than are asked for at once come all, once each, also where some have vanished."""
    content = written(files)
    made = []
    for number in range(1203):
        # All of one content: it is the records that are listed.
        files._scripts.file_reserve(args=[content, 1000_000])
        made.append(make(files, content=content, filename=str(number), lifetime=None))
    files._client.delete(*(queues.file_key(file.id) for file in made[100:700]))
    left = [*range(100), *range(700, 1203)]
    assert names(files, ascending=True) == [str(number) for number in left]
    page = files.page("ann", limit=600)
    assert ([int(file.filename) for file in page.files], page.has_more) == (left[:2:-1], True)


def test_listings_know_owner_and_purpose(files: FileStore) -> None:
    """A listing has one owner's files only, and only those of the purpose that is asked for."""
    make(files, filename="a")
    make(files, filename="b", purpose="batch_output")
    make(files, filename="c", owner="bob")
    assert names(files) == ["b", "a"]
    assert names(files, purpose="batch") == ["a"]
    assert names(files, purpose="batch_output") == ["b"]
    assert names(files, purpose="evals") == []
    assert names(files, owner="bob") == ["c"]
    assert names(files, owner="eve") == []


def test_a_deleted_file_leaves_nothing(files: FileStore, storage: Fragile, redis_client: redis.Redis) -> None:
    """A deleted file is gone from every place, and its content with it; others' files cannot be deleted."""
    other = make(files, owner="bob", lifetime=None)
    made = make(files)
    for owner in ("bob", "eve"):
        with pytest.raises(NotFound):
            files.delete(made.id, owner)
    files.delete(made.id, "ann")
    for gone in (files.get, files.delete):
        with pytest.raises(NotFound):
            gone(made.id, "ann")
    assert names(files) == []
    assert kept(storage) == {other.content}
    with pytest.raises(ContentMissing):
        files.read(made)
    left = {key.decode() for key in redis_client.keys("*")}
    about_bob = {queues.file_key(other.id), queues.files_key("bob", "all"), queues.files_key("bob", "batch")}
    assert left == {*about_bob, f"{queues.PREFIX}file-seq"}


def test_an_expired_file_is_gone_at_once_and_its_content_soon(
    files: FileStore, storage: Fragile, store: JobStore, redis_client: redis.Redis
) -> None:
    """After its time a file is not found any more; tidying up then takes content and index entries."""
    made = make(files, lifetime=1)
    stays = make(files, filename="stays")
    assert made.expires_at == pytest.approx(made.created_at + 1)
    assert stays.expires_at == pytest.approx(stays.created_at + 30 * DAY)
    assert files.purge_expired() == 0
    eventually(lambda: names(files), lambda found: found == ["stays"])
    with pytest.raises(NotFound):
        files.get(made.id, "ann")
    assert eventually(files.purge_expired) == 1
    assert kept(storage) == {stays.content}
    assert store.upkeep.purge_expired() == 2
    for leaf in ("all", "batch"):
        assert redis_client.zrange(queues.files_key("ann", leaf), 0, -1) == [stays.id.encode()]


def test_content_that_no_file_takes_is_deleted(files: FileStore, storage: Fragile, redis_client: redis.Redis) -> None:
    """What was written by a process that died before it made the file goes after a day, and not before."""
    content = written(files)
    assert files.purge_expired() == 0
    due = float(redis_client.zscore(queues.GARBAGE, content)) / 1000
    assert due == pytest.approx(redis_client.time()[0] + DAY, abs=5)
    make_due(redis_client, content)
    assert files.purge_expired() == 1
    assert kept(storage) == set()
    assert redis_client.zcard(queues.GARBAGE) == 0


def test_content_that_is_being_deleted_makes_no_file(
    files: FileStore, storage: Fragile, redis_client: redis.Redis
) -> None:
    """A file whose content took longer than a day to write is refused, and the content goes."""
    for after_purge in (False, True):
        content = written(files)
        make_due(redis_client, content)
        if after_purge:
            files.purge_expired()
        with pytest.raises(StorageUnavailable, match="too long"):
            make(files, content=content)
        assert kept(storage) == set()
    assert names(files) == []


def test_a_lasting_file_keeps_its_content(files: FileStore, storage: Fragile, redis_client: redis.Redis) -> None:
    """A file without an expiry is not garbage in any time."""
    made = make(files, lifetime=None)
    assert redis_client.zcard(queues.GARBAGE) == 0
    assert kept(storage) == {made.content}


def test_an_idempotency_key_makes_one_file(files: FileStore, storage: Fragile) -> None:
    """The same upload under the same key gives the file that is there; another is a conflict; the new content goes."""
    first = make(files, idempotency_key="k", fingerprint="f")
    assert make(files, idempotency_key="k", fingerprint="f") == first
    with pytest.raises(IdempotencyConflict):
        make(files, idempotency_key="k", fingerprint="g")
    assert kept(storage) == {first.content}
    other = make(files, owner="bob", idempotency_key="k", fingerprint="g")
    assert other.id != first.id
    files.delete(first.id, "ann")
    again = make(files, idempotency_key="k", fingerprint="g")
    assert again.id != first.id
    assert kept(storage) == {other.content, again.content}


def test_a_step_that_is_sent_twice_makes_one_file(files: FileStore, storage: Fragile) -> None:
    """A replay after a lost reply changes nothing; the same id with another content keeps the first."""
    content, file_id = written(files), new_file_id()
    args = [file_id, "ann", "a", "batch", 1, content, 1000_000, "", "", 1]
    assert files._scripts.file_create(args=args)[:2] == [b"created", file_id.encode()]
    before = files.get(file_id, "ann")
    assert files._scripts.file_create(args=args)[:2] == [b"created", file_id.encode()]
    second = written(files)
    files._scripts.file_create(args=[*args[:5], second, *args[6:]])
    assert files.get(file_id, "ann") == before
    assert names(files) == ["a"]
    assert files.purge_expired() == 1
    assert kept(storage) == {content}


@pytest.mark.parametrize("ran", [True, False])
def test_a_lost_reply_loses_no_file(files: FileStore, storage: Fragile, redis_client: redis.Redis, ran: bool) -> None:
    """Where the reply is lost nobody knows: content stays for a day if no file was made, else for good."""
    step = files._scripts.file_create

    def lose(**given: Any) -> None:
        if ran:
            step(**given)
        raise redis.ConnectionError

    content = written(files)
    files._scripts.file_create = lose  # type: ignore[assignment]
    with pytest.raises(OutcomeUnknown):
        make(files, content=content, lifetime=None)
    assert kept(storage) == {content}
    assert redis_client.zcard(queues.GARBAGE) == (0 if ran else 1)
    assert len(names(files)) == ran


def test_what_was_never_asked_for_leaves_nothing(files: FileStore, storage: Fragile) -> None:
    """Where Redis was certainly not asked, no file was made, and the content goes at once."""

    def refuse(**_: Any) -> None:
        raise NotSent

    content = written(files)
    files._scripts.file_create = refuse  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable):
        make(files, content=content)
    assert kept(storage) == set()


def test_what_cannot_be_deleted_now_is_deleted_later(
    files: FileStore, storage: Fragile, redis_client: redis.Redis
) -> None:
    """A storage that refuses to delete fails no deletion of a file; the content goes when it can."""
    made = make(files)
    storage.refused = frozenset({made.content})
    files.delete(made.id, "ann")
    assert names(files) == []
    with pytest.raises(StorageUnavailable):
        files.purge_expired()
    storage.refused = frozenset()
    assert files.purge_expired() == 1
    assert kept(storage) == set()
    assert redis_client.zcard(queues.GARBAGE) == 0


def test_one_refusal_holds_up_no_others(files: FileStore, storage: Fragile, redis_client: redis.Redis) -> None:
    """Contents that can be deleted are, although others cannot; a storage that refuses all is soon left alone."""
    contents = [written(files) for _ in range(10)]
    make_due(redis_client, *contents)
    storage.refused = frozenset(contents[:2])
    with pytest.raises(StorageUnavailable):
        files.purge_expired()
    assert kept(storage) == storage.refused
    contents = [written(files) for _ in range(10)]
    make_due(redis_client, *contents)
    storage.refused = frozenset(kept(storage))
    storage.asked = 0
    with pytest.raises(StorageUnavailable):
        files.purge_expired()
    assert storage.asked == 3


def test_what_is_refused_for_good_holds_up_nothing_else(
    files: FileStore, storage: Fragile, redis_client: redis.Redis
) -> None:
    """Contents that can never be deleted, however many, are asked for behind all others from then on."""
    contents = [written(files) for _ in range(20)]
    make_due(redis_client, *contents)
    storage.refused = frozenset(sorted(contents)[:5])
    for _ in range(3):
        with pytest.raises(StorageUnavailable):
            files.purge_expired()
    assert kept(storage) == storage.refused
    storage.refused = frozenset()
    assert files.purge_expired() == 5


def test_a_folder_of_contents_is_deleted_as_a_whole(
    files: FileStore, storage: Fragile, redis_client: redis.Redis
) -> None:
    """A member with a slash at its end stands for all that is below it."""
    for key in ("batches/batch_1/a", "batches/batch_1/b/c", "batches/batch_2/a"):
        with storage.writer(key) as sink:
            sink.write(secrets.token_bytes(3))
    redis_client.zadd(queues.GARBAGE, {"batches/batch_1/": 1, "batches/batch_9/": 1})
    assert files.purge_expired() == 2
    assert kept(storage) == {"batches/batch_2/a"}
    assert redis_client.zcard(queues.GARBAGE) == 0
