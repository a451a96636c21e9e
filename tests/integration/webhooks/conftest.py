"""The SDK, a receiver and its endpoint, and an owner without any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
import redis
from flask.testing import FlaskClient

from api.app import create_app
from jobs.settings import Settings
from tests.integration.test_sdk import sdk_on
from tests.integration.webhooks.steps import WebhookSdk, forget_endpoints
from tests.processes import Stack
from tests.receiving import Hook, Receiver, register


@pytest.fixture(params=["sync", "async"])
def sdk(request: pytest.FixtureRequest, stack: Stack) -> Iterator[WebhookSdk]:
    """The SDK on the stack, which tries nothing twice."""
    with sdk_on(stack, request.param, WebhookSdk) as sdk:
        yield sdk


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that answers 200."""
    with Receiver() as listening:
        yield listening


@pytest.fixture
def hook(client: httpx2.Client, receiver: Receiver) -> Hook:
    """An endpoint for all events of the shared stack, which leads to the receiver."""
    return register(client, receiver)


@pytest.fixture(autouse=True)
def no_endpoints(client: httpx2.Client) -> Iterator[None]:
    """The owner of the shared stack has no endpoints, before a test and after it."""
    forget_endpoints(client)
    yield
    forget_endpoints(client)


@pytest.fixture
def api(redis_url: str, redis_client: redis.Redis) -> Callable[..., FlaskClient]:
    """Makes clients of an API of its own with other settings, on an empty database."""

    def make(**settings: Any) -> FlaskClient:
        known = {"api_keys": {}, "api_keys_file": None, "encryption_keys": "", "webhook_allow": ""}
        return create_app(Settings(redis_url=redis_url, **{**known, **settings})).test_client()

    return make
