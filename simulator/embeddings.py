"""The Embeddings API: unit vectors that depend on nothing but the input."""

import base64
import hashlib
import struct

from simulator.calls import Call, required
from simulator.errors import invalid_request
from simulator.prompts import canonical_json, count_tokens, input_text, split_inputs
from simulator.wire import JsonObject

DEFAULT_DIMENSIONS = 8
MAX_DIMENSIONS = 4096


def replies(call: Call) -> list[str]:
    """Return nothing, for vectors cost no output tokens; raises ApiError when the parameters can't be right."""
    if not split_inputs(required(call.body, "input")):
        raise invalid_request("'input' can't be an empty array.", param="input")
    if call.body.get("encoding_format") not in (None, "float", "base64"):
        raise invalid_request("'encoding_format' must be 'float' or 'base64'.", param="encoding_format")
    _dimensions(call)
    return []


def answer(call: Call, texts: list[str]) -> JsonObject:
    """Return the list of embeddings, one for each input, in the encoding that the client asked for."""
    inputs = split_inputs(call.body["input"])
    as_base64 = call.body.get("encoding_format") == "base64"
    dimensions = _dimensions(call)
    data = []
    for index, item in enumerate(inputs):
        packed = vector_bytes(item, dimensions)
        embedding = base64.b64encode(packed).decode("ascii") if as_base64 else struct.unpack(f"<{dimensions}f", packed)
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    tokens = sum(len(item) if isinstance(item, list) else count_tokens(input_text(item)) for item in inputs)
    return {
        "object": "list",
        "data": data,
        "model": call.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def vector_bytes(item: object, dimensions: int) -> bytes:
    """Return the vector of one input as little-endian 32-bit floats; its length is 1."""
    digest = hashlib.shake_256(canonical_json(item).encode("ascii")).digest(4 * dimensions)
    # An odd number is never 0, so the vector always has a length to divide by.
    raw = [(number | 1) / 2**31 for number in struct.unpack(f"<{dimensions}i", digest)]
    length = sum(value * value for value in raw) ** 0.5
    return struct.pack(f"<{dimensions}f", *(value / length for value in raw))


def _dimensions(call: Call) -> int:
    dimensions = call.body.get("dimensions")
    if dimensions is None:
        return DEFAULT_DIMENSIONS
    if not isinstance(dimensions, int) or not 1 <= dimensions <= MAX_DIMENSIONS:
        raise invalid_request(f"'dimensions' must be an integer from 1 to {MAX_DIMENSIONS}.", param="dimensions")
    return dimensions
