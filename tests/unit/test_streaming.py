"""What an LLM's stream adds up to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from jobs.errors import LLMBadAnswer, LLMError, LLMRateLimited, LLMRejected, LLMUnavailable, LLMUnreachable
from jobs.model import CHAT_COMPLETIONS, COMPLETIONS, RESPONSES
from worker.merging import merged
from worker.streaming import DONE, Event, reading_of, streamed


def dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def chunk(*choices: Any, **more: Any) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return dump({**head, "choices": list(choices), **more})


def choice(index: int = 0, finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish_reason}


def read(endpoint: str, *events: bytes, body: dict[str, Any] | None = None) -> tuple[dict[str, Any], list[Event]]:
    """The answer, and what those who follow get."""
    reading = reading_of(endpoint, body or {})
    told = [event for data in events if (event := reading.take(data)) is not None]
    return reading.answer(), told


def test_a_response_is_what_its_last_event_says() -> None:
    """All events but the last are told as they came; the last one's response is the answer, with unknown members."""
    created = b'{"type":"response.created","sequence_number":0,  "response":{"id":"r"},"new":1.0}'
    delta = b'{"type":"response.output_text.delta","delta":"a"}'
    last = {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": [], "x": 1}}
    answer, told = read(RESPONSES, created, delta, dump(last))
    assert answer == last["response"]
    assert [(event.data, event.delta) for event in told] == [(created, False), (delta, True)]


@pytest.mark.parametrize("end", ["incomplete", "failed"])
def test_a_response_may_end_otherwise(end: str) -> None:
    """The event's name tells the status where the response does not."""
    answer, _ = read(RESPONSES, dump({"type": f"response.{end}", "response": {"output": []}}))
    assert answer["status"] == end


def test_chunks_add_up_to_a_completion() -> None:
    """Texts, refusals, tool calls, log probabilities, unknown members and several choices are put together."""
    logs = [{"token": name, "logprob": -0.1, "bytes": [1], "top_logprobs": []} for name in "ab"]

    def call(index: int, **more: Any) -> dict[str, Any]:
        return {"tool_calls": [{"index": index, **more}]}

    answer, told = read(
        CHAT_COMPLETIONS,
        chunk(choice(role="assistant", content=""), system_fingerprint="fp"),
        chunk({**choice(content="Hel", reasoning="hm"), "logprobs": {"content": logs[:1], "refusal": None}}),
        chunk({**choice(content="lo", reasoning="m"), "logprobs": {"content": logs[1:], "refusal": None}}),
        chunk(choice(1, role="assistant", refusal="N"), choice(1, refusal="o")),
        chunk(choice(**call(0, id="c0", type="function", function={"name": "f", "arguments": ""}))),
        chunk(choice(**call(0, function={"arguments": '{"a"'})), choice(**call(1, id="c1", type="function"))),
        chunk(choice(**call(0, function={"arguments": ":1}"})), choice(**call(1, function={"name": "g"}))),
        chunk(choice(finish_reason="tool_calls"), choice(1, finish_reason="stop")),
        chunk(usage={"total_tokens": 7}),
        DONE,
    )
    assert {name: answer[name] for name in ("id", "object", "created", "model", "system_fingerprint")} == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "system_fingerprint": "fp",
    }
    first, second = answer["choices"]
    assert first["message"] == {
        "role": "assistant",
        "content": "Hello",
        "refusal": None,
        "reasoning": "hmm",
        "tool_calls": [
            {"id": "c0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
            {"id": "c1", "type": "function", "function": {"name": "g"}},
        ],
    }
    assert first["logprobs"] == {"content": logs, "refusal": None}
    assert (first["finish_reason"], second["finish_reason"]) == ("tool_calls", "stop")
    assert second["message"] == {"role": "assistant", "content": None, "refusal": "No"}
    assert answer["usage"] == {"total_tokens": 7}
    assert len(told) == 8, "nobody asked for the chunk with the usage"


@pytest.mark.parametrize(
    "piece",
    [
        lambda text: choice(content=text),
        lambda text: choice(tool_calls=[{"index": 0, "function": {"arguments": text}}]),
        lambda text: {"index": 0, "text": text},
    ],
    ids=["a message", "arguments", "a completion"],
)
def test_a_long_answer_is_not_copied_with_each_piece(piece: Callable[[str], dict[str, Any]]) -> None:
    """An answer of 12 MB in 3,000 pieces takes no longer than to read them: else it would hold up all other streams."""
    reading = reading_of(CHAT_COMPLETIONS if "delta" in piece("") else COMPLETIONS, {})
    data = chunk(piece("x" * 4096))
    began = time.process_time()
    for _ in range(3000):
        reading.take(data)
    reading.take(DONE)
    answer = reading.answer()
    assert time.process_time() - began < 2
    assert "x" * 4096 * 3000 in json.dumps(answer)


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        (
            [
                choice(tool_calls=[{"index": 0, "id": "c", "type": "function", "function": {"name": "f"}}]),
                choice(tool_calls=[{"index": 0, "id": "", "type": "", "function": {"name": "", "arguments": "{}"}}]),
            ],
            {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        ),
        (
            [
                {**choice(content="He"), "message": {"role": "assistant", "content": "He"}},
                {**choice(content="y"), "message": {"role": "assistant", "content": "Hey"}},
            ],
            {"content": "Hey"},
        ),
        (
            [
                choice(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x":1}'}}]),
                choice(tool_calls=[{"index": 0, "id": "b", "function": {"name": "f", "arguments": '{"x":'}}]),
                choice(tool_calls=[{"index": 0, "id": "c", "function": {"arguments": "2}"}}]),
            ],
            {
                "tool_calls": [
                    {"id": "a", "function": {"name": "f", "arguments": '{"x":1}'}},
                    {"id": "b", "function": {"name": "f", "arguments": '{"x":2}'}},
                ]
            },
        ),
    ],
    ids=["empty in all pieces but one", "the whole so far beside each piece", "each call has the index 0"],
)
def test_llms_that_are_not_quite_openai_add_up(chunks: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    """What some LLMs send besides, or leave out, does no harm to the answer."""
    answer, _ = read(CHAT_COMPLETIONS, *map(chunk, chunks), chunk(choice(finish_reason="stop")), DONE)
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": None, "refusal": None} | expected


def test_what_is_said_of_each_chunk_does_not_grow() -> None:
    """Azure rates each piece and leaves the head empty in some: the last that was said stands."""
    rated = {"content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}
    empty = b'{"id":"","object":"","created":0,"model":"","system_fingerprint":null,"choices":[]}'
    parts = [{**choice(content="a"), **rated}, {**choice(content="b", finish_reason="stop"), **rated}]
    answer, _ = read(CHAT_COMPLETIONS, empty, chunk(parts[0], system_fingerprint="fp"), empty, chunk(parts[1]), DONE)
    assert (answer["id"], answer["created"], answer["system_fingerprint"]) == ("chatcmpl-1", 1, "fp")
    assert answer["choices"][0]["content_filter_results"] == rated["content_filter_results"]


@pytest.mark.parametrize("asked", [True, False])
def test_the_chunk_with_the_usage_goes_to_who_asked_for_it(asked: bool) -> None:
    """We ask the LLM for it in any case; it is passed on to those who did, too."""
    events = [chunk(choice(content="a", finish_reason="stop")), chunk(usage={"total_tokens": 1}), DONE]
    answer, told = read(CHAT_COMPLETIONS, *events, body={"stream_options": {"include_usage": asked}})
    assert (answer["usage"], len(told)) == ({"total_tokens": 1}, 1 + asked)


def test_completions_add_up_too() -> None:
    """The older endpoint's chunks carry a text each."""
    parts = [{"index": 0, "text": text, "logprobs": {"tokens": [text]}, "finish_reason": None} for text in "ab"]
    answer, _ = read(COMPLETIONS, *(chunk(part) for part in parts), chunk({"index": 0, "finish_reason": "length"}))
    assert answer["object"] == "text_completion"
    assert answer["choices"] == [
        {"index": 0, "text": "ab", "logprobs": {"tokens": ["a", "b"]}, "finish_reason": "length"}
    ]


@pytest.mark.parametrize(
    ("endpoint", "events"),
    [
        (RESPONSES, []),
        (RESPONSES, [b'{"type":"response.created","response":{}}']),
        (CHAT_COMPLETIONS, []),
        (CHAT_COMPLETIONS, [chunk(choice(content="a"))]),
        (CHAT_COMPLETIONS, [chunk(choice(content="a", finish_reason="stop"), choice(1, content="b"))]),
        (CHAT_COMPLETIONS, [DONE]),
    ],
)
def test_a_stream_without_its_end_broke_off(endpoint: str, events: list[bytes]) -> None:
    """What came so far is not taken for the answer."""
    with pytest.raises(LLMUnreachable):
        read(endpoint, *events)


def test_a_stream_needs_no_done_if_all_choices_have_ended() -> None:
    """Some LLMs leave ``[DONE]`` out."""
    answer, _ = read(CHAT_COMPLETIONS, chunk(choice(content="a", finish_reason="stop")))
    assert answer["choices"][0]["message"]["content"] == "a"


@pytest.mark.parametrize(
    "data",
    [b"<html>", b"[]", b'"x"', b'{"type":7}', b"{}", b'{"choices":{}}', b'{"choices":[1]}', b"\xff", b'{"a":NaN}'],
)
@pytest.mark.parametrize("endpoint", [RESPONSES, CHAT_COMPLETIONS])
def test_what_is_no_event_is_a_bad_answer(endpoint: str, data: bytes) -> None:
    """An event that is not what its endpoint promises ends the attempt."""
    with pytest.raises(LLMBadAnswer):
        read(endpoint, data)


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        ({"code": "server_error", "message": "why"}, LLMUnavailable),
        ({"code": "rate_limit_exceeded", "message": "why"}, LLMRateLimited),
        ({"code": "insufficient_quota", "message": "why"}, LLMRejected),
        ({"code": None, "type": "invalid_request_error", "message": "why"}, LLMRejected),
    ],
)
def test_an_error_in_the_stream_is_the_llms(error: dict[str, Any], ours: type[LLMError]) -> None:
    """It raises what fits, with the LLM's words, in each of the forms that it comes in."""
    forms = [(RESPONSES, {"type": "error", **error}), (RESPONSES, {"type": "error", "error": error})]
    if "type" in error:
        forms.pop(0)
    for endpoint, form in (*forms, (CHAT_COMPLETIONS, {"error": error})):
        with pytest.raises(LLMError) as caught:
            read(endpoint, dump(form))
        assert type(caught.value) is ours
        assert caught.value.message == "why"
        assert caught.value.upstream_error is not None
        assert caught.value.upstream_error["code"] == error["code"]


def test_the_body_that_asks_for_a_stream() -> None:
    """What is asked is put in front of the body, which stays as it is; options that are there are kept."""
    body = b' {"model" : "m", "temperature": 1.0}'
    assert streamed(RESPONSES, body, json.loads(body)) == b'{"stream":true,"model" : "m", "temperature": 1.0}'
    chat = streamed(CHAT_COMPLETIONS, body, json.loads(body))
    assert chat.endswith(b',"model" : "m", "temperature": 1.0}')
    assert json.loads(chat)["stream_options"] == {"include_usage": True}
    given = b'{"model":"m","stream_options":{"include_obfuscation":false}}'
    asked = json.loads(streamed(CHAT_COMPLETIONS, given, json.loads(given)))
    assert asked["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert asked["stream"] is True


def events_of(endpoint: str, *events: bytes) -> list[Event]:
    reading = reading_of(endpoint, {})
    return [event for data in events if (event := reading.take(data)) is not None]


def text(delta: str, **more: Any) -> bytes:
    place = {"item_id": "m", "output_index": 0, "content_index": 0, "logprobs": []}
    return dump({"type": "response.output_text.delta", **place, "delta": delta, **more})


def test_pieces_of_one_text_are_put_together() -> None:
    """Neighbours of the same place become one; whatever is anything else stays as it is, and in order."""
    other = dump({"type": "response.output_text.done", "text": "abc"})
    audio = dump({"type": "response.audio.delta", "delta": "QUJD"})
    found = merged(
        events_of(
            RESPONSES, text("a"), text("b", obfuscation="x"), text("c", content_index=1), other, text("d"), audio, audio
        )
    )
    assert [event.value.get("delta") for event in found] == ["ab", "c", None, "d", "QUJD", "QUJD"]
    assert found[2].data == other
    assert merged(events_of(RESPONSES, text("a", logprobs=[1]), text("b"))) != []
    assert len(merged(events_of(RESPONSES, text("a", logprobs=[1]), text("b")))) == 2


def test_pieces_of_chunks_are_put_together() -> None:
    """The same of chat completions and completions."""
    found = merged(
        events_of(
            CHAT_COMPLETIONS,
            chunk(choice(role="assistant", content="")),
            *(chunk(choice(content=part)) for part in "abc"),
            chunk(choice(1, content="d")),
            chunk(choice(1, finish_reason="stop")),
        )
    )
    assert [event.value["choices"][0]["delta"].get("content") for event in found] == ["", "abc", "d", None]
    texts = merged(events_of(COMPLETIONS, *(chunk({"index": 0, "text": part}) for part in "abc")))
    assert [event.value["choices"][0]["text"] for event in texts] == ["abc"]


def arguments(piece: str, **more: Any) -> dict[str, Any]:
    return choice(tool_calls=[{"index": 0, "function": {"arguments": piece, **more}}])


@pytest.mark.parametrize(
    ("piece", "said"),
    [
        (lambda text: choice(reasoning_content=text), lambda delta: delta["reasoning_content"]),
        (lambda text: choice(content=None, reasoning_content=text), lambda delta: delta["reasoning_content"]),
        (lambda text: choice(role="assistant", content="", reasoning=text), lambda delta: delta["reasoning"]),
        (lambda text: choice(refusal=text), lambda delta: delta["refusal"]),
        (arguments, lambda delta: delta["tool_calls"][0]["function"]["arguments"]),
        (lambda text: arguments(text, name=None), lambda delta: delta["tool_calls"][0]["function"]["arguments"]),
        (lambda text: choice(function_call={"arguments": text}), lambda delta: delta["function_call"]["arguments"]),
        (
            lambda text: choice(tool_calls=[{"index": 1, "id": "c", "type": "custom", "custom": {"input": text}}]),
            lambda delta: delta["tool_calls"][0]["custom"]["input"],
        ),
    ],
)
def test_pieces_of_any_one_text_are_put_together(
    piece: Callable[[str], dict[str, Any]], said: Callable[[Any], str]
) -> None:
    """What an LLM thinks, refuses and calls as well, with whatever else the chunks name in the same way."""
    alone = events_of(CHAT_COMPLETIONS, *(chunk(piece(part)) for part in "abc"))
    (together,) = merged(alone)
    assert said(together.value["choices"][0]["delta"]) == "abc"
    assert json.loads(together.data) == together.value
    assert merged([alone[0]]) == [alone[0]]
    end = chunk(choice(finish_reason="stop"))
    assert (
        read(CHAT_COMPLETIONS, together.data, end)[0]
        == read(CHAT_COMPLETIONS, *(event.data for event in alone), end)[0]
    )


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (choice(content="a"), choice(reasoning_content="b")),
        (choice(content="a", reasoning="b"), choice(content="c", reasoning="d")),
        (arguments("a", name="f"), arguments("b")),
        (arguments("a", name="f"), arguments("b", name="f")),
        (arguments("", name="f"), arguments("", name="f")),
        (arguments("a"), choice(tool_calls=[{"index": 1, "function": {"arguments": "b"}}])),
        (
            choice(tool_calls=[{"index": 0, "id": "c0", "function": {"arguments": "a"}}]),
            choice(tool_calls=[{"index": 0, "id": "c1", "function": {"arguments": "b"}}]),
        ),
        (
            choice(tool_calls=[{"function": {"arguments": "a"}}]),
            choice(tool_calls=[{"function": {"arguments": "b"}}]),
        ),
        (choice(audio={"data": "QQ=="}), choice(audio={"data": "Qg=="})),
        (choice(content="a"), choice(content="b", finish_reason="stop")),
        ({**choice(content="a"), "logprobs": {"content": [1]}}, choice(content="b")),
        (choice(content="a", tokens=1), choice(content="b", tokens=1)),
    ],
)
def test_whatever_is_more_than_a_piece_stays_as_it_came(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Two texts at once, the beginning of a call, another call, audio, an end: nothing is put together there."""
    events = events_of(CHAT_COMPLETIONS, chunk(first), chunk(second))
    assert merged(events) == events
