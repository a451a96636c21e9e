"""Conversations put together: what goes on from turn to turn, and what may be continued."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseInputItemParam
from pydantic import TypeAdapter

from api.rendering import response_answer
from jobs import queues
from jobs.continuing import Continuation, continuation
from jobs.conversation import history_after, llm_body
from jobs.errors import (
    InvalidRequest,
    LLMUnsupported,
    NotFound,
    PayloadTooLarge,
    PreviousResponseNotCompleted,
    PreviousResponseNotFound,
)
from jobs.model import PLAIN_VERSION, RESPONSES, SCHEMA_VERSION, JobStatus, Outcome
from jobs.queues import UNSTORED
from jobs.scripts import UNSTORED_SECONDS
from jobs.settings import Settings
from jobs.store import JobStore
from tests.unit.making import FAILED, check_invariants, claim, create, job, members, new_job, running

SAID = {
    "id": "msg_upstream",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "It is ", "annotations": []}, {"type": "output_text", "text": "blue."}],
}
WHATEVER_THE_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
CALL = {"id": "fc_1", "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "status": "completed"}
PLAIN = {"type": "message", "role": "assistant"}
REASONING = {"type": "reasoning", "id": "rs_1", "summary": []}
SEARCH = {"type": "search", "query": "q"}


def request(given: Any, **more: Any) -> bytes:
    """A request's body."""
    return json.dumps({"model": "sim", "input": given, **more}).encode()


def result(*output: Any, **more: Any) -> bytes:
    """What an LLM answered."""
    return json.dumps({"id": "resp_llm", "status": "completed", "output": output, **more}).encode()


def ended(store: JobStore, outcome: Outcome, given: Any = "Which colour?", **changes: Any) -> str:
    """A response that has ended so."""
    held = running(store, f"c{create(store)}", endpoint=RESPONSES, request=request(given), **changes)
    assert store.complete(held, outcome) == "done"
    return held.job.id


def answered(store: JobStore, *output: Any, given: Any = "Which colour?", **changes: Any) -> str:
    """A response that the LLM has answered."""
    return ended(store, Outcome(JobStatus.COMPLETED, result(*(output or (SAID,)))), given, **changes)


def continued(
    store: JobStore, previous_id: Any, owner: str = "ann", given: Any = "Why?", **settings: Any
) -> Continuation:
    """What a new response continues."""
    body = {"model": "sim", "input": given, "previous_response_id": previous_id}
    return continuation(body, owner, store=store, settings=Settings(**settings))


def test_a_turn_follows_the_one_before() -> None:
    """The history holds input and output in their order, turn after turn, each as an LLM takes it that knows no id."""
    first = history_after(None, request("Which colour?", instructions="Be brief."), result(SAID))
    assert json.loads(first) == [
        {"role": "user", "content": "Which colour?"},
        {"type": "message", "role": "assistant", "content": "It is blue."},
    ]
    output = {"type": "function_call_output", "call_id": "c1", "output": "42", "id": "fco_1", "status": None}
    second = history_after(first, request([{"role": "user", "content": "Why?"}]), result(CALL))
    third = history_after(second, request([output]), result())
    assert json.loads(third)[2:] == [
        {"role": "user", "content": "Why?"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "42"},
    ]
    assert history_after(third, request([]), result()) == third
    assert history_after(b"[]", request([]), result()) == b"[]"


@pytest.mark.parametrize(
    ("item", "kept"),
    [
        ({**SAID, "content": [{"type": "refusal", "refusal": "No."}]}, {**PLAIN, "content": "No."}),
        ({**SAID, "phase": "commentary", "content": "x"}, {**PLAIN, "phase": "commentary", "content": "x"}),
        ({**SAID, "content": []}, None),
        ({**REASONING}, None),
        ({**REASONING, "encrypted_content": "e"}, ...),
        ({**REASONING, "content": [{"type": "reasoning_text", "text": "t"}]}, ...),
        ({"type": "web_search_call", "id": "ws_1", "status": "completed", "action": SEARCH}, ...),
        ({"type": "item_reference", "id": "msg_1"}, ...),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "data:", "detail": "auto"}]}, ...),
    ],
    ids=lambda value: str(value)[:50],
)
def test_each_item_goes_on_as_it_may_be_sent_back(item: Any, kept: Any) -> None:
    """Ids that only the LLM knew go, mere references to what it kept too; all else stays as it came."""
    history = json.loads(history_after(None, request([]), result(item)))
    assert history == ([] if kept is None else [item if kept is ... else kept])
    for one in history:
        TypeAdapter(ResponseInputItemParam).validate_python(one)


@given(st.lists(st.text(), max_size=4))
def test_any_text_comes_through(texts: list[str]) -> None:
    """Lone surrogates, NUL and what looks like JSON are in the history, and in the LLM's body, as they were said."""
    history = None
    for text in [*texts, "\ud800"]:
        history = history_after(
            history, request(text), result({**SAID, "content": [{"type": "output_text", "text": text}]})
        )
    assert history is not None
    said = [item["content"] for item in json.loads(history)]
    assert said == [one for text in [*texts, "\ud800"] if text for one in (text, text)]


def test_the_llm_gets_the_whole_conversation(store: JobStore) -> None:
    """The body is the request with the history before its input, without our id; the record keeps it as it came."""
    previous = answered(store)
    sent = request("Why?", previous_response_id=previous, instructions="Be kind.", top_p=1)
    continues = continued(store, previous)
    held = running(
        store, "c2", endpoint=RESPONSES, request=sent, previous_response_id=previous, history=continues.history
    )
    assert json.loads(llm_body(held.job)) == {
        "model": "sim",
        "input": [
            {"role": "user", "content": "Which colour?"},
            {"type": "message", "role": "assistant", "content": "It is blue."},
            {"role": "user", "content": "Why?"},
        ],
        "instructions": "Be kind.",
        "top_p": 1,
    }
    kept = job(store, held.job.id)
    assert (kept.request, kept.previous_response_id) == (sent, previous)
    alone = request("Which colour?")
    assert llm_body(claim(store, create(store, endpoint=RESPONSES, request=alone), "c3").job) == alone


def test_an_llm_that_keeps_conversations_gets_its_own_id(store: JobStore) -> None:
    """With PROMPTQ_CONVERSATIONS=llm our id is replaced by the LLM's, and nothing is composed."""
    previous = answered(store)
    continues = continued(store, previous, conversations="llm")
    assert continues == Continuation(previous, upstream_previous="resp_llm")
    sent = request("Why?", previous_response_id=previous)
    held = running(store, endpoint=RESPONSES, request=sent, upstream_previous="resp_llm", previous_response_id=previous)
    assert json.loads(llm_body(held.job)) == {"model": "sim", "input": "Why?", "previous_response_id": "resp_llm"}
    store.complete(held, Outcome(JobStatus.COMPLETED, result(SAID)))
    with pytest.raises(PreviousResponseNotFound, match="the LLM kept it"):
        continued(store, held.job.id)
    nameless = ended(store, Outcome(JobStatus.COMPLETED, b'{"output": []}'))
    with pytest.raises(PreviousResponseNotFound, match="gave no id"):
        continued(store, nameless, conversations="llm")


def test_only_an_owners_response_is_continued(store: JobStore) -> None:
    """Another owner's, an unknown one, a deleted one, one that is not stored, a job that is no response: not found."""
    deleted, known = answered(store), answered(store)
    store.delete(deleted, "ann")
    other = running(store, "c9")
    store.complete(other, Outcome(JobStatus.COMPLETED, b'{"choices": []}'))
    lost = [
        deleted,
        "resp_" + "0" * 32,
        answered(store, stored=False),
        other.job.id,
        "nonsense",
        "",
        "resp_" + "0" * 33,
    ]
    for owner, previous in [("bob", known), *(("ann", one) for one in lost)]:
        with pytest.raises(PreviousResponseNotFound) as caught:
            continued(store, previous, owner)
        assert caught.value.param == "previous_response_id"
    assert continued(store, known).history is not None


def test_only_what_has_brought_something_is_continued(store: JobStore) -> None:
    """A response that waits, runs, failed or was cancelled is refused with its status; an incomplete one goes on."""
    waiting = create(store, endpoint=RESPONSES, request=request("x"))
    cancelled = create(store, endpoint=RESPONSES, request=request("x"))
    store.cancel(cancelled, "ann")
    found = {
        "queued": waiting,
        "in_progress": running(store, "c5", endpoint=RESPONSES, request=request("x")).job.id,
        "failed": ended(store, FAILED),
        "cancelled": cancelled,
    }
    for status, previous in found.items():
        with pytest.raises(PreviousResponseNotCompleted, match=f"'{status}'"):
            continued(store, previous)
    assert continued(store, ended(store, Outcome(JobStatus.INCOMPLETE, result(SAID)))).history


def test_a_prompt_has_its_size_with_all_that_was_said_before(store: JobStore) -> None:
    """The limit holds for the conversation and the new input together."""
    previous = answered(store)
    size = len(continued(store, previous).history or b"") + len(json.dumps("Why?"))
    assert continued(store, previous, max_prompt_bytes=size).history
    with pytest.raises(PayloadTooLarge, match="the conversation before it"):
        continued(store, previous, max_prompt_bytes=size - 1)


def test_a_conversation_of_the_llms_own_excludes_ours(store: JobStore) -> None:
    """``conversation`` and ``previous_response_id`` cannot both say what was said before."""
    body = {"input": "x", "previous_response_id": answered(store), "conversation": "conv_1"}
    with pytest.raises(InvalidRequest, match="not both"):
        continuation(body, "ann", store=store, settings=Settings())


def test_a_deleted_response_takes_nothing_from_those_after_it(store: JobStore, redis_client: redis.Redis) -> None:
    """What was made after a response has all of the conversation, and can be continued, when that one is gone."""
    first = answered(store)
    history = continued(store, first).history
    second = answered(store, given="Why?", previous_response_id=first, history=history)
    store.delete(first, "ann")
    third = continued(store, second).history
    assert third is not None
    assert [item["content"] for item in json.loads(third)] == ["Which colour?", "It is blue.", "Why?", "It is blue."]
    check_invariants(redis_client)


def test_a_retried_response_keeps_its_conversation(store: JobStore) -> None:
    """The job that repeats a failed one is asked the same, whatever became of the response before."""
    first = answered(store)
    continues = continued(store, first)
    known = {"endpoint": RESPONSES, "request": request("Why?", previous_response_id=first)}
    held = running(store, "c7", **known, previous_response_id=first, history=continues.history)
    store.complete(held, FAILED)
    store.delete(first, "ann")
    accepted = store.resubmit(held.job.id, "ann")
    assert accepted.made is not None
    assert accepted.made.previous_response_id == first
    again = claim(store, accepted.job_id, "c8").job
    assert llm_body(again) == llm_body(held.job)
    assert (again.previous_response_id, again.history) == (first, continues.history)


def test_a_job_says_which_release_can_run_it(store: JobStore, redis_client: redis.Redis) -> None:
    """Workers of the release before run what they can, and leave alone what they would get wrong."""
    for changes, version in (
        ({}, PLAIN_VERSION),
        ({"history": b"[]", "previous_response_id": "resp_1"}, SCHEMA_VERSION),
        ({"upstream_previous": "resp_2"}, SCHEMA_VERSION),
        ({"stored": False}, SCHEMA_VERSION),
    ):
        job_id = create(store, endpoint=RESPONSES, **changes)
        assert redis_client.hget(queues.job_key(job_id), "v") == str(version).encode()


def test_a_job_that_is_not_stored_is_not_there(store: JobStore, redis_client: redis.Redis) -> None:
    """Its owner finds it nowhere; only who made it reads and cancels it."""
    hidden = create(store, endpoint=RESPONSES, stored=False)
    check_invariants(redis_client)
    for ask in (store.get, store.cancel, store.delete, store.resubmit):
        with pytest.raises(NotFound):
            ask(hidden, "ann")
    with pytest.raises(NotFound):
        store.list("ann", after=hidden)
    with pytest.raises(NotFound):
        store.get(hidden, "bob", unstored=True)
    assert store.list("ann").jobs == []
    assert store.get(hidden, "ann", unstored=True).status is JobStatus.QUEUED
    assert store.cancel(hidden, "ann", unstored=True)
    assert store.get(hidden, "ann", unstored=True).status is JobStatus.CANCELLED
    with pytest.raises(NotFound):
        store.resubmit(hidden, "ann")


@pytest.mark.parametrize("outcome", [Outcome(JobStatus.COMPLETED, result(SAID)), FAILED], ids=["completed", "failed"])
def test_a_job_that_is_not_stored_goes_soon(store: JobStore, redis_client: redis.Redis, outcome: Outcome) -> None:
    """After its end its record and its Idempotency-Key stay for minutes; it is no dead letter, and leaves nothing."""
    new = new_job(endpoint=RESPONSES, stored=False, idempotency_key="k", fingerprint="f")
    store.create(new)
    assert store.complete(claim(store, new.id), outcome) == "done"
    assert store.known("ann", "k", "f") == store.create(
        new_job(endpoint=RESPONSES, idempotency_key="k", fingerprint="f")
    )
    (idempotency,) = redis_client.keys("promptq:idem:*")
    for key in (queues.job_key(new.id), idempotency):
        assert 0 < redis_client.pttl(key) <= UNSTORED_SECONDS * 1000
    assert store.dead_letters("ann").jobs == []
    assert members(redis_client, queues.DEAD) == set()
    check_invariants(redis_client)
    redis_client.delete(queues.job_key(new.id))
    for member in redis_client.zrange(queues.EXPIRING, 0, -1):
        assert f":{UNSTORED}:" in member.decode()
        redis_client.zadd(queues.EXPIRING, {member: 1})
    assert store.upkeep.purge_expired() == 1
    assert not redis_client.keys("promptq:index:*")


def test_what_was_made_can_be_asked_for(store: JobStore) -> None:
    """An Idempotency-Key that made nothing is known as such."""
    assert store.known("ann", "k", "f") is None
    made = create(store, idempotency_key="k", fingerprint="f")
    known = store.known("ann", "k", "f")
    assert known is not None
    assert (known.job_id, known.made) == (made, None)


def test_what_is_not_stored_is_not_told(store: JobStore) -> None:
    """No webhook tells of a response that cannot be looked up."""
    held = running(
        store, endpoint=RESPONSES, stored=False, webhook_url="https://own.example/in", webhook_host="own.example"
    )
    store.complete(held, Outcome(JobStatus.COMPLETED, result(SAID)))
    assert store.outbox.list("ann", limit=10).deliveries == []


def test_a_response_names_the_one_before_it(store: JobStore) -> None:
    """Whatever the LLM was told, a caller sees the id that it has sent, before and after the answer."""
    waiting = new_job(
        endpoint=RESPONSES, request=request("x", previous_response_id="resp_1"), previous_response_id="resp_1"
    )
    assert response_answer(waiting.as_job(1.0))["previous_response_id"] == "resp_1"
    held = running(store, endpoint=RESPONSES, request=request("x"), previous_response_id="resp_1")
    store.complete(held, Outcome(JobStatus.COMPLETED, result(SAID, previous_response_id="resp_llm_0")))
    answer = response_answer(job(store, held.job.id))
    assert (answer["previous_response_id"], answer["upstream_id"]) == ("resp_1", "resp_llm")


def test_what_the_llm_has_no_words_for_is_the_prompts_fault(store: JobStore) -> None:
    """A response that failed in translation says so in one of the codes that a response has."""
    error = {"code": LLMUnsupported.code, "message": "m"}
    failed = ended(store, Outcome(JobStatus.FAILED, error=error))
    assert response_answer(job(store, failed))["error"] == {"code": "invalid_prompt", "message": "m"}
