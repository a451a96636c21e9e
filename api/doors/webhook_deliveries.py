"""``/v1/webhook_deliveries``: what became of each event, try by try."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from api.answers import WebhookDeliveryAnswer, WebhookDeliveryList
from api.bodies import query
from api.doors.ids import known_delivery_id, known_endpoint_id
from api.openapi import operation
from api.rendering import delivery_answer, page
from api.requests import DeliveriesQuery
from api.services import owner, services
from jobs.webhooks import DeliveryStatus

blueprint = Blueprint("webhook_deliveries", __name__)


@blueprint.get("/v1/webhook_deliveries")
@operation("List webhook deliveries", answers={200: WebhookDeliveryList}, query=DeliveriesQuery, errors=(404,))
def list_() -> Response:
    """Your webhook deliveries, newest first, with every try. Kept as long as a job's result."""
    asked = query(DeliveriesQuery)
    endpoint = asked.endpoint
    found = services().store.outbox.list(
        owner(),
        endpoint=endpoint if endpoint in (None, "job") else known_endpoint_id(endpoint, param="endpoint"),
        statuses=[asked.status] if asked.status else tuple(DeliveryStatus),
        limit=asked.limit,
        after=known_delivery_id(asked.after, param="after") if asked.after is not None else None,
    )
    return jsonify(page([delivery_answer(one) for one in found.deliveries], has_more=found.has_more))


@blueprint.get("/v1/webhook_deliveries/<delivery_id>")
@operation("Get a webhook delivery", answers={200: WebhookDeliveryAnswer}, errors=(404,))
def get(delivery_id: str) -> Response:
    """One delivery, with every try."""
    return _answer(known_delivery_id(delivery_id))


@blueprint.post("/v1/webhook_deliveries/<delivery_id>/redeliver")
@operation("Send a webhook again", answers={200: WebhookDeliveryAnswer}, errors=(404, 409))
def redeliver(delivery_id: str) -> Response:
    """Send it again, now, under the same `webhook-id`, whatever became of it. One that is being sent stays as it is."""
    services().store.outbox.redeliver(known_delivery_id(delivery_id), owner())
    return _answer(delivery_id)


def _answer(delivery_id: str) -> Response:
    return jsonify(delivery_answer(services().store.outbox.get(delivery_id, owner())))
