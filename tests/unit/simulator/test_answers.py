"""What the simulator answers, whole and streamed, seen through the unchanged openai SDK."""

from __future__ import annotations

import base64
import json
import struct
import time
from typing import Any
from urllib.request import urlopen

import openai
import pytest
from openai import OpenAI

from simulator import behaviour
from tests.unit.simulator.driving import DEADLINE, ODD_TEXT, Simulator, chat


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


@pytest.mark.usefixtures("simulator")
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_tool_model_calls_what_it_is_offered_until_it_has_an_output(client: OpenAI, streamed: bool) -> None:
    """The function is called with the prompt; its output brings the normal answer, as does having no tools."""
    function: Any = {"type": "function", "function": {"name": "f", "parameters": {}}}
    asked: list[Any] = [{"role": "user", "content": ODD_TEXT}]
    options: Any = {"model": "sim-tool", "tools": [function]}
    if streamed:
        with client.chat.completions.stream(messages=asked, **options) as stream:
            choice = stream.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(messages=asked, **options).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls or ()
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("f", {"prompt": ODD_TEXT})
    said: Any = {"role": "assistant", "tool_calls": [call.model_dump()]}
    output: Any = {"role": "tool", "tool_call_id": call.id, "content": "done"}
    for answer in (
        client.chat.completions.create(messages=[*asked, said, output], **options),
        chat(client, "sim-tool", ODD_TEXT),
    ):
        assert answer.choices[0].message.content == f"Simulated answer to: {ODD_TEXT}"


def test_an_llm_of_chat_alone_has_no_responses(simulator: Simulator, client: OpenAI) -> None:
    """With ``chat_alone`` the Responses API is a 404, and everything else is as it was."""
    simulator.control(chat_alone=True)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="sim", input="x")
    assert chat(client, "sim", "x").choices[0].message.content == "Simulated answer to: x"
