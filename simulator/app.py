"""The web application: which route does what.

POST ``/v1/responses``, ``/v1/chat/completions``, ``/v1/completions``, ``/v1/embeddings``: the calls.
GET ``/v1/models``, ``/v1/models/{id}``: the simulator's models; any other name is a model too.
GET ``/arrivals``: when each prompt's first call came, where the settings ask for that.
GET ``/stats``, POST ``/stats/reset``: what the simulator saw, see `simulator.stats`.
``GET /stats?detail=false``: the totals alone.
POST ``/control``: changes the fields of `simulator.settings.Settings` at run time and answers with all of them.
GET ``/healthz``: 200 while the process serves, even when it plays dead under ``/v1``.
"""

import json
from dataclasses import asdict
from http import HTTPStatus
from random import Random

from aiohttp import web
from aiohttp.typedefs import Handler

from simulator.behaviour import MODELS
from simulator.endpoints import SHAPES, Endpoint
from simulator.errors import INVALID, ApiError, error_answer, invalid_request, overloaded
from simulator.settings import Settings
from simulator.stats import Stats
from simulator.wire import JsonObject, add_request_id, json_answer

MAX_BODY_BYTES = 64 * 1024 * 1024


def create_app(settings: Settings, *, seed: int | None = None) -> web.Application:
    """Return the application; the seed makes the choice of the calls that the error rate hits repeatable."""
    stats, chance = Stats(), Random(seed)
    admin = _Admin(settings, stats)
    app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors_in_openai_shape])
    for shape in SHAPES:
        app.router.add_post(shape.path, Endpoint(shape, settings, stats, chance).post)
    app.router.add_get("/v1/models", admin.list_models)
    app.router.add_get("/v1/models/{id:.+}", admin.get_model)
    app.router.add_get("/stats", admin.get_stats)
    app.router.add_get("/arrivals", admin.get_arrivals)
    app.router.add_post("/stats/reset", admin.reset_stats)
    app.router.add_post("/control", admin.control)
    app.router.add_get("/healthz", admin.healthz)
    app.on_response_prepare.append(add_request_id)
    return app


@web.middleware
async def _errors_in_openai_shape(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return error_answer(error)
    except web.HTTPException as error:
        message = f"{HTTPStatus(error.status).phrase} ({request.method} {request.path})"
        return error_answer(ApiError(error.status, message, type=INVALID))


class _Admin:
    """Answers everything but the calls."""

    def __init__(self, settings: Settings, stats: Stats) -> None:
        self._settings = settings
        self._stats = stats

    async def list_models(self, request: web.Request) -> web.Response:
        self._check_up()
        return json_answer({"object": "list", "data": [_model(name) for name in MODELS]})

    async def get_model(self, request: web.Request) -> web.Response:
        self._check_up()
        return json_answer(_model(request.match_info["id"]))

    async def get_stats(self, request: web.Request) -> web.Response:
        return json_answer(self._stats.snapshot(detail=request.query.get("detail") != "false"))

    async def get_arrivals(self, request: web.Request) -> web.Response:
        return json_answer(self._stats.arrivals)

    async def reset_stats(self, request: web.Request) -> web.Response:
        self._stats.reset()
        return json_answer(self._stats.snapshot())

    async def control(self, request: web.Request) -> web.Response:
        try:
            changes = json.loads(await request.read())
            if not isinstance(changes, dict):
                raise ValueError("the body must be a JSON object")
            self._settings.update(changes)
        except ValueError as error:
            raise invalid_request(str(error)) from error
        return json_answer(asdict(self._settings))

    async def healthz(self, request: web.Request) -> web.Response:
        return json_answer({"status": "ok"})

    def _check_up(self) -> None:
        if self._settings.down:
            raise overloaded()


def _model(name: str) -> JsonObject:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "simulator"}
