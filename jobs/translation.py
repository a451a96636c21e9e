"""A request for a response as one for a chat completion, for an LLM that speaks no more than that.

Pure functions. What has no counterpart is refused by its name. Left out is what only concerns how the LLM would keep
the response, or what it would tell besides its answer; ``docs/conversations.md`` lists it. Unknown members pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from jobs.errors import LLMUnsupported

#: What chat completions have nothing for, and what would change the answer if it were left out.
_REFUSED: Final = (
    *("prompt", "conversation", "context_management", "moderation", "image", "access_programs"),
    # Composed before; what is left is an id that such an LLM cannot know.
    "previous_response_id",
)
#: What is translated below, or left out.
_OWN: Final = frozenset(
    {
        *("include", "input", "instructions", "max_output_tokens", "max_tool_calls", "metadata", "parallel_tool_calls"),
        *("reasoning", "store", "stream_options", "text", "tool_choice", "tools", "top_logprobs", "truncation"),
    }
)
_ROLES: Final = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_SAFE_NAME: Final = re.compile(r"[a-z0-9_]{1,64}")
_TEXT_PARTS: Final = ("input_text", "output_text")


def chat_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of the chat completion that asks the same. Raises ``LLMUnsupported``, which names what it cannot ask."""
    given = {name: value for name, value in body.items() if value is not None}
    for name in _REFUSED:
        if name in given:
            _refuse(name, f"no '{name}'")
    if given.get("truncation", "disabled") != "disabled":
        _refuse("truncation", "no 'truncation'")
    chat = {name: value for name, value in given.items() if name not in _OWN}
    chat["messages"] = _messages(given)
    if "max_output_tokens" in given:
        chat["max_completion_tokens"] = given["max_output_tokens"]
    reasoning = _member(given, "reasoning")
    if reasoning.get("effort") is not None:
        chat["reasoning_effort"] = reasoning["effort"]
    _add_text(chat, _member(given, "text"))
    _add_logprobs(chat, given)
    _add_tools(chat, given)
    return chat


def _messages(given: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if "instructions" in given:
        messages.append({"role": "system", "content": _string(given["instructions"], "instructions")})
    asked = given.get("input", [])
    if isinstance(asked, str):
        return [*messages, {"role": "user", "content": asked}]
    for number, item in enumerate(_list(asked, "input")):
        at = f"input.{number}"
        if not isinstance(item, dict):
            _refuse(at, "only objects as input items")
        kind = item.get("type") or "message"
        # What an LLM of this kind thought before has no place in what it is asked.
        if kind == "reasoning":
            continue
        add = _ITEMS.get(kind) if isinstance(kind, str) else None
        if add is None:
            _refuse(f"{at}.type", f"no input items of {_called(kind)}")
        add(messages, item, at)
    return messages


def _add_message(messages: list[dict[str, Any]], item: dict[str, Any], at: str) -> None:
    role = item.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        _refuse(f"{at}.role", "messages of user, assistant, system and developer alone")
    if role != "assistant":
        messages.append({"role": _ROLES[role], "content": _content(item.get("content"), f"{at}.content")})
        return
    text = _said(item.get("content"), f"{at}.content")
    if messages and messages[-1].get("tool_calls") and messages[-1]["content"] is None:
        # Nothing may come between a tool's call and its output.
        messages[-1]["content"] = text
    else:
        messages.append({"role": "assistant", "content": text})


def _add_call(messages: list[dict[str, Any]], item: dict[str, Any], at: str) -> None:
    call_id, name, arguments = (_string(item.get(key), f"{at}.{key}") for key in ("call_id", "name", "arguments"))
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": None})
    messages[-1].setdefault("tool_calls", []).append(call)


def _add_output(messages: list[dict[str, Any]], item: dict[str, Any], at: str) -> None:
    content = _content(item.get("output"), f"{at}.output", text_alone=True)
    messages.append({"role": "tool", "tool_call_id": _string(item.get("call_id"), f"{at}.call_id"), "content": content})


_ITEMS: Final[Mapping[str, Callable[[list[dict[str, Any]], dict[str, Any], str], None]]] = {
    "message": _add_message,
    "function_call": _add_call,
    "function_call_output": _add_output,
}


def _content(content: Any, at: str, *, text_alone: bool = False) -> str | list[dict[str, Any]]:
    """A message's content: a text where it is one text, which every LLM takes, else its parts."""
    if isinstance(content, str):
        return content
    parts = [_part(part, f"{at}.{number}") for number, part in enumerate(_list(content, at))]
    for number, part in enumerate(parts):
        if text_alone and part["type"] != "text":
            _refuse(f"{at}.{number}", "nothing but text as a tool's output")
    return str(parts[0]["text"]) if [part["type"] for part in parts] == ["text"] else parts


def _part(part: Any, at: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _TEXT_PARTS:
        return {"type": "text", "text": _string(part.get("text"), f"{at}.text")}
    if kind == "input_image":
        if part.get("image_url") is None:
            _refuse(at, "images by 'image_url' alone")
        image = {"url": _string(part["image_url"], f"{at}.image_url")}
        if part.get("detail") is not None:
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    if kind == "input_file":
        if part.get("file_data") is None:
            _refuse(at, "files by 'file_data' alone")
        return {"type": "file", "file": {name: part[name] for name in ("filename", "file_data") if part.get(name)}}
    if kind == "input_audio":
        return {"type": "input_audio", "input_audio": part.get("input_audio")}
    _refuse(at, f"no content of {_called(kind)}")


def _said(content: Any, at: str) -> str:
    """What the assistant said, refusals included, as one text."""
    if isinstance(content, str):
        return content
    texts = []
    for number, part in enumerate(_list(content, at)):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in (*_TEXT_PARTS, "refusal"):
            _refuse(f"{at}.{number}", f"no content of {_called(kind)} that the assistant said")
        member = "refusal" if kind == "refusal" else "text"
        texts.append(_string(part.get(member), f"{at}.{number}.{member}"))
    return "".join(texts)


def _add_text(chat: dict[str, Any], text: Mapping[str, Any]) -> None:
    if text.get("verbosity") is not None:
        chat["verbosity"] = text["verbosity"]
    asked = _member(text, "format", "text.format")
    kind = asked.get("type", "text")
    if kind == "json_object":
        chat["response_format"] = {"type": "json_object"}
    elif kind == "json_schema":
        names = ("name", "description", "schema", "strict")
        schema = {name: asked[name] for name in names if asked.get(name) is not None}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif kind != "text":
        _refuse("text.format.type", f"no format of {_called(kind)}")


def _add_logprobs(chat: dict[str, Any], given: Mapping[str, Any]) -> None:
    if "top_logprobs" in given:
        chat |= {"logprobs": True, "top_logprobs": given["top_logprobs"]}
    elif "message.output_text.logprobs" in _list(given.get("include", []), "include"):
        chat["logprobs"] = True


def _add_tools(chat: dict[str, Any], given: Mapping[str, Any]) -> None:
    tools = [_tool(tool, f"tools.{number}") for number, tool in enumerate(_list(given.get("tools", []), "tools"))]
    choice = _choice(given.get("tool_choice", "auto"))
    if tools:
        chat["tools"] = tools
        # Of no meaning without tools, and refused then by those who are strict.
        if "parallel_tool_calls" in given:
            chat["parallel_tool_calls"] = given["parallel_tool_calls"]
        if "tool_choice" in given:
            chat["tool_choice"] = choice
    elif choice not in ("auto", "none"):
        _refuse("tool_choice", "no choice among tools where there are none")


def _tool(tool: Any, at: str) -> dict[str, Any]:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind != "function":
        _refuse(f"{at}.type", f"no tool of {_called(kind)}")
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}


def _choice(choice: Any) -> Any:
    if isinstance(choice, str):
        return choice
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "function":
        return _chosen(choice, "tool_choice")
    if kind == "allowed_tools":
        among = _list(choice.get("tools"), "tool_choice.tools")
        tools = [_chosen(tool, f"tool_choice.tools.{number}") for number, tool in enumerate(among)]
        return {"type": kind, kind: {"mode": choice.get("mode", "auto"), "tools": tools}}
    _refuse("tool_choice", f"no choice of {_called(kind)}")


def _chosen(tool: Any, at: str) -> dict[str, Any]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        _refuse(at, "functions to choose from alone")
    return {"type": "function", "function": {"name": _string(tool.get("name"), f"{at}.name")}}


def _member(given: Mapping[str, Any], name: str, at: str | None = None) -> Mapping[str, Any]:
    value = given.get(name)
    if value is not None and not isinstance(value, dict):
        _refuse(at or name, f"only an object as '{at or name}'")
    return value or {}


def _list(value: Any, at: str) -> list[Any]:
    if not isinstance(value, list):
        _refuse(at, f"only a list as '{at}'")
    return value


def _string(value: Any, at: str) -> str:
    if not isinstance(value, str):
        _refuse(at, f"only a text as '{at}'")
    return value


def _called(kind: Any) -> str:
    """The type's name, if it is one and not some text."""
    return f"type '{kind}'" if isinstance(kind, str) and _SAFE_NAME.fullmatch(kind) else "this type"


def _refuse(param: str, what: str) -> NoReturn:
    raise LLMUnsupported(
        f"The LLM speaks chat completions alone (PROMPTQ_LLM_API=chat), which know {what}: '{param}'.", param=param
    )
