"""What a request asks: its prompt value, the hash that names it in the statistics, and its readable text."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

PROMPT_FIELDS = ("input", "messages", "prompt")
CHARACTERS_PER_TOKEN = 4


def canonical_json(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, ASCII only (so that lone surrogates survive)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def prompt_hash(body: Mapping[str, Any]) -> str:
    """Return the 16 hex digits that name a body's `input`, `messages` or `prompt` value in ``GET /stats``."""
    value = next((body[field] for field in PROMPT_FIELDS if field in body), None)
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()[:16]


def count_tokens(text: str) -> int:
    """Return the simulated number of tokens of a text: one for each four characters, at least one."""
    return max(1, -(-len(text) // CHARACTERS_PER_TOKEN))


def conversation_text(value: object) -> str:
    """Return the text of the last user message of a conversation, or the text of all of it when no user speaks."""
    if not isinstance(value, list):
        return content_text(value)
    messages = [item for item in value if isinstance(item, dict)]
    spoken = [message for message in messages if message.get("role") == "user"][-1:]
    return "\n".join(content_text(message.get("content")) for message in spoken or messages)


def content_text(content: object) -> str:
    """Return the text of one message's content: a string, or the text parts of a list joined by line feeds."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return "" if content is None else canonical_json(content)


def split_inputs(value: object) -> list[object]:
    """Return the separate inputs of a string, a list of strings, a list of token ids or a list of such lists."""
    if not isinstance(value, list):
        return [value]
    if value and all(isinstance(item, int) for item in value):
        return [value]
    return value


def input_text(value: object) -> str:
    """Return one of the separate inputs as text; token ids appear as their JSON."""
    return value if isinstance(value, str) else canonical_json(value)
