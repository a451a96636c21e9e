"""The OpenAPI 3.1 document, made from the models that validate requests and describe answers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeGuard, TypeVar

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.answers import ErrorAnswer
from jobs import __version__

View = TypeVar("View", bound=Callable[..., Any])
Answers = Mapping[int, type[BaseModel] | type[str] | type[bytes]]

_ATTRIBUTE: Final = "__promptq_operation__"
_REF: Final = "#/components/schemas/{model}"
#: One server-sent event: OpenAPI 3.1 has no word for a row of them.
_EVENT: Final = {
    "type": "object",
    "description": "Server-sent events, as OpenAI sends them; `data` is JSON, or `[DONE]` behind the last chunk.",
    "required": ["data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}
#: The LLM's own refusals, relayed to a caller who waits for its answer, and what stands for an LLM that gave none.
_RELAYED: Final = (400, 401, 403, 404, 408, 409, 422, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What the document says of one view."""

    summary: str
    request: tuple[type[BaseModel], ...] = ()
    #: The fields of a form, where the view takes one.
    form: type[BaseModel] | None = None
    answers: Answers
    query: type[BaseModel] | None = None
    #: Whether the view makes a job or a file, and so takes an ``Idempotency-Key``.
    idempotent: bool = False
    #: Whether the view takes ``Prefer: respond-async``.
    prefer_async: bool = False
    #: Whether the view waits for the LLM's answer and relays its refusals.
    waits: bool = False
    #: Whether the view can answer with server-sent events instead.
    streams: bool = False
    #: Whether the view needs no key.
    public: bool = False
    #: Statuses of its own errors, beside those that any view may have.
    errors: tuple[int, ...] = ()


def operation(summary: str, **about: Any) -> Callable[[View], View]:
    """Describe a view for the document; the rest of ``Operation`` by name. Its docstring is the description."""

    def note(view: View) -> View:
        setattr(view, _ATTRIBUTE, Operation(summary=summary, **about))
        return view

    return note


def document(app: Flask) -> dict[str, Any]:
    """The document of all views of the app that are described."""
    found = [
        (rule, getattr(app.view_functions[rule.endpoint], _ATTRIBUTE))
        for rule in app.url_map.iter_rules()
        if hasattr(app.view_functions[rule.endpoint], _ATTRIBUTE)
    ]
    models = _models([about for _, about in found])
    _, definitions = models_json_schema([(model, mode) for model, mode in models], ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for rule, about in found:
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        view = app.view_functions[rule.endpoint]
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            paths.setdefault(path, {})[method.lower()] = {
                "operationId": rule.endpoint.replace(".", "_").rstrip("_"),
                "tags": [rule.endpoint.partition(".")[0]],
                **_describe(about, view, sorted(rule.arguments)),
            }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "PromptQ",
            "version": __version__,
            "summary": "A queue-based job service for LLM prompts, with OpenAI's asynchronous API.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        # An open server on loopback takes any key or none.
        "security": [{"key": []}, {}],
    }


def _models(operations: list[Operation]) -> list[tuple[type[BaseModel], Any]]:
    found: dict[tuple[type[BaseModel], str], None] = {(ErrorAnswer, "serialization"): None}
    for about in operations:
        found |= {(model, "validation"): None for model in _requests(about)}
        found |= {(model, "serialization"): None for model in about.answers.values() if _is_model(model)}
    return list(found)


def _requests(about: Operation) -> tuple[type[BaseModel], ...]:
    return about.request if about.form is None else (about.form,)


def _is_model(model: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(model, type) and issubclass(model, BaseModel)


def _describe(about: Operation, view: Callable[..., Any], path_parameters: list[str]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "summary": about.summary,
        "description": inspect.getdoc(view) or "",
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path_parameters
        ]
        + _query(about.query)
        + _headers(about),
        "responses": _responses(about),
    }
    if about.public:
        described["security"] = []
    if requests := _requests(about):
        references = [{"$ref": _REF.format(model=model.__name__)} for model in requests]
        schema = references[0] if len(references) == 1 else {"anyOf": references}
        media = "application/json" if about.form is None else "multipart/form-data"
        described["requestBody"] = {"required": True, "content": {media: {"schema": schema}}}
    return described


def _query(model: type[BaseModel] | None) -> list[dict[str, Any]]:
    if model is None:
        return []
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    return [
        {"name": name, "in": "query", "required": False, "schema": _query_schema(described, definitions)}
        for name, described in schema["properties"].items()
    ]


def _query_schema(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A query parameter's schema: a string cannot be null, and references are few enough to be written out."""
    branches = [branch for branch in schema.get("anyOf", [schema]) if branch.get("type") != "null"]
    chosen = dict(branches[0])
    if "$ref" in chosen:
        chosen = dict(definitions[chosen["$ref"].rpartition("/")[2]])
    if "description" in schema:
        chosen["description"] = schema["description"]
    chosen.pop("title", None)
    return chosen


def _headers(about: Operation) -> list[dict[str, Any]]:
    headers: list[dict[str, Any]] = []
    if about.idempotent:
        text = "The same key with the same request gives the same again; with another request, 409."
        key = {"type": "string", "minLength": 1, "maxLength": 255}
        headers.append({"name": "Idempotency-Key", "in": "header", "description": text, "schema": key})
    if about.prefer_async:
        prefer = {"type": "string", "examples": ["respond-async"]}
        headers.append({"name": "Prefer", "in": "header", "schema": prefer, "description": "respond-async: a 202."})
    return headers


def _responses(about: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, model in about.answers.items():
        responses[str(status)] = {"description": HTTPStatus(status).phrase}
        if model is str:
            responses[str(status)]["content"] = {"text/plain": {"schema": {"type": "string"}}}
        elif model is bytes:
            content = {"schema": {"type": "string", "format": "binary"}}
            responses[str(status)]["content"] = {"application/octet-stream": content}
        elif _is_model(model):
            responses[str(status)]["content"] = _json(model.__name__)
    if about.streams:
        responses["200"]["content"]["text/event-stream"] = {"schema": _EVENT}
    statuses = {*about.errors}
    if not about.public:
        statuses |= {400, 401, 403, 503}
    if about.idempotent:
        statuses |= {409, 413}
    if about.waits:
        statuses |= set(_RELAYED)
    for status in sorted(statuses):
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": _json(ErrorAnswer.__name__)}
    return responses


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF.format(model=name)}}}
