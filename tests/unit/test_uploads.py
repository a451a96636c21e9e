"""``/v1/files`` as the API has it, without a server: forms of every shape, and what is kept of them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import redis
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api import gunicorn_worker, uploads
from api.app import create_app
from jobs import queues
from jobs.settings import Settings

LIMIT = 300_000
LINES = b'{"custom_id": "a"}\r\n\r\n--not-the-boundary\r\n' * 3000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the contents are."""
    return tmp_path / "storage"


@pytest.fixture
def client(redis_client: redis.Redis, redis_url: str, folder: Path) -> Iterator[FlaskClient]:
    """A client of an API with keys, as ann."""
    keys = {"api_keys": "ann:k1,bob:k2"}
    settings = Settings.model_validate(
        {"redis_url": redis_url, "storage": str(folder), "max_file_bytes": LIMIT, **keys}
    )
    with create_app(settings).test_client() as client:
        client.environ_base["HTTP_AUTHORIZATION"] = "Bearer k1"
        yield client


def upload(client: FlaskClient, data: bytes = b"x", filename: str = "in.jsonl", **fields: str) -> TestResponse:
    """Upload with these fields; ``purpose`` is batch."""
    form: dict[str, Any] = {"purpose": "batch", **fields, "file": (io.BytesIO(data), filename)}
    return client.post("/v1/files", data=form)


def raw(client: FlaskClient, *parts: bytes, boundary: str = "BB", end: bytes = b"--BB--\r\n") -> TestResponse:
    """Upload a form that is written by hand."""
    body = b"".join(b"--BB\r\n" + part + b"\r\n" for part in parts) + end
    return client.post("/v1/files", data=body, content_type=f"multipart/form-data; boundary={boundary}")


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    named = "" if filename is None else f'; filename="{filename}"'
    return f'Content-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + value


def problem(answer: TestResponse, status: int = 400) -> dict[str, Any]:
    """The error, once it is seen to have the one shape."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.get_json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def nothing_is_kept(folder: Path, client: FlaskClient) -> bool:
    """Whether there is neither a content, nor a draft of one, nor a file."""
    return not [path for path in folder.rglob("*") if path.is_file()] and not client.get("/v1/files").get_json()["data"]


@pytest.mark.parametrize("data", [b"", b"x", LINES, bytes(range(256)) * 500, b"\r\n" * 100_000], ids=len)
def test_a_file_comes_back_as_it_was_sent(client: FlaskClient, data: bytes) -> None:
    """Any bytes are kept as they came."""
    sent = upload(client, data)
    assert sent.status_code == 200, sent.text
    file = sent.get_json()
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": len(data),
        "created_at": file["created_at"],
        "expires_at": file["created_at"] + 30 * 24 * 3600,
        "filename": "in.jsonl",
        "purpose": "batch",
        "status": "processed",
    }
    assert client.get(f"/v1/files/{file['id']}").get_json() == file
    content = client.get(f"/v1/files/{file['id']}/content")
    assert content.data == data
    assert content.content_length == len(data)
    assert content.content_type == "application/octet-stream"
    assert content.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("purpose", ["assistants", "fine-tune", "vision", "user_data", "evals"])
def test_files_of_other_purposes_are_kept(client: FlaskClient, purpose: str) -> None:
    """Whatever is not for a batch is kept until it is deleted, unless its form says otherwise."""
    assert upload(client, purpose=purpose).get_json()["expires_at"] is None
    policy = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    limited = upload(client, purpose=purpose, **policy).get_json()
    assert limited["expires_at"] == limited["created_at"] + 3600


def test_the_parts_may_come_in_any_order(client: FlaskClient) -> None:
    """The file may stand before the fields."""
    sent = raw(client, part("file", b"bytes", "a.txt"), part("purpose", b"evals"))
    assert sent.status_code == 200, sent.text
    assert (sent.get_json()["purpose"], sent.get_json()["bytes"]) == ("evals", 5)


@pytest.mark.parametrize(
    ("filename", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\\\temp\\\\a b.jsonl", "a b.jsonl"),
        ("naïve 文.jsonl", "naïve 文.jsonl"),
        ("a" * 300, "a" * 255),
        ("\x07\x1b[31m.txt", "[31m.txt"),
        ("/", "upload"),
    ],
)
def test_names_are_names_and_no_paths(client: FlaskClient, filename: str, kept: str) -> None:
    """A file's name is its last part, in what can be printed, and is offered for the download without breaking it."""
    sent = raw(client, part("purpose", b"batch"), part("file", b"x", filename))
    assert sent.status_code == 200, sent.text
    assert sent.get_json()["filename"] == kept
    with client.get(f"/v1/files/{sent.get_json()['id']}/content") as content:
        offered = content.headers["Content-Disposition"]
    assert offered.startswith("attachment; filename=")
    assert offered.isascii()
    assert offered.isprintable()


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([part("purpose", b"batch")], "file"),
        ([part("purpose", b"batch"), part("file", b"no name")], "file"),
        ([part("purpose", b"batch"), part("file", b"x" * 9000)], "file"),
        ([part("file", b"x", "a")], "purpose"),
        ([part("purpose", b"batch_output"), part("file", b"x", "a")], "purpose"),
        ([part("purpose", b"x" * 5000), part("file", b"x", "a")], "purpose"),
        ([part("purpose", b"\xff"), part("file", b"x", "a")], "purpose"),
        ([part("purpose", b"batch"), part("purpose", b"batch"), part("file", b"x", "a")], "purpose"),
        ([part("purpose", b"batch"), part("file", b"x", "a"), part("file", b"y", "b")], "file"),
        ([part("purpose", b"batch"), part("file", b"x", "a"), part("other", b"y")], "other"),
        ([part("purpose", b"batch"), part("file", b"x", "a"), part("other", b"y", "b")], "other"),
        ([part("purpose", b"batch"), part("", b""), part("file", b"x", "a")], None),
        ([part("file", b"x", "a"), part("purpose", b"batch"), part("expires_after[seconds]", b"1h")], "seconds"),
        ([part("file", b"x", "a"), part("purpose", b"batch"), part("expires_after[seconds]", b"3599")], "seconds"),
        ([part("file", b"x", "a"), part("purpose", b"batch"), part("expires_after[seconds]", b"2592001")], "seconds"),
        ([part("file", b"x", "a"), part("purpose", b"batch"), part("expires_after[anchor]", b"now")], "anchor"),
        ([part("file", b"x", "a"), part("purpose", b"batch"), part("expires_after[anchor]", b"created_at")], "seconds"),
        ([b"Content-Type: text/plain\r\n\r\nx"], None),
        ([b'Content-Disposition: form-data; name="\xff"\r\n\r\nx'], None),
    ],
)
def test_a_form_that_is_not_right_is_refused(
    client: FlaskClient, folder: Path, parts: list[bytes], param: str | None
) -> None:
    """The first thing that is wrong is named, and nothing is kept."""
    named = problem(raw(client, *parts))["param"]
    assert named in (param, f"expires_after[{param}]")
    assert nothing_is_kept(folder, client)


@pytest.mark.parametrize("body", [b"", b"--BB", b"nothing of the kind", b"--BB--\r\n"])
def test_what_is_no_form_is_refused(client: FlaskClient, folder: Path, body: bytes) -> None:
    """A body that is not a form, or ends before it is complete, is refused."""
    problem(client.post("/v1/files", data=body, content_type="multipart/form-data; boundary=BB"))
    whole = b"--BB\r\n" + part("purpose", b"batch") + b"\r\n--BB\r\n" + part("file", b"x" * 100_000, "a")
    problem(client.post("/v1/files", data=whole, content_type="multipart/form-data; boundary=BB"))
    for content_type in ("multipart/form-data", "application/json", "text/plain", None):
        problem(client.post("/v1/files", data=body, content_type=content_type))
    assert nothing_is_kept(folder, client)


def test_a_file_that_is_too_large_is_refused(client: FlaskClient, folder: Path) -> None:
    """The largest file is taken and one byte more is not, whether its size is told before or not."""
    assert raw(client, part("purpose", b"batch"), part("file", b"x" * LIMIT, "a")).status_code == 200
    client.delete(f"/v1/files/{client.get('/v1/files').get_json()['first_id']}")
    too_large = [part("purpose", b"batch"), part("file", b"x" * (LIMIT + 1), "a")]
    error = problem(raw(client, *too_large), 413)
    assert (error["code"], error["param"]) == ("payload_too_large", "file")
    assert "PROMPTQ_MAX_FILE_BYTES" in error["message"]
    problem(raw(client, part("purpose", b"batch"), part("file", b"x" * 10 * LIMIT, "a")), 413)
    body = b"".join(b"--BB\r\n" + one + b"\r\n" for one in too_large) + b"--BB--\r\n"
    unsized = client.post(
        "/v1/files",
        input_stream=io.BytesIO(body),
        content_type="multipart/form-data; boundary=BB",
        environ_overrides={"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
    )
    problem(unsized, 413)
    assert nothing_is_kept(folder, client)


class Stalling(io.BytesIO):
    """A body that comes for a while, and then does not."""

    def readinto(self, buffer: Any) -> int:
        """The data, and then nothing for ever."""
        number = super().readinto(buffer)
        if not number:
            gevent.sleep(30)
        return number


def test_a_client_that_stops_sending_is_not_waited_for(
    client: FlaskClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while without a byte the answer is a 408, and nothing is kept."""
    monkeypatch.setattr(uploads, "_PATIENCE", 0.05)
    begun = b"--BB\r\n" + part("file", b"x" * 1000, "a")
    answer = client.post(
        "/v1/files",
        input_stream=Stalling(begun),
        content_type="multipart/form-data; boundary=BB",
        environ_overrides={"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"},
    )
    assert problem(answer, 408)["code"] == "request_timeout"
    assert nothing_is_kept(folder, client)


class Body:
    """What gunicorn has of a body that nobody reads."""

    reader = None

    def __init__(self, size: int, *, stalls: bool = False) -> None:
        self.left = size
        self._stalls = stalls

    def read(self, size: int) -> bytes:
        """Some of it."""
        if self._stalls:
            gevent.sleep(30)
        given = min(size, self.left)
        self.left -= given
        return b"x" * given


def test_a_refused_body_is_read_to_its_end_or_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a body is read, so that its sender sees the answer, but not without a limit in size and time."""
    monkeypatch.setattr(gunicorn_worker, "_MAX_DISCARDED", 10_000_000)
    monkeypatch.setattr(gunicorn_worker, "_DISCARD_SECONDS", 0.5)
    whole, endless = Body(5_000_000), Body(10**12)
    assert gunicorn_worker._discarded(whole) is True
    assert whole.left == 0
    assert gunicorn_worker._discarded(endless) is False
    assert gunicorn_worker._discarded(Body(10, stalls=True)) is False


def test_a_form_cannot_be_made_of_heads(client: FlaskClient, folder: Path) -> None:
    """Neither a part's head nor the number of parts goes on for ever."""
    problem(raw(client, b"X: " + b"y" * 299_000), 413)
    problem(raw(client, part("purpose", b"batch"), *(part(f"p{number}", b"") for number in range(30))), 413)
    assert nothing_is_kept(folder, client)


def test_an_idempotency_key_stands_for_one_upload(client: FlaskClient, folder: Path) -> None:
    """The same upload with the same key is one file; other bytes, name or fields are a conflict."""
    headers = {"Idempotency-Key": "once"}

    def send(data: bytes = b"x", filename: str = "a", **fields: str) -> TestResponse:
        form: dict[str, Any] = {"purpose": "batch", **fields, "file": (io.BytesIO(data), filename)}
        return client.post("/v1/files", data=form, headers=headers)

    first = send().get_json()
    assert send().get_json() == first
    for other in (send(b"y"), send(filename="b"), send(purpose="evals"), send(**{"expires_after[seconds]": "7200"})):
        assert problem(other, 409)["code"] == "idempotency_key_reused"
        assert other.headers["x-should-retry"] == "false"
    assert len(client.get("/v1/files").get_json()["data"]) == 1
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 1


def test_a_file_is_its_owners_alone(client: FlaskClient) -> None:
    """Another owner finds nothing, whatever is asked."""
    file_id = upload(client).get_json()["id"]
    bob = {"headers": {"Authorization": "Bearer k2"}}
    assert client.get("/v1/files", **bob).get_json()["data"] == []
    for answer in (
        client.get(f"/v1/files/{file_id}", **bob),
        client.get(f"/v1/files/{file_id}/content", **bob),
        client.delete(f"/v1/files/{file_id}", **bob),
        client.get(f"/v1/files?after={file_id}", **bob),
    ):
        assert problem(answer, 404)["code"] == "not_found"
    assert client.get(f"/v1/files/{file_id}").status_code == 200


@pytest.mark.parametrize("file_id", ["file-1", "file-" + "0" * 32, "job_" + "0" * 32, "..", "%2e%2e%2fa"])
def test_an_id_of_nothing_is_not_found(client: FlaskClient, file_id: str) -> None:
    """What can be no id and what names nothing are the same to the caller."""
    for answer in (client.get(f"/v1/files/{file_id}/content"), client.delete(f"/v1/files/{file_id}")):
        problem(answer, 404)


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "order=up", "purpose=nothing"])
def test_a_listing_is_asked_for_properly(client: FlaskClient, query: str) -> None:
    """A query that makes no sense is refused by name."""
    assert problem(client.get(f"/v1/files?{query}"))["param"] == query.partition("=")[0]


def test_content_that_is_lost_is_not_found(client: FlaskClient, folder: Path) -> None:
    """A file whose content the storage has lost is a 404 that says so."""
    file_id = upload(client).get_json()["id"]
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()
    assert "gone" in problem(client.get(f"/v1/files/{file_id}/content"), 404)["message"]


def test_a_storage_that_is_away_is_a_503(client: FlaskClient, folder: Path, redis_client: redis.Redis) -> None:
    """Where the storage takes nothing, the caller is told to try again, and no file is made."""
    folder.touch()
    answer = upload(client)
    assert problem(answer, 503)["code"] == "storage_unavailable"
    assert "Retry-After" in answer.headers
    assert client.get("/v1/files").get_json()["data"] == []
    assert redis_client.zcard(queues.files_key("ann", "all")) == 0


def test_without_storage_there_are_no_files(redis_client: redis.Redis, redis_url: str) -> None:
    """With PROMPTQ_STORAGE=none an upload is a 501 that says what is missing, and is not tried again."""
    client = create_app(Settings(redis_url=redis_url, storage="none")).test_client()
    answer = upload(client)
    assert problem(answer, 501)["code"] == "files_not_set_up"
    assert answer.headers["x-should-retry"] == "false"
    assert client.get("/v1/files").get_json()["data"] == []


def test_no_content_reaches_redis(client: FlaskClient, redis_client: redis.Redis) -> None:
    """The record holds nothing of what is in the file."""
    file_id = upload(client, b"a very secret prompt").get_json()["id"]
    record = redis_client.hgetall(queues.file_key(file_id))
    assert b"secret" not in json.dumps({key.decode(): value.decode() for key, value in record.items()}).encode()


def test_a_content_goes_out_in_pieces_that_a_slow_line_takes_in_a_minute(client: FlaskClient) -> None:
    """Each piece has a minute of its own: they are 64 kB at most, whatever the storage reads at once."""
    made = upload(client, LINES).get_json()
    pieces = list(client.get(f"/v1/files/{made['id']}/content").iter_encoded())
    assert b"".join(pieces) == LINES
    assert max(map(len, pieces)) == 64 * 1024
