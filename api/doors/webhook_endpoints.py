"""``/v1/webhook_endpoints``: who is told of the ends of an owner's jobs, in OpenAI's shape."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, jsonify

from api.answers import (
    DeletedWebhookEndpoint,
    WebhookEndpointAnswer,
    WebhookEndpointList,
    WebhookEndpointWithSecret,
    WebhookEventTypeList,
    WebhookTestAnswer,
)
from api.bodies import query, read_object, read_object_or_nothing, validate
from api.doors.ids import known_endpoint_id
from api.intake import webhook_target
from api.openapi import operation
from api.rendering import endpoint_answer, page
from api.requests import EndpointCreate, EndpointTest, EndpointUpdate, PageQuery, RotateSecret
from api.services import owner, services
from jobs.errors import NotFound, WebhookTestFailed
from jobs.webhooks import EVENT_TYPES, Delivery

blueprint = Blueprint("webhook_endpoints", __name__)

#: How long the answer to a test is waited for beyond the longest try (seconds): a worker has to take it first.
_TEST_MARGIN: Final = 5.0


@blueprint.post("/v1/webhook_endpoints")
@operation(
    "Create a webhook endpoint",
    request=(EndpointCreate,),
    answers={200: WebhookEndpointWithSecret},
    errors=(501,),
)
def create() -> Response:
    """Have events sent to a URL. `signing_secret` is shown here and never again."""
    _, sent = read_object()
    asked = validate(EndpointCreate, sent)
    endpoint, secret = services().store.webhooks.create(
        owner(),
        name=asked.name,
        url=asked.url,
        target=webhook_target(asked.url, param="url"),
        event_types=list(dict.fromkeys(asked.event_types)),
    )
    return jsonify({**endpoint_answer(endpoint), "signing_secret": secret})


@blueprint.get("/v1/webhook_endpoints")
@operation("List webhook endpoints", answers={200: WebhookEndpointList}, query=PageQuery, errors=(404,))
def list_() -> Response:
    """Your webhook endpoints, newest first."""
    asked = query(PageQuery)
    found = services().store.webhooks.list(owner())
    if asked.after is not None:
        ids = [endpoint.id for endpoint in found]
        if asked.after not in ids:
            raise NotFound("No webhook endpoint with this id found.", param="after")
        found = found[ids.index(asked.after) + 1 :]
    answers = [endpoint_answer(endpoint) for endpoint in found[: asked.limit]]
    return jsonify(page(answers, has_more=len(found) > asked.limit))


@blueprint.get("/v1/webhook_endpoints/<endpoint_id>")
@operation("Get a webhook endpoint", answers={200: WebhookEndpointAnswer}, errors=(404,))
def get(endpoint_id: str) -> Response:
    """A webhook endpoint, and whether it is disabled."""
    return jsonify(endpoint_answer(services().store.webhooks.get(known_endpoint_id(endpoint_id), owner())))


@blueprint.post("/v1/webhook_endpoints/<endpoint_id>")
@operation("Update a webhook endpoint", request=(EndpointUpdate,), answers={200: WebhookEndpointAnswer}, errors=(404,))
def update(endpoint_id: str) -> Response:
    """Change what is given; `event_types` is the complete set. `enabled` is not in OpenAI's API."""
    _, sent = read_object()
    asked = validate(EndpointUpdate, sent)
    endpoint = services().store.webhooks.update(
        known_endpoint_id(endpoint_id),
        owner(),
        name=asked.name,
        url=asked.url,
        target=None if asked.url is None else webhook_target(asked.url, param="url"),
        event_types=None if asked.event_types is None else list(dict.fromkeys(asked.event_types)),
        enabled=asked.enabled,
    )
    return jsonify(endpoint_answer(endpoint))


@blueprint.delete("/v1/webhook_endpoints/<endpoint_id>")
@operation("Delete a webhook endpoint", answers={200: DeletedWebhookEndpoint}, errors=(404,))
def delete(endpoint_id: str) -> Response:
    """Send nothing more to it; what waits to be sent ends as failed."""
    services().store.webhooks.delete(known_endpoint_id(endpoint_id), owner())
    return jsonify({"id": endpoint_id, "object": "webhook_endpoint.deleted", "deleted": True})


@blueprint.post("/v1/webhook_endpoints/<endpoint_id>/rotate_secret")
@operation(
    "Rotate a webhook endpoint's secret",
    request=(RotateSecret,),
    answers={200: WebhookEndpointWithSecret},
    errors=(404, 501),
)
def rotate_secret(endpoint_id: str) -> Response:
    """Replace the signing secret; with `keep_old_secret_active_for_24_hours`, events carry both signatures."""
    asked = validate(RotateSecret, read_object_or_nothing())
    endpoint, secret = services().store.webhooks.rotate(
        known_endpoint_id(endpoint_id), owner(), keep_old=bool(asked.keep_old_secret_active_for_24_hours)
    )
    return jsonify({**endpoint_answer(endpoint), "signing_secret": secret})


@blueprint.post("/v1/webhook_endpoints/<endpoint_id>/test")
@operation("Test a webhook endpoint", request=(EndpointTest,), answers={200: WebhookTestAnswer}, errors=(404, 502))
def test(endpoint_id: str) -> Response:
    """Send a sample event, once, and answer with the HTTP status that came back; 502 if none did."""
    _, sent = read_object()
    asked = validate(EndpointTest, sent)
    found = services()
    delivery_id = found.store.outbox.post_test(known_endpoint_id(endpoint_id), owner(), asked.event_type)

    def read() -> Delivery:
        return found.store.outbox.get(delivery_id, owner())

    timeout = found.settings.webhook_timeout + _TEST_MARGIN
    delivery = found.waiter.wait(delivery_id, read, timeout=timeout, stop=found.stopping.is_set)
    last = delivery.tries[-1] if delivery.tries else None
    if last is None or last["status_code"] is None:
        why = (last or {}).get("detail") or "no worker has sent it yet"
        raise WebhookTestFailed(f"The endpoint gave no answer: {why}. See /v1/webhook_deliveries/{delivery_id}.")
    return jsonify(
        {
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": endpoint_id,
            "event_type": asked.event_type,
            "status_code": last["status_code"],
            "success": True,
        }
    )


@blueprint.get("/v1/webhook_event_types")
@operation("List webhook event types", answers={200: WebhookEventTypeList})
def event_types() -> Response:
    """The events that endpoints can have. A job of any endpoint ends in one of `response.…`."""
    return jsonify({"object": "list", "data": list(EVENT_TYPES)})
