"""``/v1/webhook_secret``: the owner's secret, by which webhooks to a job's own ``webhook_url`` are signed."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify

from api.answers import WebhookSecretAnswer, WebhookSecretShown
from api.bodies import read_object_or_nothing, validate
from api.openapi import operation
from api.requests import RotateSecret
from api.services import owner, services
from jobs.errors import NotFound

blueprint = Blueprint("webhook_secret", __name__)


@blueprint.get("/v1/webhook_secret")
@operation("Get the webhook secret's hint", answers={200: WebhookSecretAnswer}, errors=(404,))
def get() -> Response:
    """What may be shown of your webhook secret at any time. The first job with a `webhook_url` makes it."""
    return jsonify(_about())


@blueprint.post("/v1/webhook_secret")
@operation("Show the webhook secret once", answers={200: WebhookSecretShown}, errors=(409, 501))
def show() -> Response:
    """Your webhook secret, made if there is none yet. It is shown once; a second time is a 409."""
    secret = services().store.webhooks.reveal_owner_secret(owner())
    return jsonify({**_about(), "signing_secret": secret})


@blueprint.post("/v1/webhook_secret/rotate")
@operation("Rotate the webhook secret", request=(RotateSecret,), answers={200: WebhookSecretShown}, errors=(404, 501))
def rotate() -> Response:
    """Replace it. With `keep_old_secret_active_for_24_hours`, webhooks carry both signatures until then."""
    asked = validate(RotateSecret, read_object_or_nothing())
    keep_old = bool(asked.keep_old_secret_active_for_24_hours)
    secret = services().store.webhooks.rotate_owner_secret(owner(), keep_old=keep_old)
    return jsonify({**_about(), "signing_secret": secret})


def _about() -> dict[str, Any]:
    found = services().store.webhooks.owner_secret(owner())
    if found is None:
        raise NotFound("There is no webhook secret yet: POST /v1/webhook_secret makes it.")
    return {
        "object": "webhook_secret",
        "signing_secret_hint": found.hint,
        "created_at": int(found.created_at),
        "updated_at": int(found.updated_at),
    }
