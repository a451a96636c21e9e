"""Responses asked for and answered as chat completions: requests, whole answers, streams."""

from __future__ import annotations

import contextlib
import json
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import BaseModel
from openai.types.chat import completion_create_params
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from jobs.errors import LLMBadAnswer, LLMUnavailable, LLMUnreachable, LLMUnsupported
from jobs.translation import chat_body
from worker.translation import ResponseStream, response_events, response_of

#: The SDK's type of each event, by its ``type``.
EVENTS: dict[str, type[BaseModel]] = {
    get_args(one.model_fields["type"].annotation)[0]: one for one in get_args(get_args(ResponseStreamEvent)[0])
}
WHATEVER_THE_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
ASKED = {"model": "sim", "input": "Where?"}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "prompt_tokens_details": {"cached_tokens": 2}}
SAID = {"type": "output_text", "text": "I look."}
IMAGE = {"type": "input_image", "image_url": "x"}
KINDS = ["message", "user", "function", "input_text"]
NAMES = ["type", "role", "content", "text", "name", "output", "call_id", "input_audio", "tools", "format"]


def valid_chat(body: dict[str, Any]) -> dict[str, Any]:
    """The body, if it is one of a chat completion as the SDK types it."""
    TypeAdapter(completion_create_params.CompletionCreateParamsNonStreaming).validate_python(body)
    return body


def completion(message: dict[str, Any], finish: str | None = "stop", **more: Any) -> dict[str, Any]:
    """A chat completion with one choice."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, "logprobs": None}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "sim-2"}
    return {**head, "choices": [choice], "usage": USAGE, **more}


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk of a chat completion's stream."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": "sim-2"}
    return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def call(call_id: str | None = "c1", name: str = "weather", arguments: Any = '{"city":"Rome"}') -> dict[str, Any]:
    """A tool call of a message."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def response(message: dict[str, Any], finish: str | None = "stop", **asked: Any) -> Response:
    """The response that a completion is, as strict as the SDK's types are."""
    made = response_of({**ASKED, **asked}, completion(message, finish), number="ab")
    return Response.model_validate(made, strict=True)


def events(*chunks: dict[str, Any], **asked: Any) -> list[Any]:
    """The events that chunks make, each valid as the SDK types it, numbered without a gap."""
    made = list(response_events({**ASKED, **asked}, chunks, number="ab"))
    assert [event["sequence_number"] for event in made] == list(range(len(made)))
    # What was told stays told: no event is changed by a later one.
    assert [json.loads(json.dumps(event)) for event in made] == made
    return [EVENTS[event["type"]].model_validate(event, strict=True) for event in made]


def test_a_text_is_a_user_message() -> None:
    """The simplest request: the model, a text, and what has the same name in both."""
    asked = {**ASKED, "temperature": 0.5, "top_p": 1, "user": "u", "top_k": 40, "service_tier": None, "store": False}
    assert valid_chat(chat_body(asked)) == {
        "model": "sim",
        "messages": [{"role": "user", "content": "Where?"}],
        "temperature": 0.5,
        "top_p": 1,
        "user": "u",
        "top_k": 40,
    }


def test_instructions_and_limits_have_other_names() -> None:
    """Instructions are a system message, and limits, effort and formats stand where a chat completion has them."""
    schema = {"type": "json_schema", "name": "n", "schema": PARAMETERS, "strict": True, "description": None}
    asked = {
        **ASKED,
        "instructions": "Be brief.",
        "max_output_tokens": 9,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": schema, "verbosity": "low"},
        "metadata": {"a": "b"},
        "truncation": "disabled",
        "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
        "max_tool_calls": 1,
    }
    assert valid_chat(chat_body(asked)) == {
        "model": "sim",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}],
        "max_completion_tokens": 9,
        "reasoning_effort": "low",
        "verbosity": "low",
        "logprobs": True,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": PARAMETERS, "strict": True}},
    }
    plain = chat_body({**ASKED, "text": {"format": {"type": "json_object"}}, "top_logprobs": 2})
    assert (plain["response_format"], plain["logprobs"], plain["top_logprobs"]) == ({"type": "json_object"}, True, 2)
    assert "response_format" not in chat_body({**ASKED, "text": {"format": {"type": "text"}}})


def test_messages_have_parts() -> None:
    """Texts, images, files and sounds of a message; one text alone is sent as a text, which every LLM takes."""
    parts = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    asked = [
        {"role": "developer", "content": [{"type": "input_text", "text": "kindly"}]},
        {"type": "message", "role": "user", "content": parts, "id": "msg_1", "status": "completed"},
    ]
    assert valid_chat(chat_body({"model": "sim", "input": asked}))["messages"] == [
        {"role": "system", "content": "kindly"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}},
                {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            ],
        },
    ]


def test_tools_and_what_they_said() -> None:
    """Function tools, and the calls and outputs of earlier turns, each call beside what the assistant said with it."""
    tool = {"type": "function", "name": "weather", "description": "d", "parameters": PARAMETERS, "strict": None}
    asked = [
        {"role": "user", "content": "Rome and Oslo?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"role": "assistant", "content": [SAID, {"type": "refusal", "refusal": "!"}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "[]"},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "snow"}]},
        {"type": "function_call", "call_id": "c3", "name": "weather", "arguments": "{}"},
        {"type": "message", "role": "assistant", "content": "Once more."},
        {"type": "function_call_output", "call_id": "c3", "output": "rain"},
    ]
    more = {"tools": [tool], "tool_choice": {"type": "function", "name": "weather"}, "parallel_tool_calls": False}
    body = valid_chat(chat_body({"model": "sim", "input": asked, **more}))
    function = {"name": "weather", "description": "d", "parameters": PARAMETERS}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert body["parallel_tool_calls"] is False
    calls = [call("c1", arguments="{}"), call("c2", arguments="[]"), call("c3", arguments="{}")]
    assert body["messages"] == [
        {"role": "user", "content": "Rome and Oslo?"},
        {"role": "assistant", "content": "I look.!", "tool_calls": calls[:2]},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
        {"role": "tool", "tool_call_id": "c2", "content": "snow"},
        {"role": "assistant", "content": "Once more.", "tool_calls": calls[2:]},
        {"role": "tool", "tool_call_id": "c3", "content": "rain"},
    ]
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]}
    assert valid_chat(chat_body({**ASKED, "tools": [tool], "tool_choice": allowed}))["tool_choice"] == {
        "type": "allowed_tools",
        "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "weather"}}]},
    }
    none = chat_body({**ASKED, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True})
    assert set(none) == {"model", "messages"}


def item(**fields: Any) -> dict[str, Any]:
    """A request whose input is one item."""
    return {"input": [fields]}


def content(*parts: Any, role: str = "user") -> dict[str, Any]:
    """A request whose input is one message."""
    return item(role=role, content=list(parts))


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "function", "name": "f"}, {"type": "web_search"}]}, "tools.1.type"),
        ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "tools.0.type"),
        ({"tools": [{"type": "computer_use_preview"}]}, "tools.0.type"),
        ({"tools": ["f"]}, "tools.0.type"),
        ({"tools": {}}, "tools"),
        ({"tool_choice": {"type": "mcp", "server_label": "s"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "tools": [{"type": "mcp"}]}}, "tool_choice.tools.0"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": "json"}, "text"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"instructions": [{"role": "user", "content": "x"}]}, "instructions"),
        ({"reasoning": "low"}, "reasoning"),
        ({"include": "x"}, "include"),
        ({"input": ["text"]}, "input.0"),
        (item(type="item_reference", id="msg_1"), "input.0.type"),
        (item(type="web_search_call", id="ws_1", status="completed"), "input.0.type"),
        (item(type=["message"]), "input.0.type"),
        (item(role="tool", content="x"), "input.0.role"),
        (item(role=["user"], content="x"), "input.0.role"),
        (item(role="user", content=None), "input.0.content"),
        (item(type="function_call", name="f", arguments="{}"), "input.0.call_id"),
        (item(type="function_call_output", output="x"), "input.0.call_id"),
        (item(type="function_call_output", call_id="c", output=[IMAGE]), "input.0.output.0"),
        (content({"type": "input_image", "file_id": "file-1"}), "input.0.content.0"),
        (content({"type": "input_file", "file_id": "file-1"}), "input.0.content.0"),
        (content({"type": "input_text", "text": "x"}, {"type": "input_video"}), "input.0.content.1"),
        (content({"type": "input_text"}), "input.0.content.0.text"),
        (content("x"), "input.0.content.0"),
        (content(IMAGE, role="assistant"), "input.0.content.0"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_has_no_counterpart_is_refused_by_name(asked: dict[str, Any], param: str) -> None:
    """What chat completions cannot say is refused, and where it stands is named."""
    with pytest.raises(LLMUnsupported) as caught:
        chat_body({**ASKED, **asked})
    assert caught.value.param == param
    assert param in caught.value.message
    assert not caught.value.retryable


def test_a_refusal_quotes_no_prompt() -> None:
    """A type is named if it looks like one; a text that stands there is not."""
    with pytest.raises(LLMUnsupported, match="'web_search'"):
        chat_body({**ASKED, "tools": [{"type": "web_search"}]})
    with pytest.raises(LLMUnsupported, match="this type") as caught:
        chat_body({**ASKED, "tools": [{"type": "My secret is 42"}]})
    assert "secret" not in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(KINDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@WHATEVER_THE_MACHINE
@given(
    st.dictionaries(
        st.sampled_from(["input", "tools", "tool_choice", "text", "reasoning", "include", "instructions"]), JSON
    )
)
def test_whatever_is_asked_is_translated_or_refused(asked: dict[str, Any]) -> None:
    """No request makes the translation stumble, and it changes nothing of what it is given."""
    before = json.dumps(asked)
    with contextlib.suppress(LLMUnsupported):
        json.dumps(chat_body({"model": "sim", **asked}))
    assert json.dumps(asked) == before


def test_a_text_is_an_output_message() -> None:
    """The answer's text, its tokens, and what was asked, as the SDK types a response."""
    asked = {"instructions": "Be brief.", "temperature": 0.5, "metadata": {"a": "b"}, "store": False}
    made = response({"content": "There.", "annotations": []}, **asked)
    assert (made.id, made.created_at, made.model, made.status) == ("chatcmpl-1", 5, "sim-2", "completed")
    assert made.output_text == "There."
    assert [(one.type, one.id) for one in made.output] == [("message", "msg_ab00")]
    assert made.output[0].status == "completed"
    assert (made.instructions, made.temperature, made.metadata) == ("Be brief.", 0.5, {"a": "b"})
    assert (made.tool_choice, made.tools, made.parallel_tool_calls, made.error) == ("auto", [], True, None)
    assert made.usage is not None
    assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.total_tokens) == (3, 4, 7)
    assert made.usage.input_tokens_details.cached_tokens == 2
    assert made.usage.output_tokens_details.reasoning_tokens == 0


def test_calls_are_items() -> None:
    """Each tool call is an item with the LLM's call id, or one of ours, after what was said and thought."""
    calls = [call(), call(None, "other", {"a": 1}), {"function": {"name": "third"}}]
    made = response({"content": "I look.", "reasoning_content": "Hm.", "tool_calls": calls}, "tool_calls")
    assert [one.type for one in made.output] == ["reasoning", "message", *["function_call"] * 3]
    assert [(one.call_id, one.name, one.arguments) for one in made.output[2:]] == [
        ("c1", "weather", '{"city":"Rome"}'),
        ("call_ab03", "other", '{"a": 1}'),
        ("call_ab04", "third", ""),
    ]
    assert made.output[0].content[0].text == "Hm."
    assert len({one.id for one in made.output}) == 5
    tool = {"type": "function", "name": "weather", "parameters": PARAMETERS}
    assert response({"tool_calls": [call()]}, tools=[tool]).tools[0].name == "weather"


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_a_cut_answer_is_incomplete(finish: str, reason: str) -> None:
    """What ended too early says why, and its last item is incomplete."""
    made = response({"content": "Ther"}, finish)
    assert made.status == "incomplete"
    assert made.incomplete_details is not None
    assert made.incomplete_details.reason == reason
    assert made.output[-1].status == "incomplete"


def test_refusals_citations_and_probabilities_are_parts() -> None:
    """A refusal is a part of its own; citations and log probabilities go with the text."""
    refused = response({"content": None, "refusal": "I won't."})
    assert refused.output[0].content[0].refusal == "I won't."
    cited = {
        "type": "url_citation",
        "url_citation": {"start_index": 0, "end_index": 1, "title": "t", "url": "https://x"},
    }
    assert response({"content": "See.", "annotations": [cited]}).output[0].content[0].annotations[0].url == "https://x"
    likely = {"token": "a", "logprob": -0.5, "bytes": None}
    answer = completion({"content": "a"})
    answer["choices"][0]["logprobs"] = {"content": [{**likely, "top_logprobs": [likely]}]}
    made = Response.model_validate(response_of(ASKED, answer, number="ab"), strict=True)
    assert made.output[0].content[0].logprobs[0].top_logprobs[0].logprob == -0.5


@pytest.mark.parametrize("message", [{"content": ""}, {"content": None}, {}, {"content": 7, "tool_calls": [None, "x"]}])
def test_an_answer_without_words_is_an_empty_text(message: dict[str, Any]) -> None:
    """An LLM that says nothing has said nothing, which is an answer."""
    made = response(message, None)
    assert (made.status, made.output_text, len(made.output)) == ("completed", "", 1)


def test_parts_of_text_are_one_text() -> None:
    """Some LLMs answer with a list of parts."""
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}, "c"]
    assert response({"content": parts}).output_text == "ab"


@pytest.mark.parametrize("choices", [[], None, {}, ["x"], [{}], [{"message": None}], [{"message": "text"}]])
def test_an_answer_without_a_message_is_a_bad_one(choices: Any) -> None:
    """A chat completion that has no message is not what was promised."""
    with pytest.raises(LLMBadAnswer):
        response_of(ASKED, completion({}, choices=choices), number="ab")


def test_usage_may_be_missing() -> None:
    """Not every LLM counts, and not every one adds up."""
    assert response_of(ASKED, completion({"content": "x"}, usage=None), number="a")["usage"] is None
    counted = response_of(
        ASKED, completion({"content": "x"}, usage={"prompt_tokens": 1, "completion_tokens": "2"}), number="a"
    )
    assert counted["usage"]["total_tokens"] == 1


def test_a_stream_of_text_has_its_events_in_order() -> None:
    """From created to completed: item and part are added, the text comes in deltas, and all is closed in turn."""
    made = events(
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "The"}),
        chunk({"content": "re."}),
        chunk({}, "stop"),
        {**chunk({}), "choices": [], "usage": USAGE},
    )
    assert [event.type.removeprefix("response.") for event in made] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done", "content_part.done", "output_item.done"),
        "completed",
    ]
    assert [event.delta for event in made if event.type.endswith(".delta")] == ["The", "re."]
    assert (made[0].response.status, made[0].response.output) == ("in_progress", [])
    assert made[-1].response.output_text == "There."
    assert made[-1].response.usage.total_tokens == 7
    assert {event.item_id for event in made if hasattr(event, "item_id")} == {made[-1].response.output[0].id}


def test_each_event_comes_as_soon_as_its_chunk() -> None:
    """Nothing is held back: the first piece of text is told before the second is there."""
    told: list[str] = []

    def chunks() -> Any:
        yield chunk({"content": "The"})
        assert told[-1] == "response.output_text.delta"
        yield chunk({"content": "re."}, "stop")

    for event in response_events(ASKED, chunks(), number="ab"):
        told.append(event["type"])
    assert told[-1] == "response.completed"


def test_calls_that_come_in_turns_stay_apart() -> None:
    """Pieces of several calls, mixed with each other, are put together by their index."""
    made = events(
        chunk({"reasoning": "Hm."}),
        chunk({"content": "I look."}),
        chunk({"tool_calls": [{"index": 0, **call("c1", arguments="")}]}),
        chunk({"tool_calls": [{"index": 1, **call("c2", "other", "[")}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
        chunk({"tool_calls": [{"index": 1, "function": {"arguments": "]"}}]}),
        chunk({}, "tool_calls"),
    )
    calls = made[-1].response.output[2:]
    assert [(one.call_id, one.name, one.arguments) for one in calls] == [("c1", "weather", "{}"), ("c2", "other", "[]")]
    deltas = [event for event in made if event.type == "response.function_call_arguments.delta"]
    assert [(event.output_index, event.delta) for event in deltas] == [(3, "["), (2, "{}"), (3, "]")]
    done = [event.arguments for event in made if event.type == "response.function_call_arguments.done"]
    assert done == ["{}", "[]"]


@pytest.mark.parametrize("index", [{"index": 0}, {}], ids=["all 0", "none"])
def test_calls_that_share_an_index_stay_apart(index: dict[str, int]) -> None:
    """Some LLMs do not count their calls: one begins with each new id that has a name. Others give the pieces of one
    call ids of their own, without a name."""
    made = events(
        chunk({"tool_calls": [{**index, **call("c1", arguments='{"a":1}')}]}),
        chunk({"tool_calls": [{**index, **call("c2", "other", '{"b"')}]}),
        chunk({"tool_calls": [{**index, "id": "c3", "function": {"arguments": ":2}"}}]}),
        chunk({}, "tool_calls"),
    )
    calls = [(one.call_id, one.name, one.arguments) for one in made[-1].response.output]
    assert calls == [("c1", "weather", '{"a":1}'), ("c2", "other", '{"b":2}')]
    done = [event.item.call_id for event in made if event.type == "response.output_item.done"]
    assert done == ["c1", "c2"]


def test_a_stream_that_is_cut_has_not_answered() -> None:
    """A stream that ends before its finish reason, or tells of an error, is worth another try."""
    for chunks in ([], [chunk({"content": "The"})]):
        with pytest.raises(LLMUnreachable):
            events(*chunks)
    with pytest.raises(LLMUnavailable):
        events(chunk({"content": "The"}), {"error": {"message": "overloaded"}})


def test_what_is_known_to_be_whole_needs_no_finish_reason() -> None:
    """Some LLMs say that they are done and not why."""
    stream = ResponseStream(ASKED, "ab")
    assert not stream.begun
    list(stream.take(chunk({"content": "There."})))
    assert stream.begun
    *_, last = stream.end(whole=True)
    assert (last["type"], last["response"]["status"]) == ("response.completed", "completed")


def pieces(text: str, cuts: list[int]) -> list[str]:
    """The text cut at these places."""
    places = sorted({cut % (len(text) + 1) for cut in cuts})
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@given(
    thought=st.text(max_size=9),
    said=st.text(max_size=20),
    refused=st.text(max_size=9),
    arguments=st.lists(st.text(max_size=9), max_size=3),
    finish=st.sampled_from(["stop", "length", "tool_calls", "content_filter"]),
    cuts=st.lists(st.integers(0, 40), max_size=4),
)
def test_a_stream_ends_in_the_whole_answers_response(
    thought: str, said: str, refused: str, arguments: list[str], finish: str, cuts: list[int]
) -> None:
    """However an answer is cut into chunks, the last event has the response that the whole answer is, and the deltas
    are its texts."""
    calls = [call(f"c{number}", f"f{number}", text) for number, text in enumerate(arguments)]
    whole = {"reasoning_content": thought, "content": said, "refusal": refused, "tool_calls": calls}
    chunks = [chunk({"role": "assistant"})]
    chunks += [chunk({"reasoning_content": piece}) for piece in pieces(thought, cuts)]
    chunks += [chunk({"content": piece}) for piece in pieces(said, cuts)]
    chunks += [chunk({"refusal": piece}) for piece in pieces(refused, cuts)]
    for number, one in enumerate(calls):
        first, *rest = pieces(one["function"]["arguments"], cuts)
        chunks.append(chunk({"tool_calls": [{"index": number, **call(one["id"], f"f{number}", first)}]}))
        chunks += [chunk({"tool_calls": [{"index": number, "function": {"arguments": piece}}]}) for piece in rest]
    chunks += [chunk({}, finish), {**chunk({}), "choices": [], "usage": USAGE}]
    made = events(*chunks)
    expected = response_of(ASKED, completion(whole, finish), number="ab")
    assert made[-1].response == Response.model_validate(expected, strict=True)
    deltas: dict[str, str] = {}
    for event in made:
        if event.type.endswith(".delta"):
            deltas[event.type] = deltas.get(event.type, "") + event.delta
    assert deltas.get("response.output_text.delta", "") == said == made[-1].response.output_text
    assert deltas.get("response.refusal.delta", "") == refused
    assert deltas.get("response.function_call_arguments.delta", "") == "".join(arguments)
