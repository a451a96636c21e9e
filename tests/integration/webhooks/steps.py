"""What the tests of webhooks share: names, the SDK, and what an owner and a receiver do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import openai
import pytest
import standardwebhooks
from openai.types import webhooks as types

from tests.integration.test_sdk import Sdk
from tests.processes import eventually
from tests.receiving import Hook, Request

EVENTS = ["response.completed", "response.failed", "response.cancelled", "response.incomplete"]
ALL_EVENTS = [*EVENTS, "batch.completed", "batch.failed", "batch.cancelled", "batch.expired"]
TYPED = {
    "response.completed": types.ResponseCompletedWebhookEvent,
    "response.failed": types.ResponseFailedWebhookEvent,
    "response.cancelled": types.ResponseCancelledWebhookEvent,
    "response.incomplete": types.ResponseIncompleteWebhookEvent,
}
SIGNED = ("webhook-id", "webhook-timestamp", "webhook-signature")
GOOD: Mapping[str, Any] = {"name": "n", "url": "http://127.0.0.1:9/", "event_types": EVENTS}


class WebhookSdk(Sdk):
    """The SDK, whose ``unwrap`` awaits nothing in either variant."""

    def unwrap(self, request: Request, secret: str) -> Any:
        """What the SDK makes of a request."""
        return self._client.webhooks.unwrap(request.body, request.headers, secret=secret)


def forget_endpoints(client: httpx2.Client) -> None:
    """Delete the owner's endpoints."""
    for endpoint in client.get("/v1/webhook_endpoints", params={"limit": 100}).raise_for_status().json()["data"]:
        client.delete(f"/v1/webhook_endpoints/{endpoint['id']}").raise_for_status()


def owners_secret(client: httpx2.Client) -> str:
    """The owner's webhook secret; a new one if it was shown before."""
    shown = client.post("/v1/webhook_secret")
    if shown.status_code == 409:
        shown = client.post("/v1/webhook_secret/rotate")
    assert shown.status_code == 200, shown.text
    return str(shown.json()["signing_secret"])


def deliveries(client: httpx2.Client, **params: str | int) -> list[dict[str, Any]]:
    """The owner's deliveries."""
    found = client.get("/v1/webhook_deliveries", params=params)
    assert found.status_code == 200, found.text
    return list(found.json()["data"])


def delivery(client: httpx2.Client, hook: Hook, job_id: str, status: str, **params: str) -> dict[str, Any]:
    """The delivery about a job to an endpoint, once it has this status."""

    def found() -> list[dict[str, Any]]:
        listed = deliveries(client, endpoint=hook.endpoint_id, limit=100, **params)
        return [one for one in listed if one["data"]["id"] == job_id and one["status"] == status]

    (one,) = eventually(found, lambda ones: len(ones) == 1)
    return one


def is_error(answer: Any, status: int, code: str, param: str | None = None) -> bool:
    """Whether the answer is this error in OpenAI's shape."""
    error = answer.json()["error"] if hasattr(answer, "is_error") else answer.json["error"]
    found = (answer.status_code, error["code"], error["param"])
    assert found == (status, code, param), error
    return True


def refused(request: Request, secret: str, **changes: str) -> bool:
    """Whether both verifiers refuse the request with these headers changed, or another ``body``."""
    body = changes.pop("body", request.body.decode())
    headers = {**request.headers, **{name.replace("_", "-"): value for name, value in changes.items()}}
    with openai.OpenAI(api_key="unused") as client, pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.verify_signature(body, headers, secret=secret)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(secret).verify(body, headers)
    return True
