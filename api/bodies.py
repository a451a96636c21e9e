"""Reading a request: strict JSON, sizes, and the models that say what is in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from flask import request
from pydantic import BaseModel, ValidationError

from api.errors import first_problem
from jobs import strict_json
from jobs.errors import InvalidRequest, PayloadTooLarge

M = TypeVar("M", bound=BaseModel)


def read_object() -> tuple[bytes, dict[str, Any]]:
    """The request's body, as bytes and as a JSON object. Raises ``InvalidRequest``, or werkzeug's 413.

    Any content type will do. ``NaN`` and ``Infinity``, which Python would take, are not JSON (RFC 8259, 6).
    """
    raw = request.get_data(cache=False)
    try:
        parsed = strict_json.loads(raw)
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not valid UTF-8.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequest(f"The body is not valid JSON: {error.msg} ({where}).") from None
    except ValueError:
        raise InvalidRequest("The body is not JSON that can be read: a number or the nesting goes too far.") from None
    if not isinstance(parsed, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return raw, parsed


def read_object_or_nothing() -> dict[str, Any]:
    """The request's body as a JSON object; an empty one where there is no body. Raises as ``read_object`` does."""
    return read_object()[1] if request.get_data() else {}


def validate(model: type[M], value: object, *, prefix: str = "") -> M:
    """The value as the model. Raises ``InvalidRequest`` that names the first thing wrong, below ``prefix``."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise first_problem(error, value, prefix=prefix) from None


def query(model: type[M]) -> M:
    """The query string as the model; what the model does not know is passed over, as OpenAI does."""
    known = {name: value for name, value in request.args.items() if name in model.model_fields}
    try:
        return model.model_validate_strings(known)
    except ValidationError as error:
        raise first_problem(error, known) from None


def form(model: type[M], fields: Mapping[str, str]) -> M:
    """The fields of a form as the model. Raises ``InvalidRequest`` that names the first thing wrong."""
    try:
        return model.model_validate_strings(fields)
    except ValidationError as error:
        raise first_problem(error, fields) from None


def dump(value: object, what: str = "body") -> bytes:
    """The value as compact JSON bytes; any text survives, lone surrogates included. Raises ``InvalidRequest``."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
    except (ValueError, RecursionError):
        raise InvalidRequest(f"A number or the nesting in '{what}' goes too far.", param=what) from None


def check_prompt_size(body: dict[str, Any], limit: int, raw_size: int, *, prefix: str = "") -> None:
    """Raise ``PayloadTooLarge`` if the prompt, as JSON, has more than ``limit`` bytes."""
    if raw_size <= limit:
        return
    for name in ("input", "messages", "prompt"):
        if name in body and len(json.dumps(body[name], ensure_ascii=False).encode("utf-8", "surrogatepass")) > limit:
            raise PayloadTooLarge(
                f"The prompt has more than {limit} bytes (PROMPTQ_MAX_PROMPT_BYTES).", param=prefix + name
            )
