"""``/healthz``, ``/readyz`` and ``/metrics``: for probes and Prometheus, without a key."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from api.answers import Health
from api.metrics import CONTENT_TYPE
from api.openapi import operation
from api.services import services
from jobs.errors import NotFound, Unavailable

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
@operation("Is the process alive?", answers={200: Health}, public=True)
def healthz() -> Response:
    """Answers without Redis: a Redis that is away is no reason to restart the API."""
    return jsonify({"status": "ok"})


@blueprint.get("/readyz")
@operation("Should requests be sent here?", answers={200: Health}, public=True, errors=(503,))
def readyz() -> Response:
    """Ready while Redis answers and the process is not shutting down."""
    if services().stopping.is_set():
        raise Unavailable("The server is shutting down.")
    services().store.ping()
    return jsonify({"status": "ok"})


@blueprint.get("/metrics")
@operation("Metrics for Prometheus", answers={200: str}, public=True, errors=(404,))
def metrics() -> Response:
    """Prometheus' text format. Not here where metrics have a port of their own (`PROMPTQ_METRICS_PORT`)."""
    if services().settings.metrics_port is not None:
        raise NotFound("Metrics have a port of their own here.")
    return Response(services().metrics.expose(), content_type=CONTENT_TYPE)
