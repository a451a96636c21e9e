"""``create_app``: the API, wired here and nowhere else."""

from __future__ import annotations

import secrets
import time

import structlog
from flask import Flask, Response, g, request

from api import errors
from api.access import KeyRing
from api.doors import (
    batches,
    completions,
    dead_letters,
    documents,
    files,
    generate,
    health,
    jobs,
    models,
    queues,
    responses,
    webhook_deliveries,
    webhook_endpoints,
    webhook_secret,
)
from api.metrics import Metrics
from api.models_proxy import ModelsProxy
from api.services import Services
from api.synchronous import ClientGone, client_gone_response
from api.waiting import Waiter
from api.wakeups import Wakeups
from jobs.batch_store import BatchRules
from jobs.broker import MessageMaker, make_celery
from jobs.files import FileStore
from jobs.redis_clients import api_client, listener_client
from jobs.scripts import Scripts
from jobs.sealing import Sealer
from jobs.settings import Settings
from jobs.storage import open_storage
from jobs.store import JobStore
from jobs.threads import OffTheLoop
from jobs.tracing import Tracing

_log = structlog.get_logger("promptq.api")
_DOORS = (
    *(jobs, dead_letters, queues, responses, completions, generate, models, files, batches),
    *(webhook_endpoints, webhook_secret, webhook_deliveries, health, documents),
)
_WITHOUT_KEY = frozenset(
    {"health.healthz", "health.readyz", "health.metrics", "documents.openapi", "documents.docs", "static"}
)


def create_app(settings: Settings | None = None, tracing: Tracing | None = None) -> Flask:
    """A WSGI app with these settings, by default the environment's. Nothing is connected until it is used.

    ``tracing``: where spans go; by default nowhere.
    """
    settings, tracing = settings or Settings(), tracing or Tracing()
    app = Flask(__name__, static_folder=None)
    if tracing.provider is not None:
        # Before all else: what refuses a request shall do so within its span.
        from opentelemetry.instrumentation.flask import FlaskInstrumentor  # an extra

        FlaskInstrumentor().instrument_app(  # type: ignore[no-untyped-call]
            app, tracer_provider=tracing.provider, excluded_urls="/healthz$,/readyz$,/metrics$"
        )
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]  # it is Flask's default provider, which has it
    client = api_client(settings)
    store = JobStore(
        client,
        MessageMaker(make_celery(settings)),
        result_ttl=settings.result_ttl,
        fsync=settings.durability == "fsync",
        sealer=Sealer.from_settings(settings),
        batch_rules=BatchRules.from_settings(settings),
    )
    services = Services(
        settings=settings,
        store=store,
        files=FileStore(
            client,
            Scripts(client),
            open_storage(settings, offload=OffTheLoop()),
            fsync=settings.durability == "fsync",
        ),
        keys=KeyRing(settings),
        waiter=Waiter(listener_client(settings)),
        wakeups=Wakeups(listener_client(settings)),
        models=ModelsProxy(settings),
        metrics=Metrics(),
        tracing=tracing,
    )
    app.extensions["promptq"] = services
    for door in _DOORS:
        app.register_blueprint(door.blueprint)
    errors.install(app)
    app.register_error_handler(ClientGone, lambda _: client_gone_response())

    @app.before_request
    def begin() -> None:
        g.began = time.perf_counter()
        g.request_id = f"req_{secrets.token_hex(16)}"
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=g.request_id)
        if request.endpoint not in _WITHOUT_KEY:
            g.owner = services.keys.owner_of(request)

    @app.after_request
    def end(response: Response) -> Response:
        seconds = time.perf_counter() - g.began
        # The rule, not the path: a path can be anything, and has ids in it.
        route = request.url_rule.rule if request.url_rule else "unknown"
        method = request.method if request.url_rule else "unknown"
        services.metrics.answered(method, route, response.status_code, seconds)
        response.headers["x-request-id"] = g.request_id
        if "job_id" in g:
            response.headers["x-promptq-job-id"] = g.job_id
        log = _log.debug if request.endpoint in _WITHOUT_KEY else _log.info
        log(
            "http.request",
            method=request.method,
            route=route,
            status=response.status_code,
            seconds=round(seconds, 4),
            owner=g.get("owner"),
        )
        return response

    return app
