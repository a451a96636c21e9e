"""Chat completions and the older completions: their objects, and the chunks of their streams."""

from collections.abc import Callable

from simulator.behaviour import Ending
from simulator.calls import Call, output_tokens, reply, required
from simulator.prompts import conversation_text, count_tokens, input_text, split_inputs
from simulator.streams import Stream, frame, frames, pieces
from simulator.wire import JsonObject, encode, new_id

_DONE = b"data: [DONE]\n\n"


def chat_replies(call: Call) -> list[str]:
    """Return the text of each choice; raises ApiError when there are no messages."""
    return [reply(conversation_text(required(call.body, "messages")))] * call.choices


def chat_answer(call: Call, texts: list[str]) -> JsonObject:
    """Return the ``chat.completion`` object."""
    called = _function_call(call)
    if called is not None:
        message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": [called]}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls"}
        return {**_head(call, "chatcmpl-", "chat.completion"), "choices": [choice], "usage": _usage(call, texts)}
    choices: list[JsonObject] = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": _finish_reason(call),
        }
        for index, text in enumerate(texts)
    ]
    return {**_head(call, "chatcmpl-", "chat.completion"), "choices": choices, "usage": _usage(call, texts)}


def chat_stream(call: Call, texts: list[str]) -> Stream:
    """Return the chunks of a chat completion: the role, the text, the finish reason, then the usage if asked for."""

    def choice(index: int, delta: JsonObject, finish_reason: str | None = None) -> JsonObject:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    head = _head(call, "chatcmpl-", "chat.completion.chunk")
    opening = [choice(index, {"role": "assistant", "content": "", "refusal": None}) for index in range(len(texts))]
    called = _function_call(call)
    if called is not None:
        function = called["function"]
        first = {"index": 0, **called, "function": {**function, "arguments": ""}}
        return _stream(
            call,
            [function["arguments"]],
            head=head,
            opening=[choice(0, {"role": "assistant", "content": None, "tool_calls": [first]})],
            delta=lambda _, piece: choice(0, {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}),
            end=lambda _: choice(0, {}, "tool_calls"),
        )
    return _stream(
        call,
        texts,
        head=head,
        opening=opening,
        delta=lambda index, piece: choice(index, {"content": piece}),
        end=lambda index: choice(index, {}, _finish_reason(call)),
    )


def text_replies(call: Call) -> list[str]:
    """Return the text of each choice, prompt after prompt; raises ApiError when there is no prompt."""
    prompts = map(input_text, split_inputs(required(call.body, "prompt")))
    return [reply(prompt) for prompt in prompts for _ in range(call.choices)]


def text_answer(call: Call, texts: list[str]) -> JsonObject:
    """Return the ``text_completion`` object, with a choice for each prompt."""
    choices = [_text_choice(index, text, _finish_reason(call)) for index, text in enumerate(texts)]
    return {**_head(call, "cmpl-", "text_completion"), "choices": choices, "usage": _usage(call, texts)}


def text_stream(call: Call, texts: list[str]) -> Stream:
    """Return the chunks of a completion: the text, the finish reason, then the usage if asked for."""
    return _stream(
        call,
        texts,
        head=_head(call, "cmpl-", "text_completion"),
        opening=[],
        delta=lambda index, piece: _text_choice(index, piece, None),
        end=lambda index: _text_choice(index, "", _finish_reason(call)),
    )


def _stream(
    call: Call,
    texts: list[str],
    *,
    head: JsonObject,
    opening: list[JsonObject],
    delta: Callable[[int, str], JsonObject],
    end: Callable[[int], JsonObject],
) -> Stream:
    options = call.body.get("stream_options")
    with_usage = isinstance(options, dict) and options.get("include_usage") is True
    # OpenAI sends `usage: null` in all chunks but the last when the usage is asked for, and no such field otherwise.
    base = {**head, "usage": None} if with_usage else head
    last = [{**head, "choices": [], "usage": _usage(call, texts)}] if with_usage else []
    ends = ({**base, "choices": [end(index)]} for index in range(len(texts)))
    return Stream(
        opening=frames({**base, "choices": [choice]} for choice in opening),
        deltas=[
            frame({**base, "choices": [delta(index, piece)]})
            for index, text in enumerate(texts)
            for piece in pieces(text)
        ],
        closing=frames([*ends, *last]) + _DONE,
    )


def _function_call(call: Call) -> JsonObject | None:
    """Return the call of the first function that is offered, where the model makes one and has no output of it yet."""
    tools, messages = call.body.get("tools"), call.body["messages"]
    tool = tools[0] if call.behaviour.tool and isinstance(tools, list) and tools else None
    if (
        not isinstance(tool, dict)
        or not isinstance(messages, list)
        or "tool" in [one.get("role") for one in messages[-1:]]
    ):
        return None
    arguments = encode({"prompt": conversation_text(messages)}).decode("ascii")
    function = {"name": tool["function"]["name"], "arguments": arguments}
    return {"id": new_id("call_"), "type": "function", "function": function}


def _head(call: Call, prefix: str, kind: str) -> JsonObject:
    return {
        "id": new_id(prefix),
        "object": kind,
        "created": call.created,
        "model": call.model,
        "system_fingerprint": "fp_simulator",
    }


def _text_choice(index: int, text: str, finish_reason: str | None) -> JsonObject:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _finish_reason(call: Call) -> str:
    return "length" if call.ending is Ending.INCOMPLETE else "stop"


def _usage(call: Call, texts: list[str]) -> JsonObject:
    read, written = _prompt_tokens(call), output_tokens(texts)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 0, "cache_write_tokens": 0},
        "completion_tokens_details": {
            "accepted_prediction_tokens": 0,
            "audio_tokens": 0,
            "reasoning_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _prompt_tokens(call: Call) -> int:
    if "messages" in call.body:
        return count_tokens(conversation_text(call.body["messages"]))
    return sum(count_tokens(input_text(item)) for item in split_inputs(call.body["prompt"]))
