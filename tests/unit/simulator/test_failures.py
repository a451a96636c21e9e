"""The failures that model names and bad bodies provoke."""

from __future__ import annotations

import json
import socket
import time
from urllib.error import HTTPError

import openai
import pytest
from openai import OpenAI

from tests.processes import eventually
from tests.unit.simulator.driving import DEADLINE, Simulator, chat


@pytest.mark.usefixtures("simulator")
@pytest.mark.parametrize(
    ("model", "error", "code", "param"),
    [
        ("sim-400", openai.BadRequestError, "unsupported_value", "temperature"),
        ("sim-401", openai.AuthenticationError, "invalid_api_key", None),
        ("sim-403", openai.PermissionDeniedError, "unsupported_country_region_territory", None),
        ("sim-404", openai.NotFoundError, "model_not_found", None),
        ("sim-429", openai.RateLimitError, "rate_limit_exceeded", None),
        ("sim-429-retry-after", openai.RateLimitError, "rate_limit_exceeded", None),
        ("sim-500", openai.InternalServerError, None, None),
        ("sim-503", openai.InternalServerError, None, None),
        ("sim-refusal", openai.BadRequestError, "content_policy_violation", None),
    ],
)
def test_a_status_model_fails_as_the_api_does(
    client: OpenAI, model: str, error: type[openai.APIStatusError], code: str | None, param: str | None
) -> None:
    """A model named for an error raises the SDK's error for it, with the code and the parameter, streamed or not."""
    for stream in (False, True):
        with pytest.raises(error) as failed:
            chat(client, model, stream=stream)
        assert (failed.value.code, failed.value.param) == (code, param)
        assert failed.value.type
        retry_after = failed.value.response.headers.get("retry-after")
        assert retry_after == ("1" if model.endswith("retry-after") else None)
        if model[4:].isdigit():
            assert failed.value.status_code == int(model[4:])


def test_a_hanging_call_ends_with_its_client(simulator: Simulator, client: OpenAI) -> None:
    """A model that hangs never answers, and its call is aborted when the client gives up."""
    with pytest.raises(openai.APITimeoutError):
        chat(client.with_options(timeout=0.1), "sim-hang")
    eventually(lambda: simulator.stats()["in_flight"] == 0)
    assert simulator.stats()["aborted"] == 1


@pytest.mark.parametrize("model", ["sim-cut", "sim-truncated"])
def test_a_broken_connection_is_a_connection_error(simulator: Simulator, client: OpenAI, model: str) -> None:
    """A connection that the simulator closes is a connection error, and no abort by the client."""
    with pytest.raises(openai.APIConnectionError):
        chat(client, model)
    eventually(lambda: simulator.stats()["in_flight"] == 0)
    assert simulator.stats()["aborted"] == 0


def test_a_truncated_answer_ends_in_its_middle(simulator: Simulator) -> None:
    """A truncated answer announces a length and sends a status and half of the body only."""
    body = b'{"model":"sim-truncated","input":"hello"}'
    head = f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", int(simulator.root.rpartition(":")[2])), DEADLINE) as connection:
        connection.sendall(head + body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    headers, _, half = answer.partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.1 200")
    announced = next(int(line.split(b":")[1]) for line in headers.split(b"\r\n") if line.startswith(b"Content-Length"))
    assert len(half) == announced // 2


@pytest.mark.usefixtures("simulator")
def test_a_truncated_stream_ends_in_its_middle(client: OpenAI) -> None:
    """A truncated stream begins, then its connection is closed."""
    stream = client.responses.create(model="sim-truncated", input="hello", stream=True)
    assert next(stream).type == "response.created"
    with pytest.raises(openai.APIConnectionError):
        list(stream)


@pytest.mark.usefixtures("simulator")
def test_garbage_is_html_with_status_200(client: OpenAI) -> None:
    """A garbage answer is a 200 whose body is HTML and no JSON."""
    answer = client.chat.completions.with_raw_response.create(
        model="sim-garbage", messages=[{"role": "user", "content": "x"}]
    )
    assert answer.http_response.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(answer.content)


@pytest.mark.usefixtures("simulator")
def test_a_wrong_shape_is_a_json_list(client: OpenAI) -> None:
    """An answer of the wrong shape is valid JSON that is not an object."""
    answer = client.responses.with_raw_response.create(model="sim-wrong-shape", input="x")
    assert isinstance(json.loads(answer.content), list)


@pytest.mark.usefixtures("simulator")
def test_an_incomplete_answer_says_why(client: OpenAI) -> None:
    """An incomplete answer stops at the length, in each of the text endpoints and in the stream."""
    answer = client.responses.create(model="sim-incomplete", input="x")
    assert (answer.status, answer.output[0].to_dict()["status"]) == ("incomplete", "incomplete")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert chat(client, "sim-incomplete").choices[0].finish_reason == "length"
    assert client.completions.create(model="sim-incomplete", prompt="x").choices[0].finish_reason == "length"
    events = list(client.responses.create(model="sim-incomplete", input="x", stream=True))
    assert events[-1].type == "response.incomplete"


@pytest.mark.usefixtures("simulator")
def test_a_failed_response_is_a_200_with_an_error(client: OpenAI) -> None:
    """A failed response has no output and a server error, whole or as the last event of a stream."""
    answer = client.responses.create(model="sim-failed", input="x")
    assert (answer.status, answer.output, answer.usage) == ("failed", [], None)
    assert answer.error is not None
    assert answer.error.code == "server_error"
    events = list(client.responses.create(model="sim-failed", input="x", stream=True))
    assert [event.type for event in events] == ["response.created", "response.in_progress", "response.failed"]


@pytest.mark.usefixtures("simulator")
def test_a_flaky_model_succeeds_after_its_failures(client: OpenAI) -> None:
    """A flaky model fails its first N calls for each input, and answers after that."""
    for text in ("one", "two"):
        for _ in range(2):
            with pytest.raises(openai.InternalServerError):
                chat(client, "sim-flaky-2", text)
        assert chat(client, "sim-flaky-2", text).choices[0].message.content == f"Simulated answer to: {text}"


@pytest.mark.usefixtures("simulator")
def test_a_slow_model_has_its_own_latency(client: OpenAI) -> None:
    """A slow model takes the seconds in its name, whatever the latency is."""
    begun = time.monotonic()
    assert chat(client, "sim-slow-0.15").choices
    assert time.monotonic() - begun >= 0.15


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        (b"", None),
        (b"{not json", None),
        (b"\xff", None),
        pytest.param(b"[" * 100_000, None, id="nested too deeply"),
        (b"[1]", None),
        (b"{}", "model"),
        (b'{"model": 7, "messages": []}', "model"),
        (b'{"model": "sim"}', "messages"),
        (b'{"model": "sim", "messages": [], "n": 0}', "n"),
    ],
)
def test_an_invalid_body_is_a_bad_request(simulator: Simulator, raw: bytes, param: str | None) -> None:
    """A body that is no JSON object, or misses what the endpoint needs, gets 400 in OpenAI's error shape."""
    with pytest.raises(HTTPError, match="400") as refused:
        simulator.request("/v1/chat/completions", raw=raw)
    with refused.value as answer:
        error = json.load(answer)["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert set(error) == {"message", "type", "param", "code"}
    assert simulator.stats()["calls"] == 1


def test_an_unknown_route_is_404_in_the_error_shape(simulator: Simulator) -> None:
    """A route that does not exist answers 404 with an OpenAI error body."""
    with pytest.raises(HTTPError, match="404") as refused:
        simulator.request("/v1/nothing")
    with refused.value as answer:
        assert json.load(answer)["error"]["type"] == "invalid_request_error"
