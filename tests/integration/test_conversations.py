"""``previous_response_id`` and ``store``, through the unchanged SDK where it can say them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from tests import processes
from tests.integration.conftest import QUICK_RETRIES, own_database
from tests.integration.driving import calls_of, ended, everything_in, read, running, unique
from tests.integration.test_sdk import Sdk, sdk, sdk_on  # noqa: F401  # the fixture
from tests.integration.test_streams import every, text_of
from tests.integration.test_synchronous import connect
from tests.processes import Stack, eventually

RESPONSES = "/v1/responses"


def user(text: str) -> dict[str, Any]:
    """What a text is in a conversation."""
    return {"role": "user", "content": text}


def answer_to(text: str) -> dict[str, Any]:
    """The simulator's answer in a conversation."""
    return {"type": "message", "role": "assistant", "content": f"Simulated answer to: {text}"}


def created(client: httpx2.Client, **body: Any) -> dict[str, Any]:
    """A response of this body, once the LLM has answered."""
    answer = client.post(RESPONSES, json={"model": "sim", "background": True, **body})
    assert answer.status_code == 200, answer.text
    ended(client, answer.json()["id"])
    return dict(client.get(f"{RESPONSES}/{answer.json()['id']}").raise_for_status().json())


def refused(answer: httpx2.Response, status: int, code: str, param: str | None = None) -> str:
    """The message of a refusal that is as it should be."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"], error["type"]) == (code, param, "invalid_request_error")
    return str(error["message"])


def test_a_chain_of_responses_is_one_conversation(sdk: Sdk, stack: Stack) -> None:  # noqa: F811
    """Each turn names the one before, and the LLM gets all that was said; instructions hold for their own turn."""
    asked = [unique(f"turn {number}") for number in range(3)]
    first = sdk(lambda client: client.responses.create(model="sim", input=asked[0], instructions="Be brief."))
    second = sdk(
        lambda client: client.responses.create(
            model="sim", input=[user(asked[1])], previous_response_id=first.id, background=True
        )
    )
    assert second.previous_response_id == first.id
    assert sdk.until(second.id, "completed").previous_response_id == first.id
    third = sdk(lambda client: client.responses.create(model="sim", input=asked[2], previous_response_id=second.id))
    assert (third.previous_response_id, third.output_text) == (second.id, f"Simulated answer to: {asked[2]}")
    assert third.instructions is None
    conversation = [user(asked[0]), answer_to(asked[0]), user(asked[1])]
    assert calls_of(stack, conversation) == 1
    assert calls_of(stack, [*conversation, answer_to(asked[1]), user(asked[2])]) == 1
    own = sdk(lambda client: client.responses.input_items.list(third.id)).data
    assert [one.content[0].text for one in own] == [asked[2]]
    assert sdk(lambda client: client.responses.retrieve(third.id)).previous_response_id == second.id


def test_a_conversation_outlives_its_beginning(sdk: Sdk, stack: Stack) -> None:  # noqa: F811
    """A deleted response cannot be continued, but what was made after it can."""
    asked = [unique(f"turn {number}") for number in range(3)]
    first = sdk(lambda client: client.responses.create(model="sim", input=asked[0]))
    second = sdk(lambda client: client.responses.create(model="sim", input=asked[1], previous_response_id=first.id))
    sdk(lambda client: client.responses.delete(first.id))
    with pytest.raises(openai.BadRequestError) as caught:
        sdk(lambda client: client.responses.create(model="sim", input="x", previous_response_id=first.id))
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")
    sdk(lambda client: client.responses.create(model="sim", input=asked[2], previous_response_id=second.id))
    conversation = [user(asked[0]), answer_to(asked[0]), user(asked[1]), answer_to(asked[1]), user(asked[2])]
    assert calls_of(stack, conversation) == 1


def test_a_response_that_is_not_stored_is_an_answer_and_no_more(sdk: Sdk, client: httpx2.Client) -> None:  # noqa: F811
    """With ``store=False`` the caller gets the answer, and nobody can retrieve, list, cancel, delete or continue it."""
    raw = sdk(lambda client: client.responses.with_raw_response.create(model="sim", input=unique(), store=False))
    job_id = raw.headers["x-promptq-job-id"]
    response = raw.parse()
    assert (response.id, response.status, response.store) == (job_id, "completed", False)
    assert response.output_text.startswith("Simulated answer to: ")
    for call in ("retrieve", "cancel", "delete"):
        with pytest.raises(openai.NotFoundError):
            sdk(lambda client, call=call: getattr(client.responses, call)(job_id))
    with pytest.raises(openai.NotFoundError):
        sdk(lambda client: client.responses.input_items.list(job_id))
    with pytest.raises(openai.BadRequestError) as caught:
        sdk(lambda client: client.responses.create(model="sim", input="x", previous_response_id=job_id))
    assert caught.value.code == "previous_response_not_found"
    for method, path in [
        *(
            ("GET", "/v1/jobs/{}"),
            ("POST", "/v1/jobs/{}/cancel"),
            ("DELETE", "/v1/jobs/{}"),
            ("POST", "/v1/jobs/{}/retry"),
        ),
        *(("GET", "/v1/jobs?after={}"), ("GET", "/v1/responses?after={}")),
    ]:
        assert client.request(method, path.format(job_id)).status_code == 404, (method, path)
    for path in ("/v1/jobs", RESPONSES):
        assert job_id not in [one["id"] for one in client.get(path, params={"limit": 100}).json()["data"]]


def test_a_stream_may_go_unstored_too(sdk: Sdk, stack: Stack) -> None:  # noqa: F811
    """A streamed turn of a conversation that is not stored is told to its caller, and to nobody afterwards."""
    asked = [unique(f"turn {number}") for number in range(2)]
    first = sdk(lambda client: client.responses.create(model="sim", input=asked[0]))
    events = every(
        sdk,
        lambda client: client.responses.create(
            model="sim", input=asked[1], previous_response_id=first.id, store=False, stream=True
        ),
    )
    response = events[-1].response
    assert (response.status, response.store, response.previous_response_id) == ("completed", False, first.id)
    assert text_of(events) == response.output_text == f"Simulated answer to: {asked[1]}"
    assert calls_of(stack, [user(asked[0]), answer_to(asked[0]), user(asked[1])]) == 1
    for options in ({}, {"stream": True}):
        with pytest.raises(openai.NotFoundError):
            sdk(lambda client, options=options: client.responses.retrieve(response.id, **options))


def test_a_background_response_must_be_stored(sdk: Sdk) -> None:  # noqa: F811
    """Where nobody waits for it, a response that is not stored is refused."""
    with pytest.raises(openai.BadRequestError) as caught:
        sdk(lambda client: client.responses.create(model="sim", input="x", background=True, store=False))
    assert (caught.value.code, caught.value.param) == ("store_required", "background")


@pytest.mark.parametrize(
    ("path", "body", "headers", "param"),
    [
        (RESPONSES, {"store": False}, {"Prefer": "respond-async"}, "store"),
        (RESPONSES, {"store": False, "promptq": {"webhook_url": "https://hooks.example/"}}, {}, "store"),
        ("/v1/jobs", {"store": False}, {}, "body.store"),
    ],
)
def test_what_nobody_could_get_is_refused(
    client: httpx2.Client, path: str, body: dict[str, Any], headers: dict[str, str], param: str
) -> None:
    """``store: false`` is for a caller who waits on the connection, and for nobody else."""
    asked: dict[str, Any] = {"model": "sim", "input": "x", **body}
    sent = {"endpoint": RESPONSES, "body": asked} if path == "/v1/jobs" else asked
    refused(client.post(path, json=sent, headers=headers), 400, "store_required", param)


@pytest.mark.parametrize("model", ["sim", "sim-400"])
def test_a_key_brings_an_answer_back_that_is_not_stored(client: httpx2.Client, stack: Stack, model: str) -> None:
    """The same request with the same Idempotency-Key gives the same answer or failure again, for one LLM call."""
    prompt, headers = unique(), {"Idempotency-Key": uuid.uuid4().hex}
    body = {"model": model, "input": prompt, "store": False}
    first, second = (client.post(RESPONSES, json=body, headers=headers) for _ in range(2))
    assert (first.status_code, first.json()) == (second.status_code, second.json())
    assert first.headers["x-promptq-job-id"] == second.headers["x-promptq-job-id"]
    assert calls_of(stack, prompt) == 1
    failed = first.headers["x-promptq-job-id"]
    assert failed not in [one["id"] for one in client.get("/v1/dead_letters", params={"limit": 100}).json()["data"]]


def test_a_caller_who_leaves_takes_what_is_not_stored_along(stack: Stack) -> None:
    """When the only one who could get the answer is gone, its LLM call is aborted."""
    prompt = unique()
    with connect(stack, RESPONSES, {"model": "sim-hang", "input": prompt, "store": False}):
        eventually(lambda: calls_of(stack, prompt))
        aborted = stack.stats()["aborted"]
    eventually(lambda: stack.stats()["aborted"], lambda count: count > aborted, within=5)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_what_is_not_stored_ends_with_its_callers_wait(alice: httpx2.Client, small: Stack, streamed: bool) -> None:
    """A wait that was too long ends the job, unless its caller can come back for the answer with the key."""
    prompt = unique()
    aborted = small.stats()["aborted"]
    answer = alice.post(RESPONSES, json={"model": "sim-hang", "input": prompt, "store": False, "stream": streamed})
    assert answer.status_code == 504
    assert "GET /v1" not in answer.json()["error"]["message"]
    assert "given up, since a response that is not stored cannot be fetched later" in answer.json()["error"]["message"]
    eventually(lambda: small.stats()["aborted"], lambda count: count > aborted, within=5)
    headers, prompt = {"Idempotency-Key": uuid.uuid4().hex}, unique()
    body = {"model": "sim-slow-2", "input": prompt, "store": False}
    late = alice.post(RESPONSES, json=body, headers=headers)
    assert late.status_code == 504
    assert "Idempotency-Key can get the answer" in late.json()["error"]["message"]
    found = eventually(
        lambda: alice.post(RESPONSES, json=body, headers=headers), lambda answer: answer.status_code == 200, within=10
    )
    assert found.json()["id"] == late.headers["x-promptq-job-id"]
    assert calls_of(small, prompt) == 1


def test_another_owners_response_cannot_be_continued(alice: httpx2.Client, bob: httpx2.Client, small: Stack) -> None:
    """A response is its owner's to continue; to others there is none of its id."""
    prompt = unique()
    first = created(alice, input=prompt)
    body = {"model": "sim", "input": "x", "previous_response_id": first["id"]}
    stolen = refused(bob.post(RESPONSES, json=body), 400, "previous_response_not_found", "previous_response_id")
    absent = bob.post(RESPONSES, json={**body, "previous_response_id": "resp_" + "0" * 32}).json()["error"]["message"]
    assert stolen.replace(first["id"], "ID") == absent.replace("resp_" + "0" * 32, "ID")
    sent = {"endpoint": RESPONSES, "body": body}
    refused(bob.post("/v1/jobs", json=sent), 400, "previous_response_not_found", "body.previous_response_id")
    job = ended(alice, alice.post("/v1/jobs", json=sent).json()["id"])
    assert job["status"] == "completed"
    assert calls_of(small, [user(prompt), answer_to(prompt), user("x")]) == 1


def test_only_what_has_ended_well_can_be_continued(client: httpx2.Client, stack: Stack) -> None:
    """A response that runs or failed is refused with its status; an incomplete one can be continued."""
    prompt = unique()
    hanging = client.post(RESPONSES, json={"model": "sim-hang", "input": prompt, "background": True}).json()["id"]
    running(client, stack, hanging, prompt)
    failed = client.post(RESPONSES, json={"model": "sim-400", "input": unique(), "background": True}).json()["id"]
    ended(client, failed)
    for previous, status in ((hanging, "in_progress"), (failed, "failed")):
        answer = client.post(RESPONSES, json={"model": "sim", "input": "x", "previous_response_id": previous})
        assert status in refused(answer, 400, "previous_response_not_completed", "previous_response_id")
    client.post(f"{RESPONSES}/{hanging}/cancel").raise_for_status()
    cut = created(client, model="sim-incomplete", input=unique())
    assert created(client, input=unique(), previous_response_id=cut["id"])["status"] == "completed"


def test_a_repeated_request_finds_its_job_without_the_response_before(client: httpx2.Client, stack: Stack) -> None:
    """An Idempotency-Key stands for the request as it was sent: what it names may be gone when it comes again."""
    first, prompt, headers = created(client, input=unique()), unique(), {"Idempotency-Key": uuid.uuid4().hex}
    body = {"model": "sim", "input": prompt, "previous_response_id": first["id"], "background": True}
    made = client.post(RESPONSES, json=body, headers=headers).json()
    client.delete(f"{RESPONSES}/{first['id']}").raise_for_status()
    again = client.post(RESPONSES, json=body, headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, made["id"])
    other = client.post(RESPONSES, json={**body, "input": "another"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    refused(client.post(RESPONSES, json=body), 400, "previous_response_not_found", "previous_response_id")


def test_a_retried_response_is_asked_the_same(client: httpx2.Client, stack: Stack) -> None:
    """The job that repeats a failed one brings the conversation along, though its beginning is gone."""
    asked, prompt = unique(), unique()
    first = created(client, input=asked)
    body = {"model": "sim-400", "input": prompt, "previous_response_id": first["id"], "background": True}
    failed = client.post(RESPONSES, json=body).json()["id"]
    ended(client, failed)
    client.delete(f"{RESPONSES}/{first['id']}").raise_for_status()
    ended(client, client.post(f"/v1/jobs/{failed}/retry").json()["id"])
    assert calls_of(stack, [user(asked), answer_to(asked), user(prompt)]) == 2


def test_a_prompt_has_its_size_with_the_conversation(client: httpx2.Client) -> None:
    """Two halves that are each allowed are not allowed together."""
    half = "x" * (2 * 1024 * 1024)
    first = created(client, model="sim-incomplete", input=half)
    answer = client.post(RESPONSES, json={"model": "sim", "input": half, "previous_response_id": first["id"]})
    message = refused(answer, 413, "payload_too_large", "previous_response_id")
    assert "PROMPTQ_MAX_PROMPT_BYTES" in message
    client.delete(f"{RESPONSES}/{first['id']}").raise_for_status()


def test_a_conversation_stands_in_records_alone(alice: httpx2.Client, small: Stack) -> None:
    """What was said before is in the records of the responses, once in each, in no other key and in no log."""
    marker = unique("marker").replace(" ", "-")
    first = created(alice, input=marker)
    second = created(alice, input="And then?", previous_response_id=first["id"])
    unstored = alice.post(
        RESPONSES, json={"model": "sim", "input": "x", "store": False, "previous_response_id": second["id"]}
    )
    ids = [first["id"], second["id"], unstored.headers["x-promptq-job-id"]]
    found = everything_in(small.redis)
    assert {key for key, text in found.items() if marker in text} == {f"promptq:job:{job_id}" for job_id in ids}
    # As it was asked, and in the LLM's answer.
    assert found[f"promptq:job:{second['id']}"].count(marker) == 2
    eventually(lambda: small.logs(), lambda logs: all(job_id in logs for job_id in ids))
    assert marker not in small.logs()
    assert read(alice, second["id"])["status"] == "completed"


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose LLM keeps conversations by itself."""
    settings = {"PROMPTQ_CONVERSATIONS": "llm", **QUICK_RETRIES, **own_database(4)}
    folder = tmp_path_factory.mktemp("keeping")
    with processes.stack(folder, "--no-flower", "--simulator-latency", "0.01", **settings) as running_stack:
        yield running_stack


def test_an_llm_that_keeps_conversations_is_told_its_own_id(keeping: Stack) -> None:
    """With PROMPTQ_CONVERSATIONS=llm the input goes as it came, with the LLM's own id of the response before."""
    prompt = unique()
    with keeping.client() as client:
        first = created(client, input=unique())
        second = created(client, input=prompt, previous_response_id=first["id"])
        assert second["previous_response_id"] == first["id"]
        assert read(client, second["id"])["result"]["previous_response_id"] == first["upstream_id"] != first["id"]
        client.delete(f"{RESPONSES}/{first['id']}").raise_for_status()
        body = {"model": "sim", "input": "x", "previous_response_id": first["id"]}
        refused(client.post(RESPONSES, json=body), 400, "previous_response_not_found", "previous_response_id")
    assert calls_of(keeping, prompt) == 1


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_streamed_turn_names_the_response_before_as_its_caller_knows_it(keeping: Stack, kind: str) -> None:
    """With PROMPTQ_CONVERSATIONS=llm each event that carries the response says our id, and the LLM was sent its own."""
    prompt = unique()
    with keeping.client() as client, sdk_on(keeping, kind) as keeper:
        first = created(client, input=unique())
        for background in (False, True):
            body = {"model": "sim", "input": prompt, "previous_response_id": first["id"], "background": background}
            events = every(keeper, lambda client, body=body: client.responses.create(**body, stream=True))
            assert text_of(events) == f"Simulated answer to: {prompt}" == events[-1].response.output_text
            carried = [event.response for event in events if hasattr(event, "response")]
            assert len(carried) == 3 + background
            assert {response.previous_response_id for response in carried} == {first["id"]}
            assert {response.id for response in carried} == {events[0].response.id}
            result = read(client, events[-1].response.id)["result"]
            assert result["previous_response_id"] == first["upstream_id"] != first["id"]
            about = {"response_id": carried[0].id, "stream": True}
            replay = every(keeper, lambda client, about=about: client.responses.retrieve(**about))
            # What was told before the LLM was asked is made anew, and knows more by now.
            assert replay[2 * background :] == events[2 * background :]
            assert {event.response.previous_response_id for event in replay[:2]} == {first["id"]}
    assert calls_of(keeping, prompt) == 2
