"""The simulator as a real process, seen through the unchanged openai SDK."""

import asyncio
import base64
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import aiohttp
import openai
import pytest
from openai import OpenAI

from simulator import behaviour
from simulator.prompts import prompt_hash

ROOT = Path(__file__).parents[2]
DEADLINE = 10.0
ODD_TEXT = 'nul:\x00 tab:\t quote:" ünï 漢字 🧪 \u2028 e\u0301 \x7f end'
NORMAL = {"latency": 0.0, "tokens_per_second": None, "error_rate": 0.0, "down": False}


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition holds, or fail after the deadline."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.005)


class Simulator:
    """One simulator process and the ways to talk to it."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url
        self.root = url.removesuffix("/v1")

    def request(self, path: str, body: object = None, *, raw: bytes | None = None) -> Any:
        """Send a GET, or a POST when there is a body, and return the JSON of the answer."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        with urlopen(Request(self.root + path, data=data), timeout=DEADLINE) as answer:
            return json.load(answer)

    def control(self, **changes: object) -> Any:
        return self.request("/control", changes)

    def stats(self) -> Any:
        return self.request("/stats")


@contextmanager
def running(tmp: Path, *arguments: str) -> Iterator[Simulator]:
    """Run a simulator on a free port, and end it by its pid."""
    ready = tmp / "ready.json"
    command = [sys.executable, "-m", "simulator", "--port", "0", "--ready-file", str(ready), *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            told = json.loads(ready.read_text())
            assert told["url"] in line
            assert told == {"url": f"http://127.0.0.1:{told['port']}/v1", "port": told["port"], "pid": process.pid}
            yield Simulator(process, told["url"])
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGTERM)
                process.wait(DEADLINE)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with running(tmp_path_factory.mktemp("simulator"), "--latency", "0") as simulator:
        yield simulator


@pytest.fixture
def simulator(process: Simulator) -> Simulator:
    """The module's simulator with nothing in flight, no latency and its counts at zero."""
    process.control(**NORMAL)
    eventually(lambda: process.stats()["in_flight"] == 0, "nothing in flight")
    process.request("/stats/reset", {})
    return process


@pytest.fixture(scope="module")
def client(process: Simulator) -> Iterator[OpenAI]:
    with OpenAI(base_url=process.url, api_key="sk-test", max_retries=0, timeout=DEADLINE) as client:
        yield client


def chat(client: OpenAI, model: str, text: str = "hello", **options: Any) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **options)


# Answers


@pytest.mark.usefixtures("simulator")
def test_a_response_echoes_its_prompt_and_its_settings(client: OpenAI) -> None:
    """A response holds all of the prompt, even NUL, and repeats model, metadata and instructions."""
    answer = client.responses.create(model="any-model", input=ODD_TEXT, metadata={"a": "b"}, instructions="be brief")
    assert answer.output_text == f"Simulated answer to: {ODD_TEXT}"
    assert answer.id.startswith("resp_")
    assert (answer.status, answer.model, answer.metadata) == ("completed", "any-model", {"a": "b"})
    assert (answer.instructions, answer.error, answer.tools) == ("be brief", None, [])
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.usage.input_tokens_details.cache_write_tokens == 0
    assert type(answer).model_validate(answer.model_dump(), strict=True)


@pytest.mark.usefixtures("simulator")
def test_a_response_answers_the_last_user_message(client: OpenAI) -> None:
    """An input of several items is answered by the text parts of the last user message."""
    answer = client.responses.create(
        model="sim",
        input=[
            {"role": "system", "content": "rules"},
            {"role": "user", "content": [{"type": "input_text", "text": "one"}, {"type": "input_text", "text": "two"}]},
        ],
    )
    assert answer.output_text == "Simulated answer to: one\ntwo"


@pytest.mark.usefixtures("simulator")
def test_a_chat_completion_has_the_wanted_choices(client: OpenAI) -> None:
    """A chat completion has `n` choices that hold all of the prompt, and a usage."""
    answer = chat(client, "gpt-x", ODD_TEXT, n=2)
    assert [choice.message.content for choice in answer.choices] == [f"Simulated answer to: {ODD_TEXT}"] * 2
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.choices[1].index, answer.choices[0].finish_reason) == ("chat.completion", 1, "stop")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert type(answer).model_validate(answer.model_dump(), strict=True)


@pytest.mark.usefixtures("simulator")
def test_a_completion_has_a_choice_for_each_prompt(client: OpenAI) -> None:
    """A completion answers a string, or each string of a list."""
    one = client.completions.create(model="sim", prompt=ODD_TEXT)
    two = client.completions.create(model="sim", prompt=["a", "b"])
    assert one.id.startswith("cmpl-")
    assert [choice.text for choice in one.choices] == [f"Simulated answer to: {ODD_TEXT}"]
    assert [choice.text for choice in two.choices] == ["Simulated answer to: a", "Simulated answer to: b"]
    assert type(one).model_validate(one.model_dump(), strict=True)


@pytest.mark.usefixtures("simulator")
def test_embeddings_are_deterministic_in_both_encodings(client: OpenAI) -> None:
    """The same input gives the same unit vector, whether it travels as floats or as base64."""
    first = client.embeddings.create(model="sim", input=ODD_TEXT).data[0].embedding
    floats = client.embeddings.create(model="sim", input=ODD_TEXT, encoding_format="float").data[0].embedding
    packed: Any = client.embeddings.create(model="sim", input=ODD_TEXT, encoding_format="base64").data[0].embedding
    assert first == floats == list(struct.unpack("<8f", base64.b64decode(packed)))
    assert sum(value * value for value in first) == pytest.approx(1)
    assert client.embeddings.create(model="sim", input="other").data[0].embedding != first


@pytest.mark.usefixtures("simulator")
@pytest.mark.parametrize(("value", "vectors"), [("a", 1), (["a", "b"], 2), ([1, 2], 1), ([[1, 2], [3]], 2)])
def test_embeddings_take_every_form_of_input(client: OpenAI, value: Any, vectors: int) -> None:
    """Strings and token ids, alone or in lists, each give one vector of the wanted dimension."""
    answer = client.embeddings.create(model="sim", input=value, dimensions=3)
    assert [item.index for item in answer.data] == list(range(vectors))
    assert {len(item.embedding) for item in answer.data} == {3}


@pytest.mark.usefixtures("simulator")
def test_models_are_listed_and_every_name_is_one(client: OpenAI) -> None:
    """The list holds the normal model and each failure model; any other name can be retrieved too."""
    names = [model.id for model in client.models.list()]
    assert {"sim", "sim-429", "sim-hang", "sim-flaky-1"} <= set(names)
    assert client.models.retrieve("org/any").id == "org/any"


def test_every_model_is_documented() -> None:
    """Each listed model stands in the table of the behaviour module."""
    assert behaviour.__doc__ is not None
    for model in behaviour.MODELS:
        assert f"`{model.replace('-1', '-N').replace('slow-N', 'slow-SECONDS')}`" in behaviour.__doc__


def test_every_answer_has_a_request_id(simulator: Simulator, client: OpenAI) -> None:
    """Answers, errors and administrative pages carry a fresh ``x-request-id``."""
    with pytest.raises(openai.RateLimitError) as refused:
        chat(client, "sim-429")
    ids = {refused.value.request_id, chat(client, "sim")._request_id}
    for path in ("/stats", "/healthz"):
        with urlopen(simulator.root + path, timeout=DEADLINE) as answer:
            ids.add(answer.headers["x-request-id"])
    assert len(ids) == 4
    assert None not in ids


# Streams


@pytest.mark.usefixtures("simulator")
def test_a_response_stream_has_every_event_in_order(client: OpenAI) -> None:
    """A response streams its typed events, numbered from 0, and the deltas add up to the text."""
    events = list(client.responses.create(model="sim", input=ODD_TEXT, stream=True))
    kinds = [event.type for event in events]
    deltas = kinds.count("response.output_text.delta")
    assert deltas > 1
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.completed"
    assert text == last.response.output_text == f"Simulated answer to: {ODD_TEXT}"
    for event in events:
        assert type(event).model_validate(event.model_dump(), strict=True)


@pytest.mark.usefixtures("simulator")
def test_the_stream_helper_of_the_sdk_follows_a_response(client: OpenAI) -> None:
    """The SDK's own accumulation of a stream ends with the complete response."""
    with client.responses.stream(model="sim", input="hello there") as stream:
        assert stream.get_final_response().output_text == "Simulated answer to: hello there"


@pytest.mark.usefixtures("simulator")
def test_a_chat_stream_adds_up(client: OpenAI) -> None:
    """Chat chunks give the role, the text, the finish reason and, when asked for, the usage last."""
    chunks = list(chat(client, "sim", ODD_TEXT, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == f"Simulated answer to: {ODD_TEXT}"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 1
    assert all(chunk.usage is None for chunk in chat(client, "sim", stream=True))


@pytest.mark.usefixtures("simulator")
def test_a_completion_stream_adds_up_for_each_prompt(client: OpenAI) -> None:
    """Completion chunks carry the index of the prompt that they answer."""
    texts = ["", ""]
    for chunk in client.completions.create(model="sim", prompt=["one", "two"], stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["Simulated answer to: one", "Simulated answer to: two"]


def test_a_stream_is_spaced_by_the_speed(simulator: Simulator, client: OpenAI) -> None:
    """With a token speed the deltas of a stream come one after the other, in the time that the output takes."""
    simulator.control(tokens_per_second=50)
    begun = time.monotonic()
    stream = client.responses.create(model="sim", input="x" * 20, stream=True)
    assert next(stream).type == "response.created"
    assert [event.type for event in stream][-1] == "response.completed"
    assert time.monotonic() - begun >= 0.2


# Failures


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
    eventually(lambda: simulator.stats()["in_flight"] == 0, "the hanging call is gone")
    assert simulator.stats()["aborted"] == 1


@pytest.mark.parametrize("model", ["sim-cut", "sim-truncated"])
def test_a_broken_connection_is_a_connection_error(simulator: Simulator, client: OpenAI, model: str) -> None:
    """A connection that the simulator closes is a connection error, and no abort by the client."""
    with pytest.raises(openai.APIConnectionError):
        chat(client, model)
    eventually(lambda: simulator.stats()["in_flight"] == 0, "the broken call is gone")
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


# Control


def test_a_simulator_that_is_down_answers_503(simulator: Simulator, client: OpenAI) -> None:
    """While it is down every call under /v1 gets 503, an invalid one too, and /healthz still answers."""
    simulator.control(down=True)
    with pytest.raises(openai.InternalServerError, match="503"):
        chat(client, "sim")
    with pytest.raises(openai.InternalServerError, match="503"):
        client.models.list()
    with pytest.raises(HTTPError, match="503") as refused:
        simulator.request("/v1/responses", raw=b"no")
    refused.value.close()
    assert simulator.request("/healthz") == {"status": "ok"}
    assert simulator.control(down=False) == NORMAL
    assert chat(client, "sim").choices


def test_the_error_rate_makes_calls_fail(simulator: Simulator, client: OpenAI) -> None:
    """An error rate of 1 fails every call with 500, and one of 0 none."""
    simulator.control(error_rate=1)
    with pytest.raises(openai.InternalServerError):
        chat(client, "sim")
    simulator.control(error_rate=0)
    assert chat(client, "sim").choices


def test_the_speed_adds_to_the_latency(simulator: Simulator, client: OpenAI) -> None:
    """An answer takes the latency and the time of its output tokens."""
    simulator.control(latency=0.1, tokens_per_second=100)
    begun = time.monotonic()
    answer = client.responses.create(model="sim", input="x" * 20)
    assert answer.usage is not None
    assert time.monotonic() - begun >= 0.1 + answer.usage.output_tokens / 100


@pytest.mark.parametrize(
    "changes", [{"latency": -1}, {"error_rate": 2}, {"tokens_per_second": 0}, {"down": 1}, {"latency": 5, "typo": 1}]
)
def test_a_wrong_setting_changes_nothing(simulator: Simulator, changes: dict[str, object]) -> None:
    """A setting that is unknown or out of bounds is refused with 400, and none of the changes is made."""
    with pytest.raises(HTTPError, match="400") as refused:
        simulator.control(**changes)
    refused.value.close()
    assert simulator.control() == NORMAL


# Statistics


def test_stats_count_calls_by_prompt_and_model(simulator: Simulator, client: OpenAI) -> None:
    """Every call counts, whatever its outcome, under its model and under the hash that tests can compute."""
    for _ in range(2):
        client.responses.create(model="sim", input=ODD_TEXT)
    with pytest.raises(openai.InternalServerError):
        chat(client, "sim-500")
    client.models.list()
    said = {"messages": [{"role": "user", "content": "hello"}]}
    assert simulator.stats() == {
        "calls": 3,
        "in_flight": 0,
        "peak": 1,
        "aborted": 0,
        "by_prompt": {prompt_hash({"input": ODD_TEXT}): 2, prompt_hash(said): 1},
        "by_model": {"sim": 2, "sim-500": 1},
    }
    assert simulator.request("/stats/reset", {})["calls"] == 0


def test_a_prompt_hash_depends_on_the_prompt_only() -> None:
    """The hash of a body is the same for any key order and any other field, and differs for another prompt."""
    one = prompt_hash({"model": "a", "input": [{"role": "user", "content": "\ud800\x00"}]})
    assert one == prompt_hash({"input": [{"content": "\ud800\x00", "role": "user"}], "model": "b"})
    assert one != prompt_hash({"input": "x"})
    assert len(one) == 16


def test_a_client_that_leaves_in_mid_stream_is_an_abort(simulator: Simulator, client: OpenAI) -> None:
    """A stream whose client hangs up is no longer in flight, and counts as aborted."""
    simulator.control(tokens_per_second=1)
    with client.responses.create(model="sim", input="x" * 400, stream=True) as stream:
        assert next(stream).type == "response.created"
        assert simulator.stats()["in_flight"] == 1
    eventually(lambda: simulator.stats()["in_flight"] == 0, "the stream is gone")
    assert simulator.stats()["aborted"] == 1


def test_calls_in_flight_together_reach_their_number_as_peak(simulator: Simulator) -> None:
    """200 calls that wait at the same time are all in flight, and none of them is left when their clients leave."""

    async def hold() -> None:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def call(number: int) -> None:
                body = {"model": "sim-hang", "input": f"prompt {number}"}
                async with session.post(f"{simulator.url}/responses", json=body):
                    pytest.fail("a hanging call answered")

            calls = [asyncio.create_task(call(number)) for number in range(200)]
            async with asyncio.timeout(DEADLINE):
                while (await (await session.get(f"{simulator.root}/stats")).json())["in_flight"] < 200:
                    await asyncio.sleep(0.005)
            for task in calls:
                task.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(hold())
    eventually(lambda: simulator.stats()["in_flight"] == 0, "no call in flight")
    stats = simulator.stats()
    assert (stats["calls"], stats["peak"], stats["aborted"]) == (200, 200, 200)
    assert len(stats["by_prompt"]) == 200


# The process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once_with_code_0(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end the process with code 0, though a call still hangs."""
    with running(tmp_path) as simulator:
        body = b'{"model":"sim-hang","input":"x"}'
        head = f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", int(simulator.root.rpartition(":")[2])), DEADLINE) as connection:
            connection.sendall(head + body)
            eventually(lambda: simulator.stats()["in_flight"] == 1, "the call hangs")
            begun = time.monotonic()
            os.kill(simulator.process.pid, number)
            assert simulator.process.wait(DEADLINE) == 0
            assert time.monotonic() - begun < 3


def test_wrong_arguments_end_it_with_an_explanation() -> None:
    """An argument that makes no sense ends the process with code 2 and says why."""
    ended = subprocess.run(
        [sys.executable, "-m", "simulator", "--error-rate", "2"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "error_rate must be a number from 0 to 1" in ended.stderr


def test_it_raises_the_limit_of_open_files(tmp_path: Path) -> None:
    """A simulator that starts with a low soft limit of open files raises it as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with running(tmp_path) as simulator:
            assert resource.prlimit(simulator.process.pid, resource.RLIMIT_NOFILE)[0] == min(hard, 65_536)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
