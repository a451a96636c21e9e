"""One caller's place in one job's stream: what is told, from where, and how it ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from api.following import EndedFirst, Follower
from api.voices import voice_of
from jobs import queues
from jobs.model import CHAT_COMPLETIONS, COMPLETIONS, RESPONSES, Claim, Job, JobStatus, Outcome
from jobs.store import JobStore
from jobs.streams import PAGE, Entry
from tests.unit.making import FAILED, claim, create, job, lose_lease, running

ITEM = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Hello", "annotations": []}],
}
RESPONSE = {"id": "resp_llm", "object": "response", "status": "completed", "output": [ITEM], "usage": None}
CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": None, "tool_calls": [{"id": "c"}]},
            "finish_reason": "stop",
        }
    ],
    "usage": {"total_tokens": 3},
}
BODY = json.dumps({"model": "sim", "input": "x", "messages": []}).encode()


def outcome(result: Any) -> Outcome:
    return Outcome(JobStatus.COMPLETED, json.dumps(result).encode(), {})


def follower(store: JobStore, job_id: str, **about: Any) -> Follower:
    now = job(store, job_id)

    def load() -> Job:
        return job(store, job_id)

    opens = now.stream and now.background
    return Follower(store.streams, load, job_id, "ann", voice_of(now.endpoint), **({"opens": opens} | about))


def events(text: bytes) -> list[dict[str, Any]]:
    """The JSON of each event; ``[DONE]`` as text."""
    found = []
    for block in text.decode().split("\n\n")[:-1]:
        name, data = None, ""
        for line in block.split("\n"):
            field, _, value = line.partition(": ")
            name, data = (value, data) if field == "event" else (name, value)
        value = data if data == "[DONE]" else json.loads(data)
        assert name is None or name == value["type"]
        found.append(value)
    return found


def types(text: bytes) -> list[tuple[str, int]]:
    return [(event["type"].removeprefix("response."), event["sequence_number"]) for event in events(text)]


def say(store: JobStore, held: Claim, *kinds: str) -> None:
    """Events of these types, numbered where the stream stands."""
    span = store.streams.read(held.job.id, "ann", after=-1)
    first, number = span.first, span.next
    if not span.entries or (span.broke and span.broke[0] == first):
        first, number = store.streams.begin(held)  # type: ignore[misc]
    entries = []
    for kind in kinds:
        data = json.dumps({"type": f"response.{kind}", "sequence_number": number}).encode()
        entries.append(Entry(number, f"response.{kind}", data, kind.endswith("delta")))
        number += 1
    assert store.streams.append(held, first, entries) == "done"


def chunk(store: JobStore, held: Claim, *texts: str) -> None:
    first, number = store.streams.begin(held)  # type: ignore[misc]
    pieces = [json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}).encode() for text in texts]
    entries = [Entry(number + at, "", piece, True) for at, piece in enumerate(pieces)]
    assert store.streams.append(held, first, entries) == "done"


def response(store: JobStore, **changes: Any) -> Claim:
    return running(store, **({"endpoint": RESPONSES, "stream": True, "request": BODY} | changes))


def again(store: JobStore, client: redis.Redis, held: Claim, claim_id: str = "other") -> Claim:
    """The same job, claimed by another after its worker died."""
    lose_lease(client, held.job.id)
    store.upkeep.recover_lost()
    return claim(store, held.job.id, claim_id)


def test_a_background_response_is_told_of_from_its_queue_to_its_end(store: JobStore) -> None:
    """Created and queued at once, then what its LLM says, then its end as the API shows the response."""
    job_id = create(store, endpoint=RESPONSES, background=True, stream=True, request=BODY)
    one = follower(store, job_id)
    opening = events(one.read())
    assert [(event["type"], event["sequence_number"]) for event in opening] == [
        ("response.created", 0),
        ("response.queued", 1),
    ]
    assert {event["response"]["status"] for event in opening} == {"queued"}
    assert {event["response"]["id"] for event in opening} == {job_id}
    assert one.read() == b""
    held = claim(store, job_id)
    say(store, held, "in_progress", "output_text.delta")
    assert types(one.read()) == [("in_progress", 2), ("output_text.delta", 3)]
    assert one.read() == b""
    store.complete(held, outcome(RESPONSE))
    (last,) = events(one.read())
    assert (last["type"], last["sequence_number"], last["response"]["id"]) == ("response.completed", 4, job_id)
    assert last["response"]["upstream_id"] == "resp_llm"
    assert one.over


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 9])
def test_a_replay_begins_where_the_caller_stands(store: JobStore, after: int) -> None:
    """``starting_after`` is exclusive, and beyond the end there is nothing."""
    held = response(store, background=True)
    say(store, held, "in_progress", "output_item.done")
    store.complete(held, outcome(RESPONSE))
    one = follower(store, held.job.id, after=after)
    assert [number for _, number in types(one.read())] == list(range(after + 1, 5))
    assert one.over


def test_after_its_end_a_stream_is_its_events(store: JobStore, redis_client: redis.Redis) -> None:
    """Once the pieces are gone the replay holds all else, in order, with the numbers that they had."""
    held = response(store)
    say(store, held, "created", "output_text.delta", "output_text.delta", "output_text.done")
    store.complete(held, outcome(RESPONSE))
    redis_client.delete(queues.deltas_key(held.job.id))
    assert types(follower(store, held.job.id).read()) == [("created", 0), ("output_text.done", 3), ("completed", 4)]


def test_a_long_stream_is_told_page_by_page(store: JobStore) -> None:
    """The end comes after the last page only."""
    held = response(store)
    say(store, held, *["output_text.delta"] * (PAGE + 3))
    store.complete(held, outcome(RESPONSE))
    one, told = follower(store, held.job.id), []
    while not one.over:
        told += types(one.read())
    assert [number for _, number in told] == list(range(PAGE + 4))
    assert told[-1][0] == "completed"


def test_a_live_stream_ends_when_its_worker_dies(store: JobStore, redis_client: redis.Redis) -> None:
    """Who has heard a part hears that it is void; who comes then hears the next attempt alone, with numbers above."""
    held = response(store)
    say(store, held, "created", "output_text.delta")
    live, late = follower(store, held.job.id), follower(store, held.job.id)
    assert len(events(live.read())) == 2
    lose_lease(redis_client, held.job.id)
    store.upkeep.recover_lost()
    (error,) = events(live.read())
    assert (error["type"], error["code"], error["sequence_number"]) == ("error", "worker_crashed", 2)
    assert held.job.id in error["message"]
    assert live.over
    assert late.read() == b"", "nothing of an attempt that came to nothing"
    other = claim(store, held.job.id, "other")
    say(store, other, "created", "in_progress")
    resumed = follower(store, held.job.id, after=error["sequence_number"])
    for one in (late, resumed):
        assert types(one.read()) == [("created", 3), ("in_progress", 4)]
    store.complete(other, outcome(RESPONSE))
    assert types(follower(store, held.job.id).read()) == [("created", 3), ("in_progress", 4), ("completed", 5)]


def test_an_error_is_not_the_end(store: JobStore, redis_client: redis.Redis) -> None:
    """Who goes on from the error that told of an attempt's end gets the final event also if no other attempt begins."""
    held = response(store, background=True)
    say(store, held, "in_progress", "output_text.delta")
    live, deaf = follower(store, held.job.id), follower(store, held.job.id, after=2)
    live.read()
    lose_lease(redis_client, held.job.id)
    store.upkeep.recover_lost()
    ((kind, number),) = types(live.read())
    assert (kind, number) == ("error", 4)
    waiting = follower(store, held.job.id, after=number)
    assert waiting.read() == b""
    store.cancel(held.job.id, "ann")
    for one in (waiting, follower(store, held.job.id, after=number)):
        assert types(one.read()) == [("failed", 5)]
        assert one.over
    assert types(deaf.read()) == [("output_text.delta", 3), ("failed", 5)]
    last = follower(store, held.job.id, after=5)
    assert (last.read(), last.over) == (b"", True)


@pytest.mark.parametrize("begun", [False, True], ids=["before the next", "after it"])
@pytest.mark.parametrize("background", [False, True])
def test_who_goes_on_within_an_attempt_hears_that_it_came_to_nothing(
    store: JobStore, redis_client: redis.Redis, background: bool, begun: bool
) -> None:
    """A caller whose connection was cut, and who comes back with the number of a void event, is told so once."""
    held = response(store, background=background)
    say(store, held, "in_progress", "output_text.delta", "output_text.delta")
    _, (_, heard), (_, last) = types(follower(store, held.job.id, after=2 * background - 1).read())
    whole = follower(store, held.job.id, after=heard)
    assert types(whole.read()) == [("output_text.delta", last)], "as long as it goes on there is nothing to be told"
    lose_lease(redis_client, held.job.id)
    store.upkeep.recover_lost()
    if begun:
        say(store, claim(store, held.job.id, "other"), "created", "output_text.delta")
    back = follower(store, held.job.id, after=heard)
    (error,) = events(back.read())
    assert (error["code"], error["sequence_number"], back.over) == ("worker_crashed", last + 1, True)
    assert "died in mid-stream" in error["message"]
    on = follower(store, held.job.id, after=last + 1)
    assert types(on.read()) == ([("created", last + 2), ("output_text.delta", last + 3)] if begun else [])


def test_of_an_attempt_long_ago_the_cause_is_not_made_up(store: JobStore, redis_client: redis.Redis) -> None:
    """When two attempts broke off between two readings, nobody is told that a worker died that did not."""
    held = response(store)
    say(store, held, "created")
    one = follower(store, held.job.id)
    one.read()
    store.retry(held, attempt=1, attempts=[{"error_code": "llm_timeout"}], delay=0, keep_slot=True)
    store.streams.begin(held)
    say(store, held, "created")
    again(store, redis_client, held)
    back = follower(store, held.job.id, after=0)
    for each in (one, back):
        (error,) = events(each.read())
        assert "broke off" in error["message"]
        assert "died" not in error["message"]


def test_a_final_event_comes_after_whatever_was_told(store: JobStore, redis_client: redis.Redis) -> None:
    """A Redis that was killed may have lost its last second; who had been told of it hears of the end all the same."""
    held = response(store)
    say(store, held, "created", "output_text.delta", "output_text.delta")
    one = follower(store, held.job.id)
    one.read()
    redis_client.xdel(queues.deltas_key(held.job.id), "3-0")
    redis_client.hset(queues.job_key(held.job.id), "stream_next", 2)
    store.complete(held, outcome(RESPONSE))
    assert types(one.read()) == [("completed", 3)]


def test_who_reads_slowly_hears_it_too(store: JobStore, redis_client: redis.Redis) -> None:
    """A follower that finds the next attempt begun, or even the job ended, has missed nothing of that news."""
    held = response(store)
    say(store, held, "created")
    one = follower(store, held.job.id)
    one.read()
    other = again(store, redis_client, held)
    say(store, other, "created")
    store.complete(other, outcome(RESPONSE))
    (error,) = events(one.read())
    assert (error["code"], error["sequence_number"], one.over) == ("worker_crashed", 1, True)


def test_who_has_heard_of_the_queue_only_goes_on(store: JobStore, redis_client: redis.Redis) -> None:
    """An attempt of which nothing was told is no news, and the response is not created twice."""
    held = response(store, background=True)
    one = follower(store, held.job.id)
    one.read()
    say(store, held, "in_progress")
    other = again(store, redis_client, held)
    say(store, other, "created", "in_progress")
    assert types(one.read()) == [("in_progress", 5)]
    assert not one.over


@pytest.mark.parametrize("code", ["llm_timeout", "llm_unreachable"])
def test_an_attempt_that_failed_is_named(store: JobStore, code: str) -> None:
    """The error event has the code of what went wrong with the LLM."""
    held = response(store)
    say(store, held, "created")
    one = follower(store, held.job.id)
    one.read()
    store.retry(held, attempt=1, attempts=[{"error_code": code}], delay=0, keep_slot=True)
    store.streams.begin(held)
    assert events(one.read())[0]["code"] == code


@pytest.mark.parametrize(
    ("end", "last", "status"),
    [("cancel", "failed", "cancelled"), ("fail", "failed", "failed")],
)
def test_each_end_has_a_final_event(store: JobStore, end: str, last: str, status: str) -> None:
    """A cancelled, failed or expired job ends its stream with an event that the SDK knows."""
    held = response(store, background=True)
    one = follower(store, held.job.id)
    say(store, held, "in_progress")
    one.read()
    if end == "cancel":
        store.cancel(held.job.id, "ann")
    else:
        store.complete(held, FAILED)
    (event,) = events(one.read())
    assert (event["type"], event["response"]["status"]) == (f"response.{last}", status)
    assert one.over


def test_a_failure_before_the_first_event_is_no_stream(store: JobStore) -> None:
    """Who wants an HTTP error gets it; in the background it is an event."""
    held = response(store)
    store.complete(held, FAILED)
    with pytest.raises(EndedFirst) as caught:
        follower(store, held.job.id, strict=True).read()
    assert caught.value.job.status is JobStatus.FAILED
    assert types(follower(store, held.job.id).read()) == [("created", 0), ("in_progress", 1), ("failed", 2)]


def test_a_job_without_a_stream_is_told_of_at_its_end(store: JobStore) -> None:
    """Made-up events of what is known: the response as it began, its items, its end."""
    held = response(store, stream=False, background=True)
    one = follower(store, held.job.id)
    assert one.read() == b""
    store.complete(held, outcome(RESPONSE))
    told = events(one.read())
    names = ["output_item.added", "content_part.added", "output_text.done", "content_part.done", "output_item.done"]
    assert [event["type"] for event in told] == [
        f"response.{name}" for name in ("created", "in_progress", *names, "completed")
    ]
    assert [event["sequence_number"] for event in told] == list(range(8))
    assert told[0]["response"]["output"] == []
    assert told[4]["text"] == "Hello"
    assert told[6]["item"] == ITEM
    assert types(follower(store, held.job.id, after=5).read()) == [("output_item.done", 6), ("completed", 7)]


def test_an_llm_that_does_not_stream_is_no_trouble(store: JobStore) -> None:
    """A streamed job whose LLM answered as a whole is told in the same way, behind what was told of its queue."""
    held = response(store, background=True)
    one = follower(store, held.job.id)
    one.read()
    store.complete(held, outcome({**RESPONSE, "output": []}))
    assert types(one.read()) == [("in_progress", 2), ("completed", 3)]


def test_chunks_end_with_done(store: JobStore) -> None:
    """A chat completion's chunks pass as they are, and then it is done."""
    held = running(store, stream=True, request=BODY)
    chunk(store, held, "a", "b")
    store.complete(held, outcome(CHAT))
    told = events(follower(store, held.job.id).read())
    assert [event["choices"][0]["delta"]["content"] for event in told[:-1]] == ["a", "b"]
    assert told[-1] == "[DONE]"


@pytest.mark.parametrize("usage", [True, False])
def test_chunks_that_are_gone_are_made_of_the_answer(store: JobStore, redis_client: redis.Redis, usage: bool) -> None:
    """Who asks again with the same Idempotency-Key later on gets the same answer, as chunks."""
    body = json.dumps({"model": "sim", "messages": [], "stream_options": {"include_usage": usage}}).encode()
    held = running(store, stream=True, request=body)
    chunk(store, held, "a", "b")
    store.complete(held, outcome(CHAT))
    redis_client.delete(queues.deltas_key(held.job.id))
    said, why, *rest = events(follower(store, held.job.id).read())
    assert said["object"] == "chat.completion.chunk"
    delta = {"role": "assistant", "content": "Hello", "tool_calls": [{"index": 0, "id": "c"}]}
    assert said["choices"] == [{"index": 0, "delta": delta, "finish_reason": None}]
    assert why["choices"][0]["finish_reason"] == "stop"
    assert [event["usage"] for event in rest[:-1]] == ([{"total_tokens": 3}] if usage else [])
    assert rest[-1] == "[DONE]"


def test_a_completion_that_is_gone_is_one_chunk(store: JobStore) -> None:
    """The older endpoint's answer has the form of its chunks."""
    held = running(store, stream=True, endpoint=COMPLETIONS, request=BODY)
    store.complete(held, outcome({"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": "a"}]}))
    told = events(follower(store, held.job.id).read())
    assert (told[0]["choices"], told[-1]) == ([{"index": 0, "text": "a"}], "[DONE]")


def test_chunks_that_go_while_they_are_read_are_missed_aloud(store: JobStore, redis_client: redis.Redis) -> None:
    """A client that has slept over the end of the pieces hears that the rest is gone, and where the answer is."""
    held = running(store, stream=True, request=BODY)
    chunk(store, held, *["a"] * (PAGE + 1))
    store.complete(held, outcome(CHAT))
    one = follower(store, held.job.id)
    assert len(events(one.read())) == PAGE
    redis_client.delete(queues.deltas_key(held.job.id))
    (error,) = events(one.read())
    assert error["error"]["code"] == "stream_expired"
    assert held.job.id in error["error"]["message"]
    assert one.over


@pytest.mark.parametrize("told", [0, 1])
def test_chunks_that_are_lost_are_missed_aloud(store: JobStore, redis_client: redis.Redis, told: int) -> None:
    """A Redis that was killed may have lost some of them: a text with a hole in it is not told as if it had none."""
    held = running(store, stream=True, request=BODY)
    first, number = store.streams.begin(held)  # type: ignore[misc]
    pieces = [Entry(number + at, "", b'{"choices":[]}', True) for at in range(4)]
    one = follower(store, held.job.id)
    store.streams.append(held, first, pieces[:told])
    one.read()
    store.streams.append(held, first, [piece for piece in pieces if piece.number != number + 1])
    (error,) = events(one.read())
    assert error["error"]["code"] == "stream_expired"
    assert held.job.id in error["error"]["message"]
    assert one.over


@pytest.mark.parametrize(("end", "code"), [("cancel", "job_cancelled"), ("fail", "llm_unavailable")])
def test_a_chat_completion_that_ends_badly_says_so(store: JobStore, end: str, code: str) -> None:
    """An SSE payload with an error, which the SDK raises, and no ``[DONE]``."""
    held = running(store, stream=True, request=BODY, endpoint=CHAT_COMPLETIONS)
    chunk(store, held, "a")
    one = follower(store, held.job.id)
    one.read()
    if end == "cancel":
        store.cancel(held.job.id, "ann")
    else:
        store.complete(held, FAILED)
    (last,) = events(one.read())
    assert (last["error"]["code"], one.over) == (code, True)
