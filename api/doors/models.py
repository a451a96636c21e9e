"""``/v1/models``: the LLM's own."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from api.answers import LLMAnswer, ModelList
from api.openapi import operation
from api.services import services
from jobs.errors import NotFound

blueprint = Blueprint("models", __name__)


@blueprint.get("/v1/models")
@operation("List models", answers={200: ModelList}, errors=(502, 504))
def list_() -> Response:
    """The LLM's models; asked anew at most every `PROMPTQ_MODELS_CACHE_SECONDS`."""
    return jsonify(services().models.list())


@blueprint.get("/v1/models/<path:name>")
@operation("Get a model", answers={200: LLMAnswer}, errors=(404, 502, 504))
def get(name: str) -> Response:
    """One of the LLM's models."""
    model = services().models.get(name)
    if model is None:
        raise NotFound("The LLM has no model of this name.", param="model")
    return jsonify(model)
