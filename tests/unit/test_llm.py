"""The LLM's client: bytes in, bytes out, and each failure by its name."""

from __future__ import annotations

import json
from typing import Any

import gevent
import httpx2
import openai
import pytest
from openai import _exceptions

from jobs.errors import (
    LLMBadAnswer,
    LLMError,
    LLMRateLimited,
    LLMRejected,
    LLMTimeout,
    LLMUnavailable,
    LLMUnreachable,
    LLMUnsupported,
)
from jobs.model import CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES, JobStatus
from jobs.settings import Settings
from worker.llm import ERRORS, Answer, LLMClient
from worker.streaming import Event

SDK_ERRORS = {
    error
    for room in (openai, _exceptions)
    for error in list(vars(room).values())
    if isinstance(error, type) and issubclass(error, openai.OpenAIError) and not error.__name__.startswith("_")
}
ANSWER = b'{ "choices": [], "unknown": 1.0,  "usage": {"total_tokens": 2} }\n'


def ask(handler: Any, body: bytes = b"{}", endpoint: Any = CHAT_COMPLETIONS) -> Answer:
    """One call through the SDK, with the network replaced."""
    with httpx2.Client(transport=httpx2.MockTransport(handler)) as http:
        client = openai.OpenAI(api_key="k", base_url="http://llm/v1", max_retries=0, http_client=http)
        return LLMClient(client).call(endpoint, body)


def ask_for(status: int, content: bytes = b"", headers: dict[str, str] | None = None, **options: Any) -> Answer:
    return ask(lambda _: httpx2.Response(status, content=content, headers=headers), **options)


@pytest.mark.parametrize("error", sorted(SDK_ERRORS, key=lambda error: error.__name__), ids=lambda e: e.__name__)
def test_every_error_of_the_sdk_is_mapped(error: type[Exception]) -> None:
    """Each exception class of the installed SDK is named in the map: none falls to the root's meaning by chance."""
    assert error in ERRORS


def test_bytes_pass_untouched() -> None:
    """The body goes out byte for byte, and the answer comes back so, with what we read in it beside."""
    seen: list[httpx2.Request] = []
    body = b'{"model" : "m", "temperature": 1.0, "x": "\\ud800\\u0000"}'

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, content=ANSWER, headers={"x-request-id": "req_7"})

    answer = ask(handler, body)
    assert answer == Answer(ANSWER, JobStatus.COMPLETED, {"total_tokens": 2}, None, "req_7")
    (request,) = seen
    assert request.content == body
    assert request.url == "http://llm/v1/chat/completions"
    assert request.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("status", "ours"),
    [
        *((status, LLMRejected) for status in (400, 401, 403, 404, 405, 413, 422)),
        *((status, LLMUnavailable) for status in (408, 409, 500, 502, 503, 504, 529)),
        (429, LLMRateLimited),
    ],
)
def test_each_status_has_its_error(status: int, ours: type[LLMError]) -> None:
    """Each HTTP status raises the error that says whether another try is worth it, with the LLM's own words."""
    with pytest.raises(LLMError) as caught:
        ask_for(status, b'{"error": {"message": "why", "code": "c"}}', {"x-request-id": "r"})
    assert type(caught.value) is ours
    assert caught.value.message == "why"
    assert caught.value.upstream_status == status
    assert caught.value.upstream_error == {"message": "why", "code": "c"}
    assert caught.value.upstream_request_id == "r"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0"}, 0),
        ({"retry-after-ms": "250", "Retry-After": "7"}, 0.25),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """The wait that the LLM asks for is read where it is a sensible number of seconds."""
    with pytest.raises(LLMRateLimited) as caught:
        ask_for(429, b"busy", headers)
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"<html>", b"[]", b"null", b"{}", b'{"choices": {}}', b'{"choices": [NaN]}', b"\xff", b"[" * 100_000),
        b'{"choices": [], "usage": {"total_tokens": 1e999}}',
    ],
    ids=lambda content: content[:40].decode("latin-1"),
)
def test_a_bad_answer_is_called_so(content: bytes) -> None:
    """A 200 that is not JSON, not what was promised or not finished raises LLMBadAnswer."""
    with pytest.raises(LLMBadAnswer):
        ask_for(200, content)


@pytest.mark.parametrize("status", ['"queued"', '["completed"]', "null", "{}"])
def test_a_response_that_has_not_ended_is_a_bad_answer(status: str) -> None:
    """A response without a final status is not what was asked for."""
    with pytest.raises(LLMBadAnswer):
        ask_for(200, f'{{"output": [], "status": {status}}}'.encode(), endpoint=RESPONSES)


@pytest.mark.parametrize("status", ['"success"', "null", "[]", '"failed"'])
def test_only_a_response_has_a_status_of_its_own(status: str) -> None:
    """An LLM's extra member of that name in another answer means nothing to us."""
    assert ask_for(200, f'{{"choices": [], "status": {status}}}'.encode()).status is JobStatus.COMPLETED


def test_an_empty_quota_is_final() -> None:
    """A 429 that no waiting mends is not tried again."""
    with pytest.raises(LLMRejected) as caught:
        ask_for(429, b'{"error": {"message": "m", "code": "insufficient_quota"}}')
    assert caught.value.upstream_status == 429


@pytest.mark.parametrize("status", ["completed", "incomplete", "failed", "cancelled"])
def test_a_response_tells_how_it_ended(status: str) -> None:
    """The final status of a response becomes the job's."""
    content = f'{{"output": [], "status": "{status}", "error": {{"message": "m"}}}}'.encode()
    answer = ask_for(200, content, endpoint=RESPONSES)
    assert answer.status is JobStatus(status)
    assert answer.error == {"message": "m"}
    assert ask_for(200, b'{"data": []}', endpoint=EMBEDDINGS).usage is None


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (httpx2.ReadTimeout, LLMTimeout),
        (httpx2.ConnectTimeout, LLMTimeout),
        (httpx2.ConnectError, LLMUnreachable),
        (httpx2.RemoteProtocolError, LLMUnreachable),
    ],
)
def test_a_broken_connection_is_called_so(error: type[Exception], ours: type[LLMError]) -> None:
    """A connection that is refused, cut or silent raises an error that is worth a retry."""

    def handler(_: httpx2.Request) -> httpx2.Response:
        raise error("broken")

    with pytest.raises(LLMError) as caught:
        ask(handler)
    assert type(caught.value) is ours
    assert caught.value.retryable


def test_a_client_needs_a_key_or_an_address() -> None:
    """Without a key and an address nothing is called by guess."""
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        LLMClient.from_settings(Settings(openai_api_key=None, openai_base_url=None))
    LLMClient.from_settings(Settings(openai_base_url="http://127.0.0.1:1/v1"))


def test_an_empty_address_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ``OPENAI_BASE_URL`` that is set and empty, as in a ConfigMap, means OpenAI's own address."""
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert str(LLMClient.from_settings(Settings())._client.base_url).startswith("https://api.openai.com/v1")


def test_an_llm_of_chat_completions_alone_is_asked_for_one() -> None:
    """With ``chat_alone`` a response goes out as a chat completion and comes back as a response; the rest passes."""
    seen: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        choice = {"index": 0, "message": {"role": "assistant", "content": "There."}, "finish_reason": "length"}
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        return httpx2.Response(
            200, json={"id": "c", "choices": [choice], "usage": usage}, headers={"x-request-id": "r"}
        )

    with httpx2.Client(transport=httpx2.MockTransport(handler)) as http:
        client = openai.OpenAI(api_key="k", base_url="http://llm/v1", max_retries=0, http_client=http)
        llm = LLMClient(client, chat_alone=True)
        answer = llm.call(RESPONSES, b'{"model": "m", "input": "Where?", "tools": []}')
        llm.call(CHAT_COMPLETIONS, b'{ "model": "m" }')
        with pytest.raises(LLMUnsupported):
            llm.call(RESPONSES, b'{"model": "m", "input": "x", "tools": [{"type": "web_search"}]}')
    assert [request.url.path for request in seen] == ["/v1/chat/completions"] * 2
    assert json.loads(seen[0].content) == {"model": "m", "messages": [{"role": "user", "content": "Where?"}]}
    assert seen[1].content == b'{ "model": "m" }'
    response = json.loads(answer.body)
    assert (answer.status, answer.request_id) == (JobStatus.INCOMPLETE, "r")
    assert answer.usage == response["usage"]
    assert answer.usage is not None
    assert answer.usage["output_tokens"] == 2
    assert response["output"][0]["content"][0]["text"] == "There."


class Chunks(httpx2.SyncByteStream):
    """A body that comes in pieces, and may break off."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self.pieces, self.error, self.closed = pieces, error, False

    def __iter__(self) -> Any:
        yield from self.pieces
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.closed = True


SSE = {"content-type": "text/event-stream", "x-request-id": "req_7"}
LAST = (
    b'data: {"type":"response.completed","response":{"output":[],"status":"completed","usage":{"total_tokens":1}}}\n\n'
)


def ask_for_a_stream(body: Chunks, endpoint: Any = RESPONSES, headers: Any = SSE) -> tuple[Answer, list[Event]]:
    """One streamed call through the SDK, and what was told."""
    told: list[Event] = []
    seen: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, stream=body, headers=headers)

    with httpx2.Client(transport=httpx2.MockTransport(handler)) as http:
        client = openai.OpenAI(api_key="k", base_url="http://llm/v1", max_retries=0, http_client=http)
        try:
            answer = LLMClient(client).stream(endpoint, b'{"model":"m"}', told.append)
        finally:
            gevent.wait(timeout=5)  # for what goes on beside the answer
            assert body.closed
            assert seen[0].content.startswith(b'{"stream":true')
    return answer, told


def test_a_stream_is_told_and_answered() -> None:
    """Each event goes to those who follow; the last one is the answer."""
    answer, told = ask_for_a_stream(Chunks(b'data: {"type":"response.new"}\n', b"\n", LAST))
    assert [event.data for event in told] == [b'{"type":"response.new"}']
    assert (answer.status, answer.usage, answer.request_id) == (JobStatus.COMPLETED, {"total_tokens": 1}, "req_7")


def test_an_llm_may_answer_as_a_whole() -> None:
    """What is no stream is read as without one, and nothing is told."""
    answer, told = ask_for_a_stream(Chunks(ANSWER), CHAT_COMPLETIONS, {"content-type": "application/json"})
    assert (answer.body, told) == (ANSWER, [])


@pytest.mark.parametrize(
    ("body", "ours"),
    [
        (Chunks(b'data: {"type":"response.new"}\n\n'), LLMUnreachable),
        (Chunks(b'data: {"type":"response.new"}\n\n', error=httpx2.ReadTimeout("slow")), LLMTimeout),
        (Chunks(b'data: {"type":"response.new"}\n\n', error=httpx2.RemoteProtocolError("cut")), LLMUnreachable),
        (Chunks(b"data: <html>\n\n"), LLMBadAnswer),
        (Chunks(b'data: {"type":"error","message":"why"}\n\n'), LLMUnavailable),
        (Chunks(b'data: {"type":"response.completed","response":{"status":"queued"}}\n\n'), LLMBadAnswer),
    ],
)
def test_a_stream_that_goes_wrong_is_called_so(body: Chunks, ours: type[LLMError]) -> None:
    """Each way raises its error, with the LLM's request id; the connection is closed."""
    with pytest.raises(LLMError) as caught:
        ask_for_a_stream(body)
    assert type(caught.value) is ours
    assert caught.value.upstream_request_id == "req_7"


def test_what_is_complete_needs_no_end() -> None:
    """An LLM that breaks off behind its last event has answered."""
    answer, _ = ask_for_a_stream(Chunks(LAST, error=httpx2.ReadError("cut")))
    assert answer.status is JobStatus.COMPLETED


def test_what_is_complete_does_not_wait_for_the_end() -> None:
    """An LLM that keeps the connection open behind its last event has answered; it is left a moment later."""

    class Held(Chunks):
        def __iter__(self) -> Any:
            yield LAST
            gevent.sleep(60)

    body = Held()
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, stream=body, headers=SSE))
    with httpx2.Client(transport=transport) as http:
        client = openai.OpenAI(api_key="k", base_url="http://llm/v1", max_retries=0, http_client=http)
        answer = LLMClient(client).stream(RESPONSES, b'{"model":"m"}', lambda _: None)
        assert answer.status is JobStatus.COMPLETED
        assert not body.closed
        gevent.wait(timeout=30)
        assert body.closed


@pytest.mark.parametrize("error", [httpx2.RemoteProtocolError("short"), httpx2.ReadTimeout("slow")])
def test_an_error_that_breaks_off_is_no_crash(error: Exception) -> None:
    """A streamed call whose error's own body never comes is worth a retry, as one that is not streamed."""

    def handler(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(500, stream=Chunks(b'{"err', error=error), headers={"content-type": "application/json"})

    with httpx2.Client(transport=httpx2.MockTransport(handler)) as http:
        client = openai.OpenAI(api_key="k", base_url="http://llm/v1", max_retries=0, http_client=http)
        with pytest.raises(LLMError) as caught:
            LLMClient(client).stream(RESPONSES, b'{"model":"m"}', lambda _: None)
    assert caught.value.retryable
