"""The unchanged openai SDK as the client, sync and async."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import httpx2
import openai
import pytest
from openai.types.responses import Response

from tests.integration.driving import calls_of, messages, read, unique
from tests.processes import Stack, eventually


class Sdk:
    """Makes calls of the SDK, sync or async, and answers what they answer."""

    def __init__(self, client: Any, runner: asyncio.Runner | None) -> None:
        self._client = client
        self._runner = runner

    def __call__(self, call: Callable[[Any], Any]) -> Any:
        if self._runner is None:
            return call(self._client)

        async def answer() -> Any:
            return await call(self._client)

        return self._runner.run(answer())

    def until(self, response_id: str, *statuses: str, within: float = 20) -> Response:
        """Retrieve in a loop until the response has one of these statuses."""
        return eventually(
            lambda: self(lambda client: client.responses.retrieve(response_id)),
            lambda response: response.status in statuses,
            within=within,
        )


@pytest.fixture(params=["sync", "async"])
def sdk(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Sdk]:
    """The SDK on the stack, which tries nothing twice."""
    with sdk_on(stack, request.param) as made:
        yield made


S = TypeVar("S", bound=Sdk)


@contextlib.contextmanager
def sdk_on(stack: Stack, kind: str, variant: type[S] = Sdk) -> Iterator[S]:  # type: ignore[assignment]
    """The SDK on a stack, ``sync`` or ``async``, which tries nothing twice."""
    options = {"base_url": f"{stack.api}/v1", "api_key": stack.api_key, "max_retries": 0}
    if kind == "sync":
        with openai.OpenAI(**options) as client:
            yield variant(client, None)
        return
    with asyncio.Runner() as runner:
        client = openai.AsyncOpenAI(**options)
        yield variant(client, runner)
        runner.run(client.close())


def test_a_background_response_is_polled_to_its_text(sdk: Sdk, stack: Stack) -> None:
    """A background response is queued at once, and a retrieve loop brings text and usage as the SDK types them."""
    prompt = unique()
    before = time.time()
    created = sdk(lambda client: client.responses.create(model="sim", input=prompt, background=True))
    assert isinstance(created, Response)
    assert created.id.startswith("resp_")
    assert created.status in {"queued", "in_progress"}
    assert (created.output, created.output_text, created.background) == ([], "", True)
    assert abs(created.created_at - before) < 30
    response = sdk.until(created.id, "completed")
    assert response.output_text == f"Simulated answer to: {prompt}"
    assert (response.id, response.created_at, response.model) == (created.id, created.created_at, "sim")
    assert response.error is None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens > 0
    assert response.usage.input_tokens_details.cached_tokens == 0
    assert response.usage.output_tokens_details.reasoning_tokens == 0
    assert calls_of(stack, prompt) == 1


def test_cancelling_a_running_response_aborts_its_call(sdk: Sdk, stack: Stack) -> None:
    """A running response that is cancelled ends cancelled, and its LLM call is aborted within two seconds."""
    prompt = unique()
    created = sdk(lambda client: client.responses.create(model="sim-hang", input=prompt, background=True))
    sdk.until(created.id, "in_progress")
    eventually(lambda: calls_of(stack, prompt))
    aborted = stack.stats()["aborted"]
    assert sdk(lambda client: client.responses.cancel(created.id)).status == "cancelled"
    eventually(lambda: stack.stats()["aborted"], lambda count: count > aborted, within=4)
    again = sdk(lambda client: client.responses.cancel(created.id))
    assert (again.status, again.output_text) == ("cancelled", "")
    assert sdk(lambda client: client.responses.retrieve(created.id)).status == "cancelled"


def test_a_deleted_response_is_not_found(sdk: Sdk) -> None:
    """A deleted response is gone for retrieve, cancel, delete and its input items."""
    created = sdk(lambda client: client.responses.create(model="sim", input=unique(), background=True))
    assert sdk(lambda client: client.responses.delete(created.id)) is None
    for call in ("retrieve", "cancel", "delete"):
        with pytest.raises(openai.NotFoundError) as caught:
            sdk(lambda client, call=call: getattr(client.responses, call)(created.id))
        assert caught.value.code == "not_found"
    with pytest.raises(openai.NotFoundError):
        sdk(lambda client: client.responses.input_items.list(created.id))


def test_input_items_are_what_was_asked(sdk: Sdk) -> None:
    """The input items are the request's own, newest first unless asked otherwise, and paged by id."""
    asked = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "input_text", "text": "first"}]},
        {"role": "user", "content": unique()},
    ]
    created = sdk(lambda client: client.responses.create(model="sim", input=asked, background=True))
    page = sdk(lambda client: client.responses.input_items.list(created.id, order="asc"))
    assert [item.role for item in page.data] == ["developer", "user", "user"]
    assert [item.content[0].text for item in page.data] == ["be brief", "first", asked[2]["content"]]
    newest = sdk(lambda client: client.responses.input_items.list(created.id, limit=1))
    assert ([item.id for item in newest.data], newest.has_more) == ([page.data[2].id], True)
    rest = sdk(lambda client: client.responses.input_items.list(created.id, after=newest.data[0].id))
    assert [item.id for item in rest.data] == [page.data[1].id, page.data[0].id]
    text = sdk(lambda client: client.responses.create(model="sim", input="a text", background=True))
    items = sdk(lambda client: client.responses.input_items.list(text.id)).data
    assert [(item.role, item.content[0].text) for item in items] == [("user", "a text")]


def test_a_response_without_background_is_the_answer(sdk: Sdk, stack: Stack) -> None:
    """Without background the call waits, and the response it brings can be retrieved afterwards."""
    prompt = unique()
    response = sdk(lambda client: client.responses.create(model="sim", input=prompt, metadata={"a": "b"}))
    assert (response.status, response.output_text) == ("completed", f"Simulated answer to: {prompt}")
    assert response.metadata == {"a": "b"}
    assert sdk(lambda client: client.responses.retrieve(response.id)).output_text == response.output_text
    assert calls_of(stack, prompt) == 1


def test_a_response_that_ran_out_of_tokens_is_incomplete(sdk: Sdk, stack: Stack) -> None:
    """An answer cut by its length ends incomplete, with the reason and with the text so far, after one LLM call."""
    prompt = unique()
    created = sdk(lambda client: client.responses.create(model="sim-incomplete", input=prompt, background=True))
    response = sdk.until(created.id, "incomplete")
    assert response.incomplete_details.reason == "max_output_tokens"
    assert prompt in response.output_text
    assert calls_of(stack, prompt) == 1


@pytest.mark.parametrize(
    ("model", "code"),
    [("sim-400", "invalid_prompt"), ("sim-429", "rate_limit_exceeded"), ("sim-500", "server_error")],
)
def test_a_background_response_that_fails_says_why(sdk: Sdk, model: str, code: str) -> None:
    """A failed background response carries an error with one of OpenAI's codes, and no output."""
    created = sdk(lambda client: client.responses.create(model=model, input=unique(), background=True))
    response = sdk.until(created.id, "failed")
    assert response.error.code == code
    assert response.error.message
    assert response.output_text == ""


def test_chat_completions_completions_and_embeddings_answer(sdk: Sdk, stack: Stack) -> None:
    """The synchronous doors bring the LLM's own answers, as the SDK types them, for one LLM call each."""
    prompt = unique()
    chat = sdk(lambda client: client.chat.completions.create(model="sim", messages=messages(prompt)))
    assert chat.choices[0].message.content == f"Simulated answer to: {prompt}"
    assert chat.choices[0].finish_reason == "stop"
    assert chat.usage.total_tokens > 0
    assert calls_of(stack, messages(prompt)) == 1
    text = sdk(lambda client: client.completions.create(model="sim", prompt=prompt))
    assert text.choices[0].text == f"Simulated answer to: {prompt}"
    assert calls_of(stack, prompt) == 1
    vectors = sdk(lambda client: client.embeddings.create(model="sim", input=[prompt, "another"]))
    assert [item.index for item in vectors.data] == [0, 1]
    assert all(isinstance(number, float) for number in vectors.data[0].embedding)
    assert calls_of(stack, [prompt, "another"]) == 1


def test_models_are_the_llms(sdk: Sdk) -> None:
    """The list of models is the LLM's, and one of them can be retrieved; another is not found."""
    assert "sim-hang" in {model.id for model in sdk(lambda client: client.models.list()).data}
    assert sdk(lambda client: client.models.retrieve("sim")).id == "sim"
    with pytest.raises(openai.NotFoundError):
        sdk(lambda client: client.models.retrieve("no-such-model"))


def test_our_options_ride_in_extra_body(sdk: Sdk, client: httpx2.Client) -> None:
    """``extra_body`` chooses queue and deadline, and the LLM gets neither."""
    ours = {"promptq": {"queue": "bulk", "deadline_seconds": 120}}
    created = sdk(lambda client: client.responses.create(model="sim", input=unique(), background=True, extra_body=ours))
    job = read(client, created.id)
    assert job["queue"] == "bulk"
    assert job["deadline_at"] == pytest.approx(job["created_at"] + 120, abs=0.01)
    chat = sdk(
        lambda client: client.chat.completions.with_raw_response.create(
            model="sim", messages=messages(unique()), extra_body=ours
        )
    )
    assert read(client, chat.headers["x-promptq-job-id"])["queue"] == "bulk"


@pytest.mark.parametrize(("window", "queue"), [("soonest", "interactive"), ("2h", "default"), ("8h", "bulk")])
def test_the_completion_window_chooses_the_queue(sdk: Sdk, client: httpx2.Client, window: str, queue: str) -> None:
    """``background_options.completion_window`` maps to the queues."""
    created = sdk(
        lambda client: client.responses.create(
            model="sim", input=unique(), background=True, background_options={"completion_window": window}
        )
    )
    assert read(client, created.id)["queue"] == queue
