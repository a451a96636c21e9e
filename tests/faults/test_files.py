"""The API dies, or is stopped, in the middle of an upload."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from jobs import queues
from jobs.errors import ContentMissing
from jobs.files import FileStore
from jobs.redis_clients import worker_client
from jobs.scripts import Scripts
from jobs.settings import Settings
from jobs.storage.directory import DirectoryStorage
from tests.faults.room import Room
from tests.processes import eventually

HEAD = (
    b'--BB\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--BB\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
)
TAIL = b"\r\n--BB--\r\n"
DATA = b"a prompt\n" * 100_000


@contextmanager
def begun(room: Room) -> Iterator[socket.socket]:
    """An upload of which all but the end has arrived."""
    url = httpx2.URL(room.cluster.api)
    size = len(HEAD) + len(DATA) + len(TAIL)
    lines = ["POST /v1/files HTTP/1.1", "Host: 127.0.0.1", "Authorization: Bearer local"]
    lines += ["Content-Type: multipart/form-data; boundary=BB", f"Content-Length: {size}", "", ""]
    with socket.create_connection((url.host, url.port), timeout=20) as connection:
        connection.sendall("\r\n".join(lines).encode() + HEAD + DATA)
        eventually(lambda: kept(room))
        yield connection


def kept(room: Room) -> list[Path]:
    """All that is in the storage, drafts among it."""
    return [path for path in (room.cluster.folder / "files").rglob("*") if path.is_file()]


@pytest.fixture
def files(room: Room) -> Iterator[FileStore]:
    """The cluster's files, as a worker has them."""
    client = worker_client(Settings(redis_url=room.cluster.redis))
    yield FileStore(client, Scripts(client), DirectoryStorage(room.cluster.folder / "files"))
    client.close()


def test_an_api_killed_in_an_upload_leaves_nothing_for_good(room: Room, files: FileStore) -> None:
    """kill -9 in mid-upload: there is no file, and what was written is swept away."""
    with begun(room):
        room.cluster.parts["api"].kill_group()
    room.cluster.start_api()
    assert room.client.get("/v1/files").json()["data"] == []
    assert len(kept(room)) == 1
    assert files.storage.sweep(-5) == 1
    (content,) = room.store.zrange(queues.GARBAGE, 0, -1)
    with pytest.raises(ContentMissing):
        files.storage.size(content.decode())
    room.store.zadd(queues.GARBAGE, {content: 1})
    assert files.purge_expired() == 1
    assert (kept(room), room.store.zcard(queues.GARBAGE)) == ([], 0)


def test_an_api_killed_before_it_makes_the_file_leaves_nothing_for_good(room: Room, files: FileStore) -> None:
    """kill -9 between the content and its record: a worker deletes the content when its day is over."""
    content = files.reserve()
    with files.storage.writer(content) as sink:
        sink.write(DATA)
    assert len(kept(room)) == 1
    room.store.zadd(queues.GARBAGE, {content: 1})
    room.cluster.start_worker()
    # A worker looks within a minute of its start.
    eventually(lambda: kept(room), lambda found: found == [], within=75)
    # It forgets the content once that is deleted.
    eventually(lambda: room.store.zcard(queues.GARBAGE), lambda left: left == 0)


def test_an_api_that_is_stopped_ends_its_uploads(room: Room) -> None:
    """SIGTERM in mid-upload: the upload has the grace period, and is answered."""
    room.cluster.end("api")
    room.cluster.start_api(PROMPTQ_GRACE_SECONDS="15")
    with begun(room) as connection:
        room.cluster.parts["api"].terminate()
        connection.sendall(TAIL)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:200]
    assert room.cluster.parts["api"].died() == 0
    room.cluster.start_api()
    (file,) = room.client.get("/v1/files").json()["data"]
    assert room.client.get(f"/v1/files/{file['id']}/content").content == DATA
    room.client.delete(f"/v1/files/{file['id']}").raise_for_status()
    assert kept(room) == []
