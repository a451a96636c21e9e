"""Streams: the unchanged openai SDK follows what a worker relays, through any replica."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
import redis

from jobs import queues
from tests.integration.driving import calls_of, chat, ended, job_labelled, messages, read, running, unique
from tests.integration.test_sdk import Sdk, sdk  # noqa: F401  # the fixture
from tests.integration.test_synchronous import connect
from tests.processes import Stack, eventually

TEXT = "response.output_text.delta"


@contextlib.contextmanager
def writing_slowly(stack: Stack) -> Iterator[None]:
    """The stack's LLM writes some 25 pieces of a text a second."""
    control = stack.llm.removesuffix("/v1") + "/control"
    httpx2.post(control, json={"tokens_per_second": 50}).raise_for_status()
    yield
    httpx2.post(control, json={"tokens_per_second": None}).raise_for_status()


@pytest.fixture
def slowly(stack: Stack) -> Iterator[None]:
    """The LLM of the shared stack writes slowly."""
    with writing_slowly(stack):
        yield


def every(sdk: Sdk, call: Any, *, most: int | None = None) -> list[Any]:  # noqa: F811
    """The events of the stream that a call of the SDK gives; after ``most`` of them it is closed."""

    def sync(client: Any) -> list[Any]:
        found = []
        with call(client) as stream:
            for event in stream:
                found.append(event)
                if len(found) == most:
                    break
        return found

    async def asynchronous(client: Any) -> list[Any]:
        found = []
        made = call(client)
        async with await made if hasattr(made, "__await__") else made as stream:
            async for event in stream:
                found.append(event)
                if len(found) == most:
                    break
        return found

    return sdk(sync if sdk._runner is None else asynchronous)  # type: ignore[no-any-return]


def text_of(events: list[Any]) -> str:
    return "".join(event.delta for event in events if event.type == TEXT)


def answer_to(prompt: str) -> str:
    return f"Simulated answer to: {prompt}"


def numbered(events: list[Any]) -> list[int]:
    return [event.sequence_number for event in events]


def test_a_response_streams(sdk: Sdk, stack: Stack) -> None:  # noqa: F811
    """Without background: the LLM's events under our id and numbers, and the whole response at the end."""
    prompt = unique()
    events = every(sdk, lambda client: client.responses.create(model="sim", input=prompt, stream=True))
    assert [events[0].type, events[1].type, events[-1].type] == [
        "response.created",
        "response.in_progress",
        "response.completed",
    ]
    assert numbered(events) == list(range(len(events)))
    assert text_of(events) == answer_to(prompt) == events[-1].response.output_text
    assert {event.response.id for event in events if hasattr(event, "response")} == {events[0].response.id}
    stored = sdk(lambda client: client.responses.retrieve(events[0].response.id))
    assert (stored.output_text, stored.status) == (answer_to(prompt), "completed")
    assert stored.usage == events[-1].response.usage
    assert calls_of(stack, prompt) == 1


def test_a_background_response_streams_from_its_queue_on(sdk: Sdk, stack: Stack) -> None:  # noqa: F811
    """With background: created and queued at once, then as without."""
    prompt = unique()
    call = {"model": "sim", "input": prompt, "background": True, "stream": True}
    events = every(sdk, lambda client: client.responses.create(**call))
    assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert [events[0].response.status, events[1].response.status] == ["queued", "queued"]
    assert [event.type for event in events].count("response.created") == 1
    assert numbered(events) == list(range(len(events)))
    assert events[-1].response.background is True
    assert text_of(events) == answer_to(prompt)
    assert calls_of(stack, prompt) == 1


@pytest.mark.usefixtures("slowly")
def test_a_background_response_goes_on_without_its_reader(sdk: Sdk, stack: Stack) -> None:  # noqa: F811
    """A reader that drops and comes back with ``starting_after`` misses nothing, and hears nothing twice."""
    prompt = unique("a prompt of some length, so that its answer takes a second or two")
    call = {"model": "sim", "input": prompt, "background": True, "stream": True}
    first = every(sdk, lambda client: client.responses.create(**call), most=10)
    response_id, last = first[0].response.id, first[-1].sequence_number
    rest = every(sdk, lambda client: client.responses.retrieve(response_id, stream=True, starting_after=last))
    assert numbered(first + rest) == list(range(len(first) + len(rest)))
    assert text_of(first + rest) == answer_to(prompt) == rest[-1].response.output_text
    assert calls_of(stack, prompt) == 1


@pytest.mark.usefixtures("slowly")
def test_the_helpers_of_the_sdk_follow(sdk: Sdk, stack: Stack) -> None:  # noqa: F811
    """``responses.stream`` makes a response; with a ``response_id`` it follows one, from any number on."""
    prompt = unique()
    made = every(sdk, lambda client: client.responses.stream(model="sim", input=prompt))
    assert made[-1].response.output_text == answer_to(prompt)
    assert [event.snapshot for event in made if event.type == TEXT][-1] == answer_to(prompt)
    created = sdk(lambda client: client.responses.create(model="sim", input=prompt, background=True, stream=True))
    sdk(lambda client: created.close())
    response_id = made[0].response.id
    again = every(sdk, lambda client: client.responses.stream(response_id=response_id))
    assert again[-1].response.output_text == answer_to(prompt)
    later = every(sdk, lambda client: client.responses.stream(response_id=response_id, starting_after=3))
    assert numbered(later) == [number for number in numbered(again) if number > 3]
    assert calls_of(stack, prompt) == 2


def test_a_response_that_was_not_streamed_can_be_followed(sdk: Sdk) -> None:  # noqa: F811
    """Who asks for the stream of any response gets its events once it has ended."""
    prompt = unique()
    created = sdk(lambda client: client.responses.create(model="sim-slow-0.3", input=prompt, background=True))
    events = every(sdk, lambda client: client.responses.retrieve(created.id, stream=True))
    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]
    assert events[-1].response.output_text == answer_to(prompt)
    helped = every(sdk, lambda client: client.responses.stream(response_id=created.id))
    assert helped[-1].response.output_text == answer_to(prompt)


def test_chat_completions_stream(sdk: Sdk, client: httpx2.Client, stack: Stack) -> None:  # noqa: F811
    """Chunks as the LLM sends them; the usage only for who asks; the job holds the whole answer."""
    prompt = unique()
    call = {"model": "sim", "messages": messages(prompt), "stream": True}
    chunks = every(sdk, lambda client: client.chat.completions.create(**call))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer_to(prompt)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[-1].choices[0].finish_reason == "stop"
    with_usage = every(
        sdk, lambda client: client.chat.completions.create(**call, stream_options={"include_usage": True}, n=2)
    )
    assert (with_usage[-1].choices, with_usage[-1].usage.total_tokens > 0) == ([], True)
    assert {choice.index for chunk in with_usage for choice in chunk.choices} == {0, 1}
    answer = client.post("/v1/chat/completions", json=chat(prompt, stream=True))
    job = ended(client, answer.headers["x-promptq-job-id"])
    assert job["result"]["object"] == "chat.completion"
    assert job["result"]["choices"][0]["message"]["content"] == answer_to(prompt)
    assert job["usage"]["total_tokens"] == job["result"]["usage"]["total_tokens"] > 0
    assert calls_of(stack, messages(prompt)) == 3


def test_the_chat_helper_of_the_sdk_follows(sdk: Sdk) -> None:  # noqa: F811
    """``chat.completions.stream`` puts the answer together."""
    prompt = unique()
    events = every(sdk, lambda client: client.chat.completions.stream(model="sim", messages=messages(prompt)))
    assert [event.content for event in events if event.type == "content.done"] == [answer_to(prompt)]


def test_completions_stream(sdk: Sdk) -> None:  # noqa: F811
    """The older endpoint streams as well."""
    prompt = unique()
    chunks = every(sdk, lambda client: client.completions.create(model="sim", prompt=prompt, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer_to(prompt)


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("sim-400", openai.BadRequestError),
        ("sim-401", openai.AuthenticationError),
        ("sim-500", openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("door", ["responses", "chat"])
def test_an_error_before_the_first_event_has_its_status(
    sdk: Sdk,  # noqa: F811
    model: str,
    error: type[Exception],
    door: str,
) -> None:
    """The SDK raises what it raises without a stream."""

    def ask(client: Any) -> Any:
        if door == "chat":
            return client.chat.completions.create(model=model, messages=messages(unique()), stream=True)
        return client.responses.create(model=model, input=unique(), stream=True)

    with pytest.raises(error):
        every(sdk, ask)


def test_a_background_response_that_fails_ends_its_stream(sdk: Sdk) -> None:  # noqa: F811
    """The last event says why."""
    call = {"model": "sim-500", "input": unique(), "background": True, "stream": True}
    events = every(sdk, lambda client: client.responses.create(**call))
    assert [event.type for event in events] == ["response.created", "response.queued", "response.failed"] or [
        event.type for event in events
    ] == ["response.created", "response.queued", "response.in_progress", "response.failed"]
    assert events[-1].response.error.code == "server_error"


@pytest.mark.parametrize(("model", "last"), [("sim-incomplete", "incomplete"), ("sim-failed", "failed")])
def test_a_response_ends_as_its_llm_says(sdk: Sdk, model: str, last: str) -> None:  # noqa: F811
    """The LLM's own last event, and the job's state."""
    events = every(sdk, lambda client: client.responses.create(model=model, input=unique(), stream=True))
    assert events[-1].type == f"response.{last}"
    assert sdk(lambda client: client.responses.retrieve(events[-1].response.id)).status == last


@pytest.mark.usefixtures("slowly")
def test_an_answer_that_breaks_off_ends_the_stream_with_an_error(sdk: Sdk, client: httpx2.Client, stack: Stack) -> None:  # noqa: F811
    """What was told is void: the stream says so, the job goes on, and the replay holds the surviving attempt."""
    prompt = unique("a prompt that is long enough for half of it to be something")
    events = every(sdk, lambda client: client.responses.create(model="sim-breaks-1", input=prompt, stream=True))
    assert (events[-1].type, events[-1].code) == ("error", "llm_unreachable")
    response_id = events[0].response.id
    assert response_id in events[-1].message
    ended(client, response_id)
    last = events[-1].sequence_number
    for asked in ({}, {"starting_after": last}):
        replay = every(sdk, lambda client, asked=asked: client.responses.retrieve(response_id, stream=True, **asked))
        assert replay[0].type == "response.created"
        assert numbered(replay) == list(range(last + 1, last + 1 + len(replay)))
        assert text_of(replay) == answer_to(prompt) == replay[-1].response.output_text
    assert calls_of(stack, prompt) == 2
    assert len(read(client, response_id)["attempts"]) == 1


@pytest.mark.usefixtures("slowly")
def test_a_chat_completion_that_breaks_off_raises(sdk: Sdk, client: httpx2.Client) -> None:  # noqa: F811
    """The SDK raises APIError in the middle, with the code and the job's id."""
    label = unique("label")
    call = {**chat(unique("long enough for half of it to be something"), "sim-breaks-1"), "metadata": {"label": label}}
    with pytest.raises(openai.APIError) as caught:
        every(sdk, lambda client: client.chat.completions.create(**call, stream=True))
    assert caught.value.code == "llm_unreachable"
    job = job_labelled(client, label)
    assert job is not None
    assert job["id"] in caught.value.message
    assert ended(client, job["id"])["status"] == "completed"


def test_an_error_event_of_the_llm_is_an_error_of_the_attempt(client: httpx2.Client, stack: Stack) -> None:
    """It is tried again, and at last the job fails with the LLM's words."""
    prompt = unique("long enough for half of it to be something")
    with client.stream(
        "POST", "/v1/responses", json={"model": "sim-stream-error", "input": prompt, "stream": True}
    ) as it:
        job_id = it.headers["x-promptq-job-id"]
        assert it.status_code == 200
        it.read()
    job = ended(client, job_id)
    assert (job["status"], job["error"]["code"]) == ("failed", "llm_unavailable")
    assert job["error"]["message"] == "The simulated stream failed."
    assert calls_of(stack, prompt) == 3


def events_in(answer: Any) -> Iterator[dict[str, Any]]:
    """The events of a streamed answer, as they come."""
    for line in answer.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def test_the_head_of_a_stream(client: httpx2.Client) -> None:
    """Its type, and what keeps proxies from gathering it."""
    for path, body in (
        ("/v1/responses", {"model": "sim", "input": unique(), "stream": True}),
        ("/v1/chat/completions", chat(unique(), stream=True)),
    ):
        with client.stream("POST", path, json=body) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert answer.headers["cache-control"] == "no-cache, no-transform"
            assert answer.headers["x-accel-buffering"] == "no"
            assert answer.headers["x-request-id"].startswith("req_")
            assert "x-promptq-job-id" in answer.headers
            text = answer.read().decode()
        assert ("event: response.created\ndata: {" in text) is (path == "/v1/responses")
        assert text.endswith("data: [DONE]\n\n") is (path != "/v1/responses")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("begun", [True, False], ids=["in the middle", "before it begins"])
def test_a_reader_who_goes_away_cancels_the_job(client: httpx2.Client, stack: Stack, path: str, begun: bool) -> None:
    """Without background and without an Idempotency-Key nobody would read on: the LLM call is aborted."""
    label = unique("a label of some length, so that a half of it is something ")
    prompt: Any = messages(label) if path != "/v1/responses" else label
    model = "sim-stall" if begun else "sim-hang"
    name = "messages" if path != "/v1/responses" else "input"
    body = {"model": model, "metadata": {"label": label}, "stream": True, name: prompt}
    with connect(stack, path, body) as caller:
        job = eventually(lambda: job_labelled(client, label))
        running(client, stack, job["id"], prompt)
        if begun:
            assert caller.recv(65536).startswith(b"HTTP/1.1 200")
        aborted = stack.stats()["aborted"]
    assert ended(client, job["id"], within=5)["status"] == "cancelled"
    eventually(lambda: stack.stats()["aborted"], lambda count: count > aborted, within=4)
    assert calls_of(stack, prompt) == 1


def test_a_reader_with_a_key_may_come_back(client: httpx2.Client, stack: Stack) -> None:
    """With an Idempotency-Key the job goes on; the same request streams the same answer, whenever it comes."""
    prompt, key = unique(), uuid.uuid4().hex
    body = chat(prompt, "sim-slow-0.5", stream=True)
    with connect(stack, "/v1/chat/completions", body, Idempotency_Key=key):
        eventually(lambda: calls_of(stack, messages(prompt)))
    found = []
    for attempt in range(2):
        with client.stream("POST", "/v1/chat/completions", json=body, headers={"Idempotency-Key": key}) as answer:
            job_id = answer.headers["x-promptq-job-id"]
            chunks = list(events_in(answer))
        found.append("".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks))
        if attempt == 0:
            # What is left of a stream after a while.
            with redis.Redis.from_url(stack.redis) as store:
                store.delete(queues.deltas_key(job_id))
    assert found == [answer_to(prompt)] * 2
    assert calls_of(stack, messages(prompt)) == 1


@pytest.mark.parametrize("background", [False, True])
def test_a_replay_long_after_the_end_has_whole_texts(sdk: Sdk, stack: Stack, background: bool) -> None:  # noqa: F811
    """A minute after the end the pieces of text are gone: the SDK gets every other event under the number that it had,
    from any number on, and the same response; the helper gets its text."""
    prompt = unique()
    call = {"model": "sim", "input": prompt, "background": background, "stream": True}
    live = every(sdk, lambda client: client.responses.create(**call))
    response_id = live[-1].response.id
    with redis.Redis.from_url(stack.redis) as store:
        assert 0 < store.pttl(queues.deltas_key(response_id)) <= 60_000
        store.delete(queues.deltas_key(response_id))
    lasting = [event for event in live if event.type != TEXT]
    assert len(lasting) < len(live)
    replay = every(sdk, lambda client: client.responses.retrieve(response_id, stream=True))
    assert [(event.type, event.sequence_number) for event in replay] == [
        (event.type, event.sequence_number) for event in lasting
    ]
    # What was told before the LLM was asked is made anew.
    assert replay[2 * background :] == lasting[2 * background :]
    assert [event.text for event in replay if event.type == "response.output_text.done"] == [answer_to(prompt)]
    for after in (0, live[len(live) // 2].sequence_number, live[-1].sequence_number - 1):
        about = {"stream": True, "starting_after": after}
        rest = every(sdk, lambda client, about=about: client.responses.retrieve(response_id, **about))
        assert rest == [event for event in replay if event.sequence_number > after]
    helped = every(sdk, lambda client: client.responses.stream(response_id=response_id))
    assert helped[-1].response.output_text == answer_to(prompt)
    assert calls_of(stack, prompt) == 1


def test_a_chat_completion_long_after_its_end_is_its_whole_answer(sdk: Sdk, stack: Stack) -> None:  # noqa: F811
    """The same request with the same Idempotency-Key gets the same text once the pieces are gone, and its usage."""
    prompt, headers = unique(), {"Idempotency-Key": uuid.uuid4().hex}
    call = {"model": "sim", "messages": messages(prompt), "stream": True, "stream_options": {"include_usage": True}}
    live = every(sdk, lambda client: client.chat.completions.create(**call, extra_headers=headers))
    with redis.Redis.from_url(stack.redis) as store:
        assert sum(store.delete(key) for key in store.scan_iter(queues.deltas_key("*"))) > 0
    again = every(sdk, lambda client: client.chat.completions.create(**call, extra_headers=headers))
    assert len(again) < len(live)
    for chunks in (live, again):
        said = [chunk.choices[0] for chunk in chunks if chunk.choices]
        assert "".join(choice.delta.content or "" for choice in said) == answer_to(prompt)
        assert said[-1].finish_reason == "stop"
        assert (chunks[-1].choices, chunks[-1].usage) == ([], live[-1].usage)
    assert {chunk.id for chunk in again} == {live[0].id}
    assert calls_of(stack, messages(prompt)) == 1


def test_a_reader_who_does_not_read_holds_up_nobody(client: httpx2.Client, stack: Stack) -> None:
    """The worker relays into Redis whatever the client does, and the job ends."""
    prompt = unique() + "x" * 2_000_000
    with connect(
        stack, "/v1/responses", {"model": "sim", "input": prompt, "background": True, "stream": True}
    ) as caller:
        eventually(lambda: calls_of(stack, prompt))
        job_id = eventually(
            lambda: client.get("/v1/responses", params={"limit": 1}).json()["data"][0]["id"], lambda found: found
        )
        assert ended(client, job_id)["status"] == "completed"
        received = b""
        while b"response.completed" not in received[-4_200_000:]:
            part = caller.recv(1 << 20)
            assert part, received[-300:]
            received += part
    assert calls_of(stack, prompt) == 1


def test_a_cancelled_response_ends_its_stream(client: httpx2.Client) -> None:
    """A reader hears of the cancellation at once, by an event that the SDK has a type for."""
    body = {"model": "sim-stall", "input": unique("long enough for half of it "), "background": True, "stream": True}
    with client.stream("POST", "/v1/responses", json=body) as answer:
        events = events_in(answer)
        job_id = next(events)["response"]["id"]
        assert any(event["type"] == TEXT for event in events)
        client.post(f"/v1/responses/{job_id}/cancel").raise_for_status()
        last = list(events)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "cancelled")


def test_a_deleted_response_ends_its_stream(client: httpx2.Client) -> None:
    """There is nothing more to tell, and the stream says so."""
    body = {"model": "sim-hang", "input": unique(), "background": True, "stream": True}
    with client.stream("POST", "/v1/responses", json=body) as answer:
        events = events_in(answer)
        job_id = next(events)["response"]["id"]
        client.delete(f"/v1/responses/{job_id}").raise_for_status()
        last = list(events)[-1]
    assert (last["type"], last["code"]) == ("error", "job_cancelled")


def test_a_stream_ends_with_the_longest_wait(alice: httpx2.Client, full: list[str]) -> None:
    """After PROMPTQ_MAX_WAIT in the queue a stream that has begun says where to go on; one that has not is a 504."""
    assert full
    body = {"model": "sim", "input": unique(), "stream": True}
    late = alice.post("/v1/responses", json=body)
    assert (late.status_code, late.json()["error"]["code"]) == (504, "wait_timeout")
    with alice.stream("POST", "/v1/responses", json={**body, "background": True}) as answer:
        *_, last = events_in(answer)
    assert (last["type"], last["code"], last["sequence_number"]) == ("error", "wait_timeout", 1)
    assert "starting_after=1" in last["message"]


@pytest.mark.parametrize("background", [False, True])
def test_a_stream_goes_on_for_as_long_as_something_comes(alice: httpx2.Client, small: Stack, background: bool) -> None:
    """An answer that takes several times PROMPTQ_MAX_WAIT is streamed to its end: nobody has waited for long."""
    prompt = unique(
        "a prompt of such a length that its answer takes the LLM three or four seconds, or somewhat more, " * 5
    )
    with writing_slowly(small):
        body = {"model": "sim", "input": prompt, "stream": True, "background": background}
        began = time.monotonic()
        events = events_in_whole(alice, "POST", "/v1/responses", json=body)
        assert time.monotonic() - began > 2
    assert events[-1]["type"] == "response.completed"
    assert "".join(event["delta"] for event in events if event["type"] == TEXT) == answer_to(prompt)
    assert calls_of(small, prompt) == 1


def test_a_stream_that_falls_silent_ends(alice: httpx2.Client, small: Stack) -> None:
    """PROMPTQ_MAX_WAIT after the last event it says where to go on, and the job goes on."""
    body = {"model": "sim-stall", "input": unique("long enough for half of it "), "background": True, "stream": True}
    *events, last = events_in_whole(alice, "POST", "/v1/responses", json=body)
    job_id = events[0]["response"]["id"]
    assert any(event["type"] == TEXT for event in events)
    assert (last["type"], last["code"]) == ("error", "wait_timeout")
    assert last["sequence_number"] == events[-1]["sequence_number"]
    assert f"{job_id}?stream=true&starting_after={last['sequence_number']}" in last["message"]
    assert read(alice, job_id)["status"] == "in_progress"
    alice.post(f"/v1/responses/{job_id}/cancel").raise_for_status()


def test_any_replica_serves_any_stream(small: Stack, alice: httpx2.Client, bob: httpx2.Client) -> None:
    """Of two API processes each tells the same, and another owner's stream is not found."""
    body = {"model": "sim", "input": unique(), "background": True, "stream": True}
    first = [event["type"] for event in events_in_whole(alice, "POST", "/v1/responses", json=body)]
    response_id = alice.get("/v1/responses", params={"limit": 1}).json()["data"][0]["id"]
    for _ in range(8):
        with small.client() as fresh:
            path = f"/v1/responses/{response_id}?stream=true"
            assert [event["type"] for event in events_in_whole(fresh, "GET", path)] == first
    assert bob.get(f"/v1/responses/{response_id}?stream=true").status_code == 404


def events_in_whole(client: httpx2.Client, method: str, path: str, **options: Any) -> list[dict[str, Any]]:
    with client.stream(method, path, **options) as answer:
        assert answer.status_code == 200
        return list(events_in(answer))


def test_streams_share_one_connection_to_redis(client: httpx2.Client, stack: Stack) -> None:
    """Fifty readers are woken by one subscriber."""
    body = {"model": "sim-stall", "input": unique("long enough for half of it "), "background": True, "stream": True}
    with client.stream("POST", "/v1/responses", json=body) as answer:
        response_id = next(events_in(answer))["response"]["id"]
        with redis.Redis.from_url(stack.redis) as store:

            def subscribers() -> list[int]:
                found = [one for one in store.client_list() if int(one["sub"]) > 1]
                return [int(one["sub"]) for one in found]

            def follow() -> None:
                path = f"/v1/responses/{response_id}?stream=true"
                with stack.client() as other, other.stream("GET", path) as answer:
                    told = answer.iter_lines()
                    next(told)
                    connected.release()
                    last = [line for line in told if line.startswith("data: ")][-1]
                    assert json.loads(last.removeprefix("data: "))["type"] == "response.failed"

            connected = threading.Semaphore(0)
            readers = [threading.Thread(target=follow) for _ in range(50)]
            for reader in readers:
                reader.start()
            for _ in readers:
                assert connected.acquire(timeout=20)
            assert len(subscribers()) <= 1
            assert store.pubsub_numsub(queues.stream_key(response_id))[0][1] <= 1
            client.post(f"/v1/responses/{response_id}/cancel").raise_for_status()
            for reader in readers:
                reader.join(20)
                assert not reader.is_alive()
    eventually(lambda: client.get("/healthz").status_code, lambda status: status == 200)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/embeddings", {"model": "sim", "input": "x", "stream": True}, "stream"),
        (
            "/v1/jobs",
            {"endpoint": "/v1/responses", "body": {"model": "sim", "input": "x", "stream": True}},
            "body.stream",
        ),
        ("/v1/responses", {"model": "sim", "input": "x", "stream": "yes"}, "stream"),
    ],
)
def test_where_there_is_no_stream_it_is_refused(
    client: httpx2.Client, path: str, body: dict[str, Any], param: str
) -> None:
    """Embeddings, and jobs that nobody reads: a 400 that names the parameter."""
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    "query",
    [
        f"stream=true&starting_after={10**30}",
        "stream=true&starting_after=-2",
        "stream=true&starting_after=x",
        "stream=maybe",
    ],
)
def test_a_bad_place_in_a_stream_is_refused(client: httpx2.Client, query: str) -> None:
    """A number that is none is a 400."""
    created = client.post("/v1/responses", json={"model": "sim", "input": unique(), "background": True}).json()
    answer = client.get(f"/v1/responses/{created['id']}?{query}")
    assert answer.status_code == 400, answer.text
