"""How JSON and identifiers go out on the wire."""

import json
import secrets
from collections.abc import Mapping
from typing import Any

from aiohttp import web

# The default encoder writes ASCII only, so a prompt with a lone surrogate or NUL can be echoed, and an SSE frame
# can't hold a line separator inside its data.
_encoder = json.JSONEncoder(separators=(",", ":"))

JsonObject = dict[str, Any]


def encode(value: object) -> bytes:
    """Return a value as compact ASCII JSON."""
    return _encoder.encode(value).encode("ascii")


def new_id(prefix: str) -> str:
    """Return a fresh identifier such as ``resp_3f…``; the prefix brings its own separator."""
    return prefix + secrets.token_hex(16)


def json_answer(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an HTTP answer with a JSON body."""
    return web.Response(
        body=encode(value), status=status, headers={"Content-Type": "application/json", **(headers or {})}
    )


async def add_request_id(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Give an answer its ``x-request-id`` just before its headers go out."""
    response.headers["x-request-id"] = new_id("req_")
