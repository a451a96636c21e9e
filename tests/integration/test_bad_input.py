"""What bad input gets: its 4xx in OpenAI's error shape, with ``param`` where there is one, and no job."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx2
import pytest

from tests.integration.driving import messages, newest, submit, unique

JOBS, RESPONSES, CHAT = "/v1/jobs", "/v1/responses", "/v1/chat/completions"
POSTS = [JOBS, RESPONSES, CHAT, "/v1/completions", "/v1/embeddings", "/generate"]
HELLO = messages("hello")
CHAT_BODY = {"model": "sim", "messages": HELLO}


def refused(answer: httpx2.Response, status: int, param: str | None) -> None:
    """Check that this is an error in OpenAI's shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["x-request-id"]
    assert answer.json().keys() == {"error"}
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["code"], str)
    assert error["param"] == param


NOT_JSON = {
    "empty": b"",
    "half an object": b'{"prompt": "x"',
    "two objects": b"{}{}",
    "a byte order mark": b'\xef\xbb\xbf{"prompt": "x", "model": "sim"}',
    "single quotes": b"{'prompt': 'x'}",
    "form data": b"prompt=x&model=sim",
    "NaN": b'{"prompt": "x", "model": "sim", "deadline_seconds": NaN}',
    "Infinity": b'{"prompt": "x", "model": "sim", "deadline_seconds": Infinity}',
    "invalid UTF-8": b'{"prompt": "\xff\xfe", "model": "sim"}',
    "UTF-16": '{"prompt": "x", "model": "sim"}'.encode("utf-16"),
    "a raw control character": b'{"prompt": "a\x00b", "model": "sim"}',
    "deep nesting": b'{"prompt": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a huge integer": b'{"prompt": "x", "deadline_seconds": ' + b"9" * 10_000 + b"}",
    "a list": b"[]",
    "a string": b'"prompt"',
    "a number": b"1",
    "null": b"null",
}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("body", NOT_JSON)
def test_what_is_not_a_json_object_is_refused(client: httpx2.Client, path: str, body: str) -> None:
    """A body that is no JSON object gets a 400 at every door."""
    before = newest(client)
    refused(client.post(path, content=NOT_JSON[body], headers={"Content-Type": "application/json"}), 400, None)
    assert newest(client) == before


def in_full(endpoint: object = CHAT, body: object = CHAT_BODY, **more: object) -> dict[str, object]:
    return {"endpoint": endpoint, "body": body, **more}


def in_short(**more: object) -> dict[str, object]:
    return {"prompt": "x", "model": "sim", **more}


BAD: list[tuple[str, dict[str, Any], str | None]] = [
    (JOBS, {}, "endpoint"),
    (JOBS, {"model": "sim"}, "endpoint"),
    (JOBS, {"endpoint": CHAT}, "body"),
    (JOBS, in_full(endpoint="/v1/images/generations"), "endpoint"),
    (JOBS, in_full(endpoint="v1/chat/completions"), "endpoint"),
    (JOBS, in_full(endpoint=7), "endpoint"),
    (JOBS, in_full(endpoint=None), "endpoint"),
    (JOBS, in_full(body=[]), "body"),
    (JOBS, in_full(body="{}"), "body"),
    (JOBS, in_full(body={"messages": HELLO}), "body.model"),
    (JOBS, in_full(body={"model": "sim"}), "body.messages"),
    (JOBS, in_full(body={"model": "sim", "messages": []}), "body.messages"),
    (JOBS, in_full(body={"model": "sim", "messages": "hello"}), "body.messages"),
    (JOBS, in_full(body={"model": "sim", "messages": ["hello"]}), "body.messages.0"),
    (JOBS, in_full(body={"model": 1, "messages": HELLO}), "body.model"),
    (JOBS, in_full(body={"model": "", "messages": HELLO}), "body.model"),
    (JOBS, in_full(body={**CHAT_BODY, "stream": True}), "body.stream"),
    (JOBS, in_full(body={**CHAT_BODY, "promptq": {}}), "body.promptq"),
    (JOBS, in_full("/v1/responses", {"model": "sim"}), "body.input"),
    (JOBS, in_full("/v1/completions", {"model": "sim"}), "body.prompt"),
    (JOBS, in_full("/v1/embeddings", {"model": "sim"}), "body.input"),
    (JOBS, in_full(prompt="x"), "endpoint"),
    (JOBS, in_full(priority=1), "priority"),
    (JOBS, in_short(prompt=""), "prompt"),
    (JOBS, in_short(prompt=None), "prompt"),
    (JOBS, in_short(prompt=["x"]), "prompt"),
    (JOBS, in_short(prompt=1), "prompt"),
    (JOBS, in_short(model=""), "model"),
    (JOBS, in_short(model=1), "model"),
    (JOBS, in_short(model="m" * 257), "model"),
    (JOBS, in_short(queue="urgent"), "queue"),
    (JOBS, in_short(queue=None), "queue"),
    (JOBS, in_short(queue=["bulk"]), "queue"),
    (JOBS, in_short(deadline_seconds=0), "deadline_seconds"),
    (JOBS, in_short(deadline_seconds=-1), "deadline_seconds"),
    (JOBS, in_short(deadline_seconds="60"), "deadline_seconds"),
    (JOBS, in_short(deadline_seconds=True), "deadline_seconds"),
    (JOBS, in_short(deadline_seconds=1e300), "deadline_seconds"),
    (JOBS, in_short(metadata=[]), "metadata"),
    (JOBS, in_short(metadata={"a": 1}), "metadata.a"),
    (JOBS, in_short(metadata={"a": "x" * 513}), "metadata.a"),
    (JOBS, in_short(metadata={str(number): "x" for number in range(17)}), "metadata"),
    (JOBS, in_short(unknown=1), "unknown"),
    (JOBS, in_short(background=True), "background"),
    (RESPONSES, {"input": "x"}, "model"),
    (RESPONSES, {"model": "sim"}, "input"),
    (RESPONSES, {"model": "sim", "input": 1}, "input"),
    (RESPONSES, {"model": "sim", "input": None}, "input"),
    (RESPONSES, {"model": ["sim"], "input": "x"}, "model"),
    (RESPONSES, {"model": "sim", "input": "x", "background": "yes"}, "background"),
    (RESPONSES, {"model": "sim", "input": "x", "metadata": {"a": None}}, "metadata.a"),
    (
        RESPONSES,
        {"model": "sim", "input": "x", "background_options": {"completion_window": "1h"}},
        "background_options.completion_window",
    ),
    (RESPONSES, {"model": "sim", "input": "x", "promptq": {"queue": "urgent"}}, "promptq.queue"),
    (RESPONSES, {"model": "sim", "input": "x", "promptq": {"deadline_seconds": -1}}, "promptq.deadline_seconds"),
    (RESPONSES, {"model": "sim", "input": "x", "promptq": {"priority": 1}}, "promptq.priority"),
    (RESPONSES, {"model": "sim", "input": "x", "promptq": []}, "promptq"),
    (CHAT, {"messages": HELLO}, "model"),
    (CHAT, {"model": "sim"}, "messages"),
    (CHAT, {"model": "sim", "messages": []}, "messages"),
    (CHAT, {**CHAT_BODY, "stream": "no"}, "stream"),
    ("/v1/completions", {"prompt": "x"}, "model"),
    ("/v1/completions", {"model": "sim"}, "prompt"),
    ("/v1/completions", {"model": "sim", "prompt": {}}, "prompt"),
    ("/v1/embeddings", {"input": "x"}, "model"),
    ("/v1/embeddings", {"model": "sim"}, "input"),
    ("/v1/embeddings", {"model": "sim", "input": 1}, "input"),
    ("/generate", {}, "prompt"),
    ("/generate", {"prompt": ""}, "prompt"),
    ("/generate", {"prompt": ["x"]}, "prompt"),
    ("/generate", {"prompt": "x", "model": 1}, "model"),
    ("/generate", {"prompt": "x", "temperature": 1}, "temperature"),
]


@pytest.mark.parametrize(("path", "body", "param"), BAD, ids=lambda value: str(value)[:60])
def test_what_does_not_fit_is_refused(client: httpx2.Client, path: str, body: dict[str, Any], param: str) -> None:
    """A missing, wrong or unknown parameter gets a 400 that names it, and makes no job."""
    before = newest(client)
    refused(client.post(path, json=body), 400, param)
    assert newest(client) == before


def test_an_infinite_deadline_is_refused(client: httpx2.Client) -> None:
    """A number too large for a float, which JSON can spell, is refused wherever it stands."""
    answer = client.post(JOBS, content=b'{"prompt": "x", "deadline_seconds": 1e999}')
    refused(answer, 400, None)
    assert math.isinf(json.loads("1e999"))


@pytest.mark.parametrize(
    "job_id",
    [
        "nonsense",
        "job_",
        "job_" + "0" * 32,
        "resp_" + "0" * 32,
        "JOB_" + "0" * 32,
        "job_" + "0" * 33,
        "job_%00",
        "%F0%9F%92%A9",
        "..%2f..%2fetc",
        "job_" + "x" * 3000,
        "*",
        "job_" + "0" * 32 + "%0a",
    ],
    ids=lambda value: value[:20],
)
def test_an_unknown_or_malformed_id_is_not_found(client: httpx2.Client, job_id: str) -> None:
    """Whatever is asked of an id that nobody has, the answer is a 404."""
    for method, path in [
        *(("GET", "/v1/jobs/{}"), ("POST", "/v1/jobs/{}/cancel"), ("DELETE", "/v1/jobs/{}")),
        *(("GET", "/v1/responses/{}"), ("POST", "/v1/responses/{}/cancel"), ("DELETE", "/v1/responses/{}")),
        *(("GET", "/v1/responses/{}/input_items"), ("GET", "/v1/jobs/{}?wait=5")),
    ]:
        answer = client.request(method, path.format(job_id))
        assert answer.status_code == 404, (method, path, answer.text)
        assert answer.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("query", "status", "param"),
    [
        ("limit=0", 400, "limit"),
        ("limit=101", 400, "limit"),
        ("limit=-1", 400, "limit"),
        ("limit=ten", 400, "limit"),
        ("limit=1.5", 400, "limit"),
        ("limit=", 400, "limit"),
        ("status=done", 400, "status"),
        ("status=", 400, "status"),
        ("queue=urgent", 400, "queue"),
        ("after=nonsense", 404, "after"),
        ("after=", 404, "after"),
        ("after=job_" + "0" * 32, 404, "after"),
    ],
)
def test_a_bad_query_of_a_listing_is_refused(client: httpx2.Client, query: str, status: int, param: str) -> None:
    """A listing's query is checked as a body is."""
    refused(client.get(f"/v1/jobs?{query}"), status, param)
    if param in ("limit", "after"):
        refused(client.get(f"/v1/responses?{query}"), status, param)


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "long", "", "1e999"])
def test_a_bad_wait_is_refused(client: httpx2.Client, wait: str) -> None:
    """A long-poll is held from 0 to 60 seconds and no other time."""
    job = submit(client, prompt=unique(), model="sim")
    refused(client.get(f"/v1/jobs/{job['id']}?wait={wait}"), 400, "wait")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/jobs", {"GET", "POST"}),
        ("DELETE", "/v1/jobs", {"GET", "POST"}),
        ("POST", "/v1/jobs/job_" + "0" * 32, {"GET", "DELETE"}),
        ("GET", "/v1/jobs/job_" + "0" * 32 + "/cancel", {"POST"}),
        ("PATCH", "/v1/responses", {"GET", "POST"}),
        ("GET", "/v1/chat/completions", {"POST"}),
        ("GET", "/generate", {"POST"}),
        ("POST", "/v1/models", {"GET"}),
        ("POST", "/healthz", {"GET"}),
    ],
)
def test_a_method_that_is_not_allowed_is_a_405(
    client: httpx2.Client, method: str, path: str, allowed: set[str]
) -> None:
    """A 405 names the methods that are allowed."""
    answer = client.request(method, path)
    refused(answer, 405, None)
    named = {name.strip() for name in answer.headers["Allow"].split(",")}
    assert named - {"HEAD", "OPTIONS"} == allowed


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/jobs/", "/v1/assistants", "/generate/x", "/v1/responses/a/b"])
def test_an_unknown_path_is_a_404(client: httpx2.Client, path: str) -> None:
    """A path that leads nowhere gets a 404 in the same shape, for any method."""
    for method in ("GET", "POST"):
        refused(client.request(method, path), 404, None)


@pytest.mark.parametrize("path", POSTS)
def test_what_is_too_large_is_a_413(client: httpx2.Client, path: str) -> None:
    """A body or a prompt that is too large gets a 413, and makes no job."""
    before = newest(client)
    refused(client.post(path, content=b'{"x": "' + b"x" * (9 * 1024 * 1024) + b'"}'), 413, None)
    text = "x" * (4 * 1024 * 1024 + 1)
    prompts = {JOBS: "prompt", RESPONSES: "input", CHAT: "messages", "/v1/embeddings": "input"}
    param = prompts.get(path, "prompt")
    body = {param: messages(text) if path == CHAT else text, "model": "sim"}
    refused(client.post(path, json=body), 413, param)
    assert newest(client) == before


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("key", ["", "k" * 256], ids=["empty", "too long"])
def test_an_idempotency_key_has_its_length(client: httpx2.Client, path: str, key: str) -> None:
    """An Idempotency-Key that is empty or too long gets a 400 that names it, and makes no job."""
    before = newest(client)
    body = {
        JOBS: {"prompt": "x", "model": "sim"},
        RESPONSES: {"model": "sim", "input": "x"},
        CHAT: CHAT_BODY,
        "/v1/completions": {"model": "sim", "prompt": "x"},
        "/v1/embeddings": {"model": "sim", "input": "x"},
        "/generate": {"prompt": "x"},
    }[path]
    refused(client.post(path, json=body, headers={"Idempotency-Key": key}), 400, "Idempotency-Key")
    assert newest(client) == before
