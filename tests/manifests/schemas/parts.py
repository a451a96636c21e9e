"""What schemas are made of.

Each object must have no other field than those that are named, so that a misspelt one is found.
"""

from __future__ import annotations

from typing import Any, Final


def record(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def several(items: Any) -> dict[str, Any]:
    """A list of one or more."""
    return {"type": "array", "items": items, "minItems": 1}


TEXT: Final = {"type": "string", "minLength": 1}
PORT: Final = {"type": "integer", "minimum": 1, "maximum": 65535}
DURATION: Final = {"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
MAP: Final = {"type": "object", "additionalProperties": {"type": "string"}}
METADATA: Final = record(["name", "namespace", "labels"], name=TEXT, namespace=TEXT, labels=MAP, annotations=MAP)


def kind(api_version: str, name: str, spec: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """A kind with a spec, by the version of its API and its name: what ``SCHEMAS`` is made of."""
    schema = record(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": api_version},
        kind={"const": name},
        metadata=METADATA,
        spec=spec,
    )
    return {(api_version, name): schema}
