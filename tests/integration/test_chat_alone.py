"""``/v1/responses`` on an LLM that speaks chat completions alone, through the unchanged SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
import redis
from openai.types.responses import Response

from jobs import queues
from tests import processes
from tests.integration.batching import line
from tests.integration.conftest import QUICK_RETRIES, own_database
from tests.integration.driving import calls_of, unique
from tests.integration.test_sdk import Sdk, sdk_on
from tests.integration.test_sdk_batches import run
from tests.integration.test_streams import TEXT, every, numbered, text_of
from tests.processes import Stack

TOOL = {
    "type": "function",
    "name": "weather",
    "description": "What it is like there.",
    "parameters": {"type": "object", "properties": {"prompt": {"type": "string"}}},
    "strict": False,
}


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose LLM answers 404 at ``/v1/responses``."""
    settings = {"PROMPTQ_LLM_API": "chat", **QUICK_RETRIES, **own_database(5)}
    folder = tmp_path_factory.mktemp("chatting")
    with processes.stack(folder, "--no-flower", "--simulator-latency", "0.01", **settings) as stack:
        control = stack.llm.removesuffix("/v1") + "/control"
        httpx2.post(control, json={"chat_alone": True}).raise_for_status()
        assert httpx2.post(f"{stack.llm}/responses", json={"model": "sim", "input": "x"}).status_code == 404
        yield stack


@pytest.fixture(params=["sync", "async"])
def sdk(request: pytest.FixtureRequest, chatting: Stack) -> Iterator[Sdk]:
    """The SDK on that stack, which tries nothing twice."""
    with sdk_on(chatting, request.param) as made:
        yield made


def test_a_response_is_answered_in_translation(sdk: Sdk, chatting: Stack) -> None:
    """Text, usage and what was asked are those of a response, for one chat completion."""
    prompt = unique()
    created = sdk(
        lambda client: client.responses.create(
            model="sim", input=prompt, instructions="Be brief.", background=True, metadata={"a": "b"}
        )
    )
    response = sdk.until(created.id, "completed")
    assert response.output_text == f"Simulated answer to: {prompt}"
    assert (response.id, response.model, response.metadata) == (created.id, "sim", {"a": "b"})
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens > 0
    assert response.instructions == "Be brief."
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
    assert calls_of(chatting, asked) == 1
    cut = sdk(lambda client: client.responses.create(model="sim-incomplete", input=unique()))
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_a_function_is_called_and_its_output_answered(sdk: Sdk, chatting: Stack) -> None:
    """A tool call of a chat completion is an item; its output, with the response before, brings the answer."""
    prompt = unique()
    first = sdk(lambda client: client.responses.create(model="sim-tool", input=prompt, tools=[TOOL]))
    (call,) = first.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "weather", {"prompt": prompt})
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = sdk(
        lambda client: client.responses.create(
            model="sim-tool", input=[output], tools=[TOOL], previous_response_id=first.id
        )
    )
    assert second.output_text == f"Simulated answer to: {prompt}"
    function = {"name": call.name, "arguments": call.arguments}
    asked = [
        {"role": "user", "content": prompt},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call.call_id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call.call_id, "content": "sunny"},
    ]
    assert calls_of(chatting, asked) == 1


@pytest.mark.parametrize("background", [False, True])
def test_a_stream_is_told_in_translation(sdk: Sdk, chatting: Stack, background: bool) -> None:
    """The chunks of a chat completion are the events of a response, which can be had again afterwards."""
    prompt = unique()
    events = every(
        sdk, lambda client: client.responses.create(model="sim", input=prompt, stream=True, background=background)
    )
    assert numbered(events) == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events if event.type != TEXT]
    assert kinds[: 1 + background] == ["created", "queued"][: 1 + background]
    assert kinds[1 + background :] == [
        *("in_progress", "output_item.added", "content_part.added", "output_text.done", "content_part.done"),
        *("output_item.done", "completed"),
    ]
    assert text_of(events) == events[-1].response.output_text == f"Simulated answer to: {prompt}"
    assert events[-1].response.usage.output_tokens > 0
    response_id = events[-1].response.id
    assert sdk(lambda client: client.responses.retrieve(response_id)).output == events[-1].response.output
    again = every(sdk, lambda client: client.responses.retrieve(response_id, stream=True, starting_after=4))
    assert again[0].sequence_number > 4
    assert again[-1] == events[-1]
    assert calls_of(chatting, [{"role": "user", "content": prompt}]) == 1


def test_a_function_call_is_streamed(sdk: Sdk, chatting: Stack) -> None:
    """The arguments of a call come in pieces, and the call can be answered in the next turn."""
    prompt = unique()
    events = every(
        sdk, lambda client: client.responses.create(model="sim-tool", input=prompt, tools=[TOOL], stream=True)
    )
    pieces = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    (call,) = events[-1].response.output
    assert "".join(pieces) == call.arguments == json.dumps({"prompt": prompt}, separators=(",", ":"))
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    following = every(
        sdk,
        lambda client: client.responses.create(
            model="sim-tool", input=[output], tools=[TOOL], previous_response_id=events[-1].response.id, stream=True
        ),
    )
    assert text_of(following) == f"Simulated answer to: {prompt}"
    carried = [event.response for event in following if hasattr(event, "response")]
    assert [response.previous_response_id for response in carried] == [events[-1].response.id] * len(carried)
    assert len(carried) == 3


def test_a_stream_in_translation_is_dropped_resumed_and_replayed(sdk: Sdk, chatting: Stack) -> None:
    """Who drops comes back with ``starting_after``; when the pieces of text are gone the events are those that last."""
    prompt = unique("a prompt of some length, so that its answer comes in several pieces")
    call = {"model": "sim", "input": prompt, "background": True, "stream": True}
    first = every(sdk, lambda client: client.responses.create(**call), most=7)
    response_id, last = first[0].response.id, first[-1].sequence_number
    rest = every(sdk, lambda client: client.responses.retrieve(response_id, stream=True, starting_after=last))
    live = first + rest
    assert numbered(live) == list(range(len(live)))
    assert text_of(live) == live[-1].response.output_text == f"Simulated answer to: {prompt}"
    with redis.Redis.from_url(chatting.redis) as store:
        assert store.delete(queues.deltas_key(response_id)) == 1
    replay = every(sdk, lambda client: client.responses.retrieve(response_id, stream=True, starting_after=1))
    assert replay == [event for event in live[2:] if event.type != TEXT]
    helped = every(sdk, lambda client: client.responses.stream(response_id=response_id))
    assert helped[-1].response.output_text == f"Simulated answer to: {prompt}"
    assert calls_of(chatting, [{"role": "user", "content": prompt}]) == 1


def test_the_helper_of_the_sdk_follows_a_translation(sdk: Sdk) -> None:
    """``responses.stream`` puts text and calls together; what is not stored says so in each event."""
    prompt = unique()
    made = every(sdk, lambda client: client.responses.stream(model="sim", input=prompt, store=False))
    assert [event.snapshot for event in made if event.type == TEXT][-1] == f"Simulated answer to: {prompt}"
    assert {event.response.store for event in made if hasattr(event, "response")} == {False}
    called = every(sdk, lambda client: client.responses.stream(model="sim-tool", input=prompt, tools=[TOOL]))
    snapshots = [event.snapshot for event in called if event.type == "response.function_call_arguments.delta"]
    assert snapshots[-1] == called[-1].response.output[0].arguments


def test_a_stream_in_translation_ends_as_its_llm_says(sdk: Sdk) -> None:
    """An answer that was cut at its length is incomplete; a refusal before the first event has its status."""
    cut = every(sdk, lambda client: client.responses.create(model="sim-incomplete", input=unique(), stream=True))
    assert cut[-1].type == "response.incomplete"
    assert cut[-1].response.incomplete_details.reason == "max_output_tokens"
    with pytest.raises(openai.BadRequestError):
        every(sdk, lambda client: client.responses.create(model="sim-400", input=unique(), stream=True))


def test_a_stream_that_breaks_off_is_tried_again(sdk: Sdk, chatting: Stack) -> None:
    """A chat completion that is cut in its middle is no answer: the response fails after its attempts."""
    prompt = unique()
    events = every(
        sdk,
        lambda client: client.responses.create(model="sim-truncated", input=prompt, stream=True, background=True),
    )
    assert events[-1].type in ("response.failed", "error")
    assert calls_of(chatting, [{"role": "user", "content": prompt}]) > 1


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0.type"),
    ],
)
def test_what_chat_completions_cannot_say_is_refused(
    sdk: Sdk, chatting: Stack, asked: dict[str, Any], param: str
) -> None:
    """It is a 400 that names what is at fault, before anything is queued or paid for."""
    calls = chatting.stats()["calls"]
    with pytest.raises(openai.BadRequestError) as caught:
        sdk(lambda client: client.responses.create(**{"model": "sim", "input": "x", "background": True, **asked}))
    assert (caught.value.code, caught.value.param) == ("unsupported_by_llm", param)
    assert chatting.stats()["calls"] == calls


def test_a_batch_of_responses_is_answered_in_translation(sdk: Sdk, chatting: Stack) -> None:
    """A line is a chat completion to the LLM and a response in the files; what cannot be said so costs no call."""
    prompt, cut, unsaid = unique(), unique(), unique()
    bodies: dict[str, dict[str, Any]] = {
        "plain": {"model": "sim", "input": prompt, "instructions": "Be brief."},
        "cut": {"model": "sim-incomplete", "input": cut},
        "refused": {"model": "sim-400", "input": unique()},
        "unsaid": {"model": "sim", "input": unsaid, "tools": [{"type": "web_search"}]},
    }
    lines = [line(name, "", url="/v1/responses", body=body) for name, body in bodies.items()]
    batch = run(sdk, [*lines], endpoint="/v1/responses")
    assert (batch.status, batch.model) == ("completed", None)
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 4, "completed": 2, "failed": 2}
    output, errors = (
        {one["custom_id"]: one for one in map(json.loads, text.splitlines())}
        for text in (
            sdk(lambda client, file=file: client.files.content(file)).text
            for file in (batch.output_file_id, batch.error_file_id)
        )
    )
    answers = {name: Response.model_validate(one["response"]["body"]) for name, one in output.items()}
    assert answers["plain"].output_text == f"Simulated answer to: {prompt}"
    assert answers["plain"].instructions == "Be brief."
    assert (answers["cut"].status, answers["cut"].model) == ("incomplete", "sim-incomplete")
    assert batch.usage is not None
    assert batch.usage.total_tokens == sum(one.usage.total_tokens for one in answers.values() if one.usage) > 0
    assert errors["refused"]["response"]["status_code"] == 400
    assert errors["unsaid"]["error"]["code"] == "unsupported_by_llm"
    assert "tools.0.type" in errors["unsaid"]["error"]["message"]
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
    assert (calls_of(chatting, asked), calls_of(chatting, [{"role": "user", "content": unsaid}])) == (1, 0)


def test_the_llms_refusal_is_relayed(sdk: Sdk) -> None:
    """An error of the chat completion is the response's."""
    with pytest.raises(openai.BadRequestError) as caught:
        sdk(lambda client: client.responses.create(model="sim-400", input=unique()))
    assert caught.value.param == "temperature"
    with pytest.raises(openai.APIStatusError) as bad:
        sdk(lambda client: client.responses.create(model="sim-wrong-shape", input=unique()))
    assert bad.value.status_code == 502
