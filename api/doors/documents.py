"""``/openapi.json`` and ``/docs``: what this API is, for programs and for people."""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, Response, current_app, jsonify, render_template, url_for
from markupsafe import Markup, escape

from api.openapi import document

blueprint = Blueprint("documents", __name__)


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """The OpenAPI 3.1 document."""
    return jsonify(document(current_app))


@blueprint.get("/docs")
def docs() -> str:
    """The same on one page, with nothing fetched from elsewhere."""
    described = document(current_app)
    return render_template(
        "docs.html", api=described, type_of=type_of, prose=prose, openapi=url_for("documents.openapi")
    )


def prose(text: str) -> Markup:
    """A docstring as HTML: what stands in backticks is code."""
    return Markup(re.sub(r"`+([^`]+)`+", r"<code>\1</code>", str(escape(text))))  # noqa: S704  # it is escaped before


def type_of(schema: dict[str, Any]) -> str:
    """A schema's type in a few words, with the names of the models that it refers to."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " | ".join(type_of(branch) for branch in schema[union])
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    return str(schema.get("type", "any"))
