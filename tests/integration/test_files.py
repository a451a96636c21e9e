"""Files through the running API: the unchanged SDK, large uploads, clients that go away, a bucket for a folder."""

from __future__ import annotations

import io
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest
from openai.types import FileObject

from tests import processes
from tests.integration.conftest import QUICK_RETRIES, own_database
from tests.integration.test_sdk import Sdk, sdk
from tests.processes import Stack, eventually

__all__ = ["sdk"]
LINE = b'{"custom_id": "request-1", "method": "POST", "url": "/v1/responses", "body": {"model": "sim", "input": "x"}}\n'
MAX = 200 * 1024 * 1024


def kept(stack: Stack) -> list[Path]:
    """All files in the stack's storage, drafts among them."""
    return [path for path in (stack.folder / "data" / "files").rglob("*") if path.is_file()]


class Form(io.RawIOBase):
    """A form with a file of so many bytes, made as it is read."""

    boundary = "bound"

    def __init__(self, size: int) -> None:
        head = 'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--bound\r\n'
        head += 'Content-Disposition: form-data; name="file"; filename="big.jsonl"\r\n\r\n'
        self._parts = [f"--{self.boundary}\r\n{head}".encode(), size, f"\r\n--{self.boundary}--\r\n".encode()]
        self.size = sum(len(part) if isinstance(part, bytes) else part for part in self._parts)
        self._block = (LINE * (65536 // len(LINE) + 1))[:65536]

    def __iter__(self) -> Iterator[bytes]:
        head, size, tail = self._parts
        yield head  # type: ignore[misc]
        for at in range(0, size, 65536):  # type: ignore[call-overload]
            yield self._block[: size - at]
        yield tail  # type: ignore[misc]


def send(client: httpx2.Client, size: int, *, chunked: bool = False) -> httpx2.Response:
    """Upload a file of so many bytes, and never hold it."""
    form = Form(size)
    headers = {"Content-Type": f"multipart/form-data; boundary={form.boundary}"}
    if not chunked:
        headers["Content-Length"] = str(form.size)
    return client.post("/v1/files", content=iter(form), headers=headers, timeout=120)


# --- The SDK ---------------------------------------------------------------------------------------------------------


def test_a_file_through_the_sdk(sdk: Sdk, stack: Stack) -> None:
    """Create, retrieve, list, content and delete, with the SDK's own types."""
    before = time.time()
    made = sdk(lambda client: client.files.create(file=("in.jsonl", LINE * 3), purpose="batch"))
    assert isinstance(made, FileObject)
    assert (made.filename, made.bytes, made.purpose, made.status) == ("in.jsonl", 3 * len(LINE), "batch", "processed")
    assert made.object == "file"
    assert before - 5 < made.created_at < time.time() + 5
    assert made.expires_at == made.created_at + 30 * 24 * 3600
    assert sdk(lambda client: client.files.retrieve(made.id)) == made
    assert made.id in {file.id for file in sdk(lambda client: client.files.list(purpose="batch")).data}
    assert sdk(lambda client: client.files.content(made.id)).read() == LINE * 3
    gone = sdk(lambda client: client.files.delete(made.id))
    assert (gone.id, gone.object, gone.deleted) == (made.id, "file", True)
    for call in ("retrieve", "content", "delete"):
        with pytest.raises(openai.NotFoundError):
            sdk(lambda client, call=call: getattr(client.files, call)(made.id))


def test_a_file_from_disk_expires_when_it_shall(sdk: Sdk, tmp_path: Path) -> None:
    """An open file is uploaded under its name, and ``expires_after`` is honoured."""
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(LINE)
    policy = {"anchor": "created_at", "seconds": 3600}
    with path.open("rb") as opened:
        made = sdk(lambda client: client.files.create(file=opened, purpose="user_data", expires_after=policy))
    assert (made.filename, made.expires_at) == ("prompts.jsonl", made.created_at + 3600)
    with pytest.raises(openai.BadRequestError) as caught:
        sdk(
            lambda client: client.files.create(
                file=("a", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 5}
            )
        )
    assert caught.value.param == "expires_after[seconds]"


def test_the_sdk_pages_through_a_listing(sdk: Sdk) -> None:
    """Iterating fetches page after page, each file once, in the order that is asked for."""
    made = [
        sdk(lambda client, number=number: client.files.create(file=(f"{number}", b"x"), purpose="evals")).id
        for number in range(3)
    ]
    page = sdk(lambda client: client.files.list(purpose="evals", limit=2))
    assert ([file.id for file in page.data], page.has_more) == ([made[2], made[1]], True)
    page = sdk(lambda client: client.files.list(purpose="evals", limit=2, after=page.data[-1].id))
    assert page.data[0].id == made[0]
    page = sdk(lambda client: client.files.list(purpose="evals", order="asc", after=made[0]))
    assert [file.id for file in page.data] == made[1:]
    for file_id in made:
        sdk(lambda client, file_id=file_id: client.files.delete(file_id))


def test_owners_see_their_own_files_alone(alice: httpx2.Client, bob: httpx2.Client) -> None:
    """A file of another owner is a 404, at every door."""
    file_id = alice.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a", LINE)}).json()["id"]
    for answer in (
        bob.get(f"/v1/files/{file_id}"),
        bob.get(f"/v1/files/{file_id}/content"),
        bob.delete(f"/v1/files/{file_id}"),
    ):
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"
    assert bob.get("/v1/files").json()["data"] == []
    assert alice.get(f"/v1/files/{file_id}/content").content == LINE
    assert alice.delete(f"/v1/files/{file_id}").json()["deleted"] is True


# --- Large files, and clients that go away ---------------------------------------------------------------------------


def resident(stack: Stack) -> int:
    """The memory of the API's processes, in bytes."""
    api = psutil.Process(stack.processes["api"])
    return sum(process.memory_info().rss for process in [api, *api.children(recursive=True)])


class Watch:
    """Meanwhile: how much memory the API has at most, and how long another caller waits at most."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.peak = 0
        self.slowest = 0.0
        self.asked = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        with self._stack.client() as client:
            while not self._stop.is_set():
                self.peak = max(self.peak, resident(self._stack))
                began = time.monotonic()
                client.get("/v1/jobs?limit=1").raise_for_status()
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.asked += 1
                self._stop.wait(0.02)


@pytest.mark.timeout(300)
def test_the_largest_file_costs_no_memory_and_holds_nobody_up(stack: Stack, client: httpx2.Client) -> None:
    """While 200 MB go up and come down, the API has at most 150 MB more than before, and answers others."""
    client.get("/v1/files").raise_for_status()
    idle = resident(stack)
    with Watch(stack) as watch:
        sent = send(client, MAX)
        assert sent.status_code == 200, sent.text
        file_id = sent.json()["id"]
        size = 0
        with client.stream("GET", f"/v1/files/{file_id}/content") as content:
            assert content.headers["Content-Length"] == str(MAX)
            for chunk in content.iter_bytes():
                size += len(chunk)
    assert size == MAX
    print(f"{(watch.peak - idle) / 2**20:.0f} MB more than idle, {watch.asked} asked, slowest {watch.slowest:.3f} s")
    assert watch.peak - idle < 150 * 2**20
    assert watch.asked > 10
    assert watch.slowest < 2
    client.delete(f"/v1/files/{file_id}").raise_for_status()
    assert not [path for path in kept(stack) if path.stat().st_size == MAX]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_of_201_mb_is_refused_and_leaves_nothing(stack: Stack, client: httpx2.Client, chunked: bool) -> None:
    """A file that is too large is a 413 in the one shape, whether its size was told before or not."""
    before = kept(stack)
    with Watch(stack) as watch:
        answer = send(client, 201 * 1024 * 1024, chunked=chunked)
    assert answer.status_code == 413
    assert watch.slowest < 2
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "payload_too_large", "file")
    assert kept(stack) == before
    assert client.get("/v1/files").status_code == 200


def test_a_client_that_drops_leaves_nothing(stack: Stack, client: httpx2.Client) -> None:
    """Where the client goes away in the middle, no file is made and no draft stays."""
    before, listed = kept(stack), client.get("/v1/files").json()["data"]
    url = httpx2.URL(stack.api)
    for framing in (f"Content-Length: {MAX}", "Transfer-Encoding: chunked"):
        head = [
            "POST /v1/files HTTP/1.1",
            "Host: 127.0.0.1",
            f"Authorization: Bearer {stack.api_key}",
            f"Content-Type: multipart/form-data; boundary={Form.boundary}",
            *(framing, "", ""),
        ]
        pieces = list(Form(1024 * 1024))[:-1]
        with socket.create_connection((url.host, url.port), timeout=10) as connection:
            connection.sendall("\r\n".join(head).encode())
            for piece in pieces:
                if "chunked" in framing:
                    piece = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
                connection.sendall(piece)
            eventually(lambda: len(kept(stack)), lambda number: number == len(before) + 1)
        eventually(lambda: kept(stack), lambda found: found == before)
    assert client.get("/v1/files").json()["data"] == listed


def test_a_download_may_be_broken_off(stack: Stack, client: httpx2.Client) -> None:
    """Whoever closes the connection in the middle of a download leaves no open file in the API."""
    sent = send(client, 32 * 1024 * 1024)
    file_id = sent.json()["id"]
    api = psutil.Process(stack.processes["api"])

    def open_files() -> list[str]:
        return [
            opened.path
            for process in [api, *api.children(recursive=True)]
            for opened in process.open_files()
            if "/data/files/" in opened.path
        ]

    with stack.client() as other, other.stream("GET", f"/v1/files/{file_id}/content") as content:
        chunks = content.iter_bytes()
        assert next(chunks)
        eventually(open_files)
    eventually(open_files, lambda found: found == [])
    client.delete(f"/v1/files/{file_id}").raise_for_status()


# --- A bucket --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose files are in a bucket."""
    with (
        processes.s3_server(tmp_path_factory.mktemp("s3")) as s3,
        processes.stack(
            tmp_path_factory.mktemp("on-s3"), "--no-flower", **s3, **QUICK_RETRIES, **own_database(5)
        ) as running,
    ):
        yield running


@pytest.mark.timeout(180)
def test_files_in_a_bucket_are_as_in_a_folder(on_s3: Stack) -> None:
    """Upload, content and deletion with a large and a small file; nothing is written to the disk."""
    data = os.urandom(1024 * 1024) * 20
    with on_s3.client() as client:
        for content in (LINE, data):
            sent = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a", content)})
            assert sent.status_code == 200, sent.text
            file_id = sent.json()["id"]
            assert client.get(f"/v1/files/{file_id}/content").content == content
            client.delete(f"/v1/files/{file_id}").raise_for_status()
            assert client.get(f"/v1/files/{file_id}/content").status_code == 404
    assert kept(on_s3) == []


def test_a_bucket_that_is_not_there_is_a_503(on_s3: Stack, tmp_path: Path) -> None:
    """An API whose bucket is missing says so in the one shape, and logs the store's own word for it."""
    from api.app import create_app
    from jobs.settings import Settings

    settings: dict[str, Any] = {"redis_url": on_s3.redis, "storage": "s3://no-such-bucket", "s3_region": "us-east-1"}
    settings |= {"s3_endpoint": _endpoint(on_s3), "s3_access_key_id": "k", "s3_secret_access_key": "s"}
    client = create_app(Settings(**settings)).test_client()
    answer = client.post("/v1/files", data={"purpose": "batch", "file": (io.BytesIO(b"x"), "a")})
    assert answer.status_code == 503
    assert answer.json is not None
    assert answer.json["error"]["code"] == "storage_unavailable"


def _endpoint(stack: Stack) -> str:
    environ = psutil.Process(stack.processes["api"]).environ()
    return environ["PROMPTQ_S3_ENDPOINT"]
