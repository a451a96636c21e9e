"""From the LLM's stream to Redis: numbers, gathering, and a Redis that is away."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gevent
import pytest
import redis

from jobs import queues
from jobs.errors import StoreUnavailable
from jobs.model import RESPONSES, Claim
from jobs.store import JobStore
from jobs.streams import Entry
from tests.unit.making import running
from worker.relay import Relay
from worker.streaming import Event

BIG = 10**9


def event(kind: str, **members: Any) -> Event:
    value = {"type": kind, **members}
    return Event(json.dumps(value).encode(), value, kind, kind.endswith(".delta"))


def text(delta: str) -> Event:
    return event("response.output_text.delta", item_id="m", output_index=0, delta=delta, sequence_number=7)


def relay_for(store: JobStore, held: Claim, max_bytes: int = BIG) -> Relay:
    numbers = store.streams.begin(held)
    assert not isinstance(numbers, str)
    return Relay(store.streams, held, numbers, max_bytes=max_bytes)


def stored(store: JobStore, held: Claim) -> list[Entry]:
    return store.streams.read(held.job.id, "ann", after=-1).entries


def until(store: JobStore, held: Claim, count: int) -> list[Entry]:
    """The entries once there are so many."""
    with gevent.Timeout(5):
        while len(found := stored(store, held)) < count:
            gevent.sleep(0.005)
    return found


def test_a_response_gets_our_id_and_our_numbers(store: JobStore) -> None:
    """Only these change; an event's other bytes, and members that nobody knows, stay as they came."""
    held = running(store, endpoint=RESPONSES, stream=True)
    relay = relay_for(store, held)
    relay.tell(
        event("response.created", sequence_number=3, response={"id": "resp_llm", "status": "in_progress", "x": 1})
    )
    data = b'{"type":"response.output_text.delta", "sequence_number" : 4,"delta":"\\"sequence_number\\":9 \\ud800"}'
    relay.tell(Event(data, json.loads(data), "response.output_text.delta", delta=True))
    relay.tell(event("response.new.done", without="number"))
    relay.flush()
    created, delta, last = stored(store, held)
    response = json.loads(created.data)["response"]
    assert (response["id"], response["upstream_id"], response["x"]) == (held.job.id, "resp_llm", 1)
    assert delta.data == data.replace(b'"sequence_number" : 4', b'"sequence_number":1')
    assert json.loads(last.data) == {"type": "response.new.done", "without": "number", "sequence_number": 2}
    assert [(one.number, one.type, one.delta) for one in (created, delta, last)] == [
        (0, "response.created", False),
        (1, "response.output_text.delta", True),
        (2, "response.new.done", False),
    ]


def test_what_was_asked_of_us_is_said_in_our_words(store: JobStore) -> None:
    """The response before is ours, under whatever id the LLM knows it, if at all; and we are to keep nothing."""
    asked = {"previous_response_id": "resp_before", "upstream_previous": "resp_llm_before", "stored": False}
    held = running(store, endpoint=RESPONSES, stream=True, **asked)
    relay = relay_for(store, held)
    relay.tell(event("response.created", response={"previous_response_id": "resp_llm_before", "store": True}))
    relay.tell(event("response.in_progress", response={"previous_response_id": None}))
    relay.flush()
    responses = [json.loads(one.data)["response"] for one in stored(store, held)]
    assert [(one["previous_response_id"], one["store"]) for one in responses] == [("resp_before", False)] * 2


def test_chunks_pass_untouched(store: JobStore) -> None:
    """A chat completion's chunks are relayed byte for byte."""
    held = running(store, stream=True)
    relay = relay_for(store, held)
    data = b'{ "choices": [],  "sequence_number": 5 }'
    relay.tell(Event(data, json.loads(data), delta=True))
    relay.flush()
    assert [one.data for one in stored(store, held)] == [data]


def test_what_the_api_has_told_is_not_told_again(store: JobStore) -> None:
    """A background response is created when it is queued; after an attempt that broke off it is created anew."""
    held = running(store, endpoint=RESPONSES, background=True, stream=True)
    for count, first in ((1, 2), (2, 4)):
        relay = relay_for(store, held)
        relay.tell(event("response.created", response={}))
        relay.tell(event("response.in_progress", response={}))
        relay.flush()
        found = stored(store, held)
        assert (len(found), found[0].number) == (count, first)


def test_the_first_event_goes_at_once_and_the_next_are_gathered(store: JobStore) -> None:
    """A fast LLM costs few round trips, and what comes alone does not wait."""
    held = running(store, endpoint=RESPONSES, stream=True)
    appends: list[int] = []
    relay = relay_for(store, held)
    append = store.streams.append

    def counted(claim: Claim, first: int, entries: Any) -> Any:
        appends.append(len(entries))
        return append(claim, first, entries)

    store.streams.append = counted  # type: ignore[method-assign]
    with relay:
        relay.tell(text("a"))
        gevent.sleep(0.001)
        for _ in range(50):
            relay.tell(text("b"))
        until(store, held, 51)
    assert appends == [1, 50]


def test_beyond_its_size_pieces_are_put_together_and_nothing_is_lost(store: JobStore) -> None:
    """A stream that is full goes on in larger pieces, numbered without a gap."""
    held = running(store, endpoint=RESPONSES, stream=True)
    relay = relay_for(store, held, max_bytes=500)
    with relay:
        for number in range(300):
            relay.tell(text(f"{number},"))
            if number % 20 == 0:
                gevent.sleep(0.005)
    relay.flush()
    found = stored(store, held)
    assert "".join(json.loads(one.data)["delta"] for one in found) == "".join(f"{number}," for number in range(300))
    assert [json.loads(one.data)["sequence_number"] for one in found] == list(range(len(found)))
    assert len(found) < 60


@pytest.mark.parametrize(
    "delta",
    [
        lambda text: {"reasoning_content": text},
        lambda text: {"tool_calls": [{"index": 0, "function": {"arguments": text}}]},
    ],
    ids=["reasoning", "arguments"],
)
def test_a_stream_of_chunks_is_bounded_whatever_it_says(
    store: JobStore, redis_client: redis.Redis, delta: Callable[[str], Any]
) -> None:
    """What an LLM thinks and what it calls takes no more of Redis than what it writes."""
    held = running(store, stream=True)
    relay = relay_for(store, held, max_bytes=500)
    for number in range(2000):
        value = {"choices": [{"index": 0, "delta": delta(f"{number},"), "finish_reason": None}]}
        relay.tell(Event(json.dumps(value).encode(), value, delta=True))
    relay.flush()
    found = stored(store, held)
    assert len(found) < 10
    assert sum(len(one.data) for one in found) < 20_000
    assert redis_client.memory_usage(queues.deltas_key(held.job.id)) < 40_000


def test_a_redis_that_is_away_costs_nothing(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was told is kept until Redis answers, and is there once, whether it had arrived or not."""
    held = running(store, endpoint=RESPONSES, stream=True)
    relay, append, troubles = relay_for(store, held), store.streams.append, ["after", "before"]

    def sometimes(claim: Claim, first: int, entries: Any) -> Any:
        match troubles.pop() if troubles else None:
            case "before":
                raise StoreUnavailable("away")
            case "after":
                append(claim, first, entries)
                raise StoreUnavailable("the reply was lost")
        return append(claim, first, entries)

    monkeypatch.setattr(store.streams, "append", sometimes)
    with relay:
        relay.tell(text("a"))
        gevent.sleep(0.01)
        relay.tell(text("b"))
        found = until(store, held, 2)
    assert [json.loads(one.data)["delta"] for one in found] == ["a", "b"]


def test_what_is_no_longer_ours_is_dropped(store: JobStore) -> None:
    """After a refusal nothing more is sent, and nothing is raised."""
    held = running(store, endpoint=RESPONSES, stream=True)
    relay = relay_for(store, held)
    store.cancel(held.job.id, "ann")
    relay.tell(text("a"))
    relay.flush()
    relay.tell(text("b"))
    relay.flush()
    assert stored(store, held) == []
