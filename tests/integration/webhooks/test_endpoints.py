"""Endpoints as the SDK makes, lists, changes and tests them."""

from __future__ import annotations

import base64
import time

import openai
import pytest
from openai.types import webhooks as types

from tests.integration.webhooks.steps import ALL_EVENTS, EVENTS, WebhookSdk
from tests.receiving import Receiver, Reply


def test_endpoints_are_made_read_changed_and_deleted(sdk: WebhookSdk, receiver: Receiver) -> None:
    """An endpoint is made, retrieved, updated and deleted as the SDK types it, and shows its secret only at first."""
    before = int(time.time())
    url = receiver.url("/a?b=c")
    made = sdk(lambda client: client.webhooks.create(name="first", url=url, event_types=EVENTS[:2]))
    assert isinstance(made, types.WebhookEndpointWithSecret)
    assert made.id.startswith("we_")
    assert (made.object, made.name, made.url, made.event_types) == ("webhook_endpoint", "first", url, EVENTS[:2])
    assert before - 30 <= made.created_at == made.updated_at <= time.time() + 30
    kind, _, encoded = made.signing_secret.partition("_")
    assert (kind, len(base64.b64decode(encoded))) == ("whsec", 32)
    assert made.signing_secret_hint == f"whsec_...{made.signing_secret[-4:]}"

    found = sdk(lambda client: client.webhooks.retrieve(made.id))
    assert isinstance(found, types.WebhookEndpoint)
    shown = {name: value for name, value in made.to_dict().items() if name != "signing_secret"}
    assert found.to_dict() == shown
    assert (shown["enabled"], shown["disabled_at"], shown["disabled_reason"]) == (True, None, None)

    moved = receiver.url("/elsewhere")
    changed = sdk(
        lambda client: client.webhooks.update(made.id, name="second", url=moved, event_types=["response.failed"])
    )
    assert (changed.name, changed.url, changed.event_types) == ("second", moved, ["response.failed"])
    assert "signing_secret" not in changed.to_dict()
    assert sdk(lambda client: client.webhooks.update(made.id, name="third")).event_types == ["response.failed"]
    assert "signing_secret" not in sdk(lambda client: client.webhooks.list()).data[0].to_dict()

    gone = sdk(lambda client: client.webhooks.delete(made.id))
    assert (gone.id, gone.object, gone.deleted) == (made.id, "webhook_endpoint.deleted", True)
    for call in (
        lambda client: client.webhooks.retrieve(made.id),
        lambda client: client.webhooks.update(made.id, name="fourth"),
        lambda client: client.webhooks.delete(made.id),
        lambda client: client.webhooks.rotate_secret(made.id),
        lambda client: client.webhooks.test(made.id, event_type="response.completed"),
        lambda client: client.webhooks.list(after=made.id),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            sdk(call)
        assert caught.value.code == "not_found"


def test_endpoints_are_listed_in_pages(sdk: WebhookSdk, receiver: Receiver) -> None:
    """A list is newest first, and the SDK's pager walks it page by page."""
    ids = []
    for number in range(5):
        url = receiver.url(f"/{number}")
        made = sdk(lambda client, url=url: client.webhooks.create(name="n", url=url, event_types=EVENTS))
        ids.append(made.id)
    page = sdk(lambda client: client.webhooks.list(limit=2))
    walked = [endpoint.id for endpoint in page.data]
    while page.has_next_page():
        assert len(page.data) == 2
        page = sdk(lambda _, page=page: page.get_next_page())
        walked += [endpoint.id for endpoint in page.data]
    assert walked == ids[::-1]
    assert [endpoint.id for endpoint in sdk(lambda client: client.webhooks.list(after=ids[1])).data] == ids[:1]


def test_the_event_types_are_listed(sdk: WebhookSdk) -> None:
    """The events are the four ends of a response, and the four of a batch."""
    found = sdk(lambda client: client.webhooks.event_types.list())
    assert (found.object, sorted(found.data)) == ("list", sorted(ALL_EVENTS))


def test_an_endpoint_is_tested(sdk: WebhookSdk, receiver: Receiver) -> None:
    """A test sends one signed sample and answers with the receiver's status, whatever it is; 502 if there was none."""
    made = sdk(lambda client: client.webhooks.create(name="n", url=receiver.url(), event_types=["response.failed"]))
    for number, status in enumerate([204, 500], start=1):
        receiver.answer(Reply(status))
        result = sdk(lambda client: client.webhooks.test(made.id, event_type="response.completed"))
        assert isinstance(result, types.WebhookEndpointTestResult)
        assert (result.object, result.webhook_endpoint_id) == ("webhook_endpoint.test", made.id)
        assert (result.event_type, result.status_code, result.success) == ("response.completed", status, True)
        assert len(receiver.requests()) == number
        assert sdk.unwrap(receiver.requests()[-1], made.signing_secret).type == "response.completed"
    receiver.answer(Reply(way="close"))
    with pytest.raises(openai.InternalServerError) as caught:
        sdk(lambda client: client.webhooks.test(made.id, event_type="response.failed"))
    assert (caught.value.status_code, caught.value.code) == (502, "webhook_test_failed")
    endpoint = sdk(lambda client: client.webhooks.retrieve(made.id)).to_dict()
    assert (endpoint["enabled"], endpoint["failing_since"]) == (True, None), "tests count for nothing"
    assert len(receiver.by_id()) == len(receiver.requests()) == 3, "each test is an event of its own, sent once"
