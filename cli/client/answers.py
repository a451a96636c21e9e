"""The text in an LLM's answer, whichever endpoint gave it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def text_of(result: Any) -> str | None:
    """Return the text of a chat completion, completion, response or list of embeddings; None for anything else.

    Several choices are separated by an empty line. Embeddings give a summary, since nobody reads a vector.
    """
    if not isinstance(result, dict):
        return None
    if result.get("object") == "list":
        return _embeddings(_dicts(result.get("data")))
    texts = list(_choices(result)) if "choices" in result else list(_output(result))
    return "\n\n".join(texts) if texts else None


def _choices(result: dict[str, Any]) -> Iterator[str]:
    for choice in _dicts(result.get("choices")):
        message = choice.get("message")
        if isinstance(message, dict):
            said = message.get("content") if message.get("content") is not None else message.get("refusal")
        else:
            said = choice.get("text")
        if isinstance(said, str):
            yield said


def _output(result: dict[str, Any]) -> Iterator[str]:
    for item in _dicts(result.get("output")):
        texts = [part.get("text") or part.get("refusal") for part in _dicts(item.get("content"))]
        said = "".join(text for text in texts if isinstance(text, str))
        # A reasoning item's content is how the model got there, not what it answers.
        if said and item.get("type") == "message":
            yield said


def _embeddings(rows: list[dict[str, Any]]) -> str | None:
    vectors = [row["embedding"] for row in rows if "embedding" in row]
    if not vectors:
        return None
    count = f"{len(vectors)} embedding" + ("s" if len(vectors) != 1 else "")
    if not isinstance(vectors[0], list):
        return f"{count}, base64 (--json shows them)"
    start = ", ".join(f"{number:.4g}" for number in vectors[0][:4])
    return f"{count} of {len(vectors[0])} dimensions, the first [{start}, ...] (--json shows them)"


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
