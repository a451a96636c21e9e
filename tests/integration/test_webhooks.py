"""Webhooks as their receivers and the unchanged openai SDK see them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import openai
import pytest
import redis
import standardwebhooks
from flask.testing import FlaskClient
from openai.lib import _webhooks as openai_webhooks
from openai.types import webhooks as types

from api.app import create_app
from jobs.sealing import new_key
from jobs.settings import Settings
from tests import processes
from tests.integration.driving import chat, ended, everything_in, messages, read, running, submit, unique
from tests.integration.test_cli_operations import promptq
from tests.integration.test_sdk import Sdk
from tests.processes import Stack, eventually
from tests.receiving import Hook, Receiver, Reply, Request, register

EVENTS = ["response.completed", "response.failed", "response.cancelled", "response.incomplete"]
ALL_EVENTS = [*EVENTS, "batch.completed", "batch.failed", "batch.cancelled", "batch.expired"]
TYPED = {
    "response.completed": types.ResponseCompletedWebhookEvent,
    "response.failed": types.ResponseFailedWebhookEvent,
    "response.cancelled": types.ResponseCancelledWebhookEvent,
    "response.incomplete": types.ResponseIncompleteWebhookEvent,
}
SIGNED = ("webhook-id", "webhook-timestamp", "webhook-signature")


class WebhookSdk(Sdk):
    """The SDK, whose ``unwrap`` awaits nothing in either variant."""

    def unwrap(self, request: Request, secret: str) -> Any:
        """What the SDK makes of a request."""
        return self._client.webhooks.unwrap(request.body, request.headers, secret=secret)


@pytest.fixture(params=["sync", "async"])
def sdk(request: pytest.FixtureRequest, stack: Stack) -> Iterator[WebhookSdk]:
    """The SDK on the stack, which tries nothing twice."""
    options = {"base_url": f"{stack.api}/v1", "api_key": stack.api_key, "max_retries": 0}
    if request.param == "sync":
        with openai.OpenAI(**options) as client:
            yield WebhookSdk(client, None)
        return
    with asyncio.Runner() as runner:
        client = openai.AsyncOpenAI(**options)
        yield WebhookSdk(client, runner)
        runner.run(client.close())


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


# Endpoints


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


# Events


@pytest.mark.parametrize(
    ("model", "event_type"),
    [("sim", EVENTS[0]), ("sim-400", EVENTS[1]), ("sim-hang", EVENTS[2]), ("sim-incomplete", EVENTS[3])],
)
def test_the_end_of_a_response_is_told(
    sdk: WebhookSdk, hook: Hook, client: httpx2.Client, stack: Stack, model: str, event_type: str
) -> None:
    """Each end of a response is one event, which the SDK and standardwebhooks believe and the SDK types."""
    prompt = unique()
    job_id = sdk(lambda client: client.responses.create(model=model, input=prompt, background=True)).id
    if event_type == "response.cancelled":
        running(client, stack, job_id, prompt)
        sdk(lambda client: client.responses.cancel(job_id))
    request = hook.told(job_id)
    job = ended(client, job_id)
    event = sdk.unwrap(request, hook.secret)
    assert isinstance(event, TYPED[event_type])
    assert request.event == {
        "id": request.webhook_id,
        "object": "event",
        "created_at": int(job["finished_at"]),
        "type": event_type,
        "data": {"id": job_id},
    }
    assert event.to_dict() == request.event
    assert request.webhook_id.startswith("evt_")
    assert abs(int(request.headers["webhook-timestamp"]) - request.wall) < 30
    assert request.headers["content-type"] == "application/json"
    assert request.headers["host"] == hook.receiver.host
    told = delivery(client, hook, job_id, "succeeded")
    assert (told["webhook_id"], told["event_type"], len(told["tries"])) == (request.webhook_id, event_type, 1)
    assert len(hook.receiver.about(job_id)) == 1


def test_the_end_of_any_other_job_is_told(sdk: WebhookSdk, hook: Hook, client: httpx2.Client) -> None:
    """Jobs of other endpoints end in the same events, with the job's id."""
    plain = submit(client, prompt=unique(), model="sim")["id"]
    whole = submit(client, endpoint="/v1/chat/completions", body=chat(unique(), "sim-400"))["id"]
    answer = sdk(
        lambda client: client.chat.completions.with_raw_response.create(model="sim", messages=messages(unique()))
    )
    found = {job_id: hook.told(job_id) for job_id in (plain, whole, answer.headers["x-promptq-job-id"])}
    events = [sdk.unwrap(request, hook.secret) for request in found.values()]
    assert [event.type for event in events] == ["response.completed", "response.failed", "response.completed"]
    assert [event.data.id for event in events] == list(found)


def test_only_what_is_asked_for_is_sent(client: httpx2.Client) -> None:
    """Each endpoint gets the events that it has at the time, where it is then, and none while it is disabled."""
    with Receiver() as first, Receiver() as second:
        all_, failures = register(client, first), register(client, second, "response.failed")
        path = f"/v1/webhook_endpoints/{failures.endpoint_id}"
        good, bad = (submit(client, prompt=unique(), model=model)["id"] for model in ("sim", "sim-400"))
        failures.told(bad)
        all_.told(bad)
        all_.told(good)
        disabled = client.post(path, json={"enabled": False}).json()
        assert (disabled["enabled"], disabled["disabled_reason"]) == (False, "owner")
        unheard = submit(client, prompt=unique(), model="sim-400")["id"]
        all_.told(unheard)
        enabled = client.post(path, json={"enabled": True, "url": second.url("/moved"), "event_types": EVENTS}).json()
        assert (enabled["enabled"], enabled["disabled_reason"]) == (True, None)
        heard = submit(client, prompt=unique(), model="sim")["id"]
        assert failures.told(heard).path == "/moved"
        assert [request.about for request in second.requests()] == [bad, heard]


# Signatures


def test_a_changed_message_is_refused(hook: Hook, client: httpx2.Client) -> None:
    """Both verifiers refuse a message whose body, id, time or signature was changed, and another's secret."""
    job_id = submit(client, prompt=unique(), model="sim")["id"]
    request = hook.told(job_id)
    another = register(client, hook.receiver).secret
    assert refused(request, hook.secret, body=request.body.decode().replace("completed", "cancelled"))
    assert refused(request, hook.secret, body=request.body.decode() + " ")
    assert refused(request, hook.secret, webhook_id=f"evt_{'0' * 32}")
    assert refused(request, hook.secret, webhook_timestamp=str(int(request.headers["webhook-timestamp"]) + 1))
    assert refused(request, another)
    forged = standardwebhooks.Webhook(another).sign(request.webhook_id, datetime.now().astimezone(), "{}")
    assert refused(request, hook.secret, webhook_signature=forged)


def test_a_message_that_was_kept_is_refused(hook: Hook, client: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that somebody has kept is refused by both verifiers after five minutes."""
    request = hook.told(submit(client, prompt=unique(), model="sim")["id"])

    def travel(seconds: float) -> None:
        class Later(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:
                return datetime.now(tz) + timedelta(seconds=seconds)

        later = request.wall + seconds
        monkeypatch.setattr(openai_webhooks, "time", SimpleNamespace(time=lambda: later))
        monkeypatch.setattr(standardwebhooks.webhooks, "datetime", Later)

    travel(240)
    hook.receiver.verified(hook.secret)
    travel(310)
    assert refused(request, hook.secret)


@pytest.mark.parametrize("keep", [True, False], ids=["the old one stays", "the old one ends"])
def test_a_secret_is_rotated(sdk: WebhookSdk, client: httpx2.Client, receiver: Receiver, *, keep: bool) -> None:
    """A new secret signs at once; the old one does for 24 hours more if that is asked for, else not."""
    old = register(client, receiver)
    rotated = sdk(
        lambda client: client.webhooks.rotate_secret(old.endpoint_id, keep_old_secret_active_for_24_hours=keep)
    )
    assert isinstance(rotated, types.WebhookEndpointWithSecret)
    assert rotated.signing_secret != old.secret
    assert rotated.signing_secret_hint == f"whsec_...{rotated.signing_secret[-4:]}"
    new = Hook(receiver, old.endpoint_id, rotated.signing_secret)
    job_id = submit(client, prompt=unique(), model="sim")["id"]
    request = new.told(job_id)
    assert len(request.headers["webhook-signature"].split()) == (2 if keep else 1)
    if keep:
        old.told(job_id)
        assert sdk.unwrap(request, old.secret) == sdk.unwrap(request, new.secret)
        sdk(lambda client: client.webhooks.rotate_secret(old.endpoint_id))
        request = receiver.told(submit(client, prompt=unique(), model="sim")["id"])[0]
        assert refused(request, new.secret), "the second rotation has ended the first one's as well"
    assert refused(request, old.secret)


# A job's own URL


def test_a_job_names_its_own_url(sdk: WebhookSdk, client: httpx2.Client, receiver: Receiver) -> None:
    """``webhook_url`` on a job, and in ``extra_body`` of the SDK's calls, is told of its end, by the owner's secret."""
    secret = owners_secret(client)
    url = receiver.url("/own")
    ours = {"promptq": {"webhook_url": url}}
    ids = [
        submit(client, prompt=unique(), model="sim", webhook_url=url)["id"],
        submit(client, endpoint="/v1/chat/completions", body=chat(unique()), webhook_url=url)["id"],
        sdk(
            lambda client: client.responses.create(model="sim-400", input=unique(), background=True, extra_body=ours)
        ).id,
        sdk(
            lambda client: client.chat.completions.with_raw_response.create(
                model="sim", messages=messages(unique()), extra_body=ours
            )
        ).headers["x-promptq-job-id"],
    ]
    unheard = submit(client, prompt=unique(), model="sim")["id"]
    hook = Hook(receiver, "job", secret)
    for job_id in ids:
        request = hook.told(job_id)
        assert request.path == "/own"
        assert sdk.unwrap(request, secret).data.id == job_id
        assert read(client, job_id)["webhook_url"] == url
        told = delivery(client, hook, job_id, "succeeded")
        assert (told["webhook_endpoint_id"], told["webhook_id"]) == (None, request.webhook_id)
    ended(client, unheard)
    assert {request.about for request in receiver.requests()} == set(ids)

    kept = client.post("/v1/webhook_secret/rotate", json={"keep_old_secret_active_for_24_hours": True}).json()
    both = submit(client, prompt=unique(), model="sim", webhook_url=url)["id"]
    assert sdk.unwrap(hook.told(both), kept["signing_secret"]).data.id == both


def test_the_owners_secret_is_shown_once(carol: httpx2.Client, receiver: Receiver) -> None:
    """The first job with a URL makes the secret; it is shown once, then only its hint, until it is rotated."""
    assert is_error(carol.get("/v1/webhook_secret"), 404, "not_found")
    assert is_error(carol.post("/v1/webhook_secret/rotate"), 404, "not_found")
    job_id = submit(carol, prompt=unique(), model="sim", webhook_url=receiver.url())["id"]
    receiver.told(job_id)
    about = carol.get("/v1/webhook_secret").json()
    assert set(about) == {"object", "signing_secret_hint", "created_at", "updated_at"}
    shown = carol.post("/v1/webhook_secret").json()
    assert shown == {**about, "signing_secret": shown["signing_secret"]}
    assert shown["signing_secret_hint"] == f"whsec_...{shown['signing_secret'][-4:]}"
    Hook(receiver, "job", shown["signing_secret"]).told(job_id)
    for _ in range(2):
        assert is_error(carol.post("/v1/webhook_secret"), 409, "secret_already_shown")
    rotated = carol.post("/v1/webhook_secret/rotate").json()
    assert rotated["signing_secret"] != shown["signing_secret"]
    assert is_error(carol.post("/v1/webhook_secret"), 409, "secret_already_shown")
    assert carol.get("/v1/webhook_secret").json()["signing_secret_hint"] == rotated["signing_secret_hint"]
    after = submit(carol, prompt=unique(), model="sim", webhook_url=receiver.url())["id"]
    request = receiver.told(after)[0]
    assert refused(request, shown["signing_secret"])
    standardwebhooks.Webhook(rotated["signing_secret"]).verify(request.body, dict(request.headers))


# Deliveries


def test_a_delivery_is_sent_again(hook: Hook, client: httpx2.Client) -> None:
    """Redelivering sends the same body under the same ``webhook-id`` again, at once, whether it had arrived or not."""
    hook.receiver.answer(Reply(500), Reply(200))
    job_id = submit(client, prompt=unique(), model="sim")["id"]
    hook.told(job_id)
    waiting = eventually(lambda: delivery(client, hook, job_id, "pending"), lambda one: one["tries"])
    assert (waiting["error"], waiting["tries"][0]["status_code"]) == ("http_status", 500)
    # The next try would be in five seconds, more or less.
    assert 1 < waiting["next_try_at"] - waiting["tries"][0]["started_at"] < 20
    path = f"/v1/webhook_deliveries/{waiting['id']}/redeliver"
    for number in (2, 3):
        again = client.post(path)
        assert again.status_code == 200, again.text
        assert again.json()["id"] == waiting["id"]
        hook.told(job_id, times=number, within=3)
        done = delivery(client, hook, job_id, "succeeded")
        assert len(done["tries"]) == number
    assert done == client.get(f"/v1/webhook_deliveries/{waiting['id']}").json()
    assert (done["error"], done["next_try_at"]) == (None, None)
    assert [one["status_code"] for one in done["tries"]] == [500, 200, 200]
    assert all(set(one) == {"started_at", "seconds", "status_code", "error", "detail"} for one in done["tries"])

    client.post(f"/v1/webhook_endpoints/{hook.endpoint_id}", json={"enabled": False}).raise_for_status()
    assert is_error(client.post(path), 409, "not_deliverable")
    client.delete(f"/v1/webhook_endpoints/{hook.endpoint_id}").raise_for_status()
    assert is_error(client.post(path), 409, "not_deliverable")
    assert is_error(client.post(f"/v1/webhook_deliveries/whd_{'0' * 32}_job/redeliver"), 404, "not_found", "id")
    assert len(hook.receiver.requests()) == 3


def test_deliveries_are_listed_by_endpoint_and_status(client: httpx2.Client) -> None:
    """The list is newest first, in pages, and of one endpoint, of the jobs' own URLs, or of one status if asked."""
    with Receiver() as good, Receiver(Reply(404)) as bad:
        works, fails = register(client, good), register(client, bad)
        ids = [submit(client, prompt=unique(), model="sim", webhook_url=good.url("/own"))["id"] for _ in range(3)]
        for job_id in ids:
            delivery(client, works, job_id, "succeeded")
            delivery(client, Hook(good, "job", ""), job_id, "succeeded")
            eventually(lambda job_id=job_id: delivery(client, fails, job_id, "pending")["tries"])
        for hook, status in ((works, "succeeded"), (fails, "pending")):
            of_it = deliveries(client, endpoint=hook.endpoint_id)
            assert {one["data"]["id"] for one in of_it} == set(ids)
            assert {(one["status"], one["webhook_endpoint_id"]) for one in of_it} == {(status, hook.endpoint_id)}
            assert deliveries(client, endpoint=hook.endpoint_id, status=status) == of_it
            assert deliveries(client, endpoint=hook.endpoint_id, status="failed") == []
        newest = deliveries(client, limit=9)
        assert [one["created_at"] for one in newest] == sorted((one["created_at"] for one in newest), reverse=True)
        assert {one["webhook_endpoint_id"] for one in newest} == {works.endpoint_id, fails.endpoint_id, None}
        assert {one["webhook_endpoint_id"] for one in deliveries(client, endpoint="job", limit=3)} == {None}
        first = client.get("/v1/webhook_deliveries", params={"limit": 4}).json()
        assert (len(first["data"]), first["has_more"], first["last_id"]) == (4, True, first["data"][-1]["id"])
        rest = deliveries(client, limit=5, after=first["last_id"])
        assert [one["id"] for one in first["data"] + rest] == [one["id"] for one in newest]

        client.delete(f"/v1/webhook_endpoints/{fails.endpoint_id}").raise_for_status()
        (ended_, *_) = [one for one in newest if one["webhook_endpoint_id"] == fails.endpoint_id]
        failed = eventually(
            lambda: client.get(f"/v1/webhook_deliveries/{ended_['id']}").json(),
            lambda one: one["status"] == "failed",
            within=20,  # when it would have been tried again
        )
        assert (failed["error"], failed["next_try_at"], len(failed["tries"])) == ("endpoint_deleted", None, 1)
    for params in ({"status": "delivering"}, {"limit": 0}, {"limit": 101}):
        assert client.get("/v1/webhook_deliveries", params=params).status_code == 400, params
    for params in ({"endpoint": "nonsense"}, {"after": "nonsense"}, {"after": f"whd_{'0' * 32}_job"}):
        (name,) = params
        assert is_error(client.get("/v1/webhook_deliveries", params=params), 404, "not_found", name)


def test_anothers_endpoints_and_deliveries_are_not_there(
    alice: httpx2.Client, bob: httpx2.Client, receiver: Receiver
) -> None:
    """A key sees its owner's endpoints, deliveries and events only: another's is a 404, and stands in no list."""
    with Receiver() as bobs:
        hook, other = register(alice, receiver), register(bob, bobs)
        try:
            job_id = submit(alice, prompt=unique(), model="sim", webhook_url=receiver.url("/own"))["id"]
            mine = submit(bob, prompt=unique(), model="sim")["id"]
            delivered = delivery(alice, hook, job_id, "succeeded")["id"]
            other.told(mine)
            endpoint = f"/v1/webhook_endpoints/{hook.endpoint_id}"
            for method, path, body in [
                *(("GET", endpoint, None), ("DELETE", endpoint, None), ("POST", endpoint, {"name": "bob's"})),
                *(("POST", f"{endpoint}/rotate_secret", None), ("POST", f"{endpoint}/test", {"event_type": EVENTS[0]})),
                ("GET", f"/v1/webhook_endpoints?after={hook.endpoint_id}", None),
                ("GET", f"/v1/webhook_deliveries/{delivered}", None),
                ("POST", f"/v1/webhook_deliveries/{delivered}/redeliver", None),
                ("GET", f"/v1/webhook_deliveries?after={delivered}", None),
            ]:
                answer = bob.request(method, path, json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), (method, path)
            assert deliveries(bob, endpoint=hook.endpoint_id) == []
            assert [one["id"] for one in bob.get("/v1/webhook_endpoints").json()["data"]] == [other.endpoint_id]
            assert {one["data"]["id"] for one in deliveries(bob)} == {mine}
            assert alice.get(endpoint).json()["name"] == "a test's"
            assert {request.about for request in bobs.requests()} == {mine}
            assert {request.about for request in receiver.requests()} == {job_id}
        finally:
            forget_endpoints(alice)
            forget_endpoints(bob)


# What is refused


GOOD: Mapping[str, Any] = {"name": "n", "url": "http://127.0.0.1:9/", "event_types": EVENTS}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": "n" * 257}, "name"),
        ({"url": None}, "url"),
        ({"url": "no URL"}, "url"),
        ({"url": "http://hooks.example.com/"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": "https://192.168.1.1/"}, "url"),
        ({"url": "https://169.254.169.254/latest/meta-data/"}, "url"),
        ({"url": "https://[fd00::1]/"}, "url"),
        ({"url": "https://0x0a000001/"}, "url"),
        ({"url": "https://user:password@hooks.example.com/"}, "url"),
        ({"url": "https://hooks.example.com/" + "a" * 2048}, "url"),
        ({"event_types": None}, "event_types"),
        ({"event_types": []}, "event_types"),
        ({"event_types": "response.completed"}, "event_types"),
        ({"event_types": ["response.completed", "batch.begun"]}, "event_types.1"),
        ({"secret": "whsec_mine"}, "secret"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else None,
)
def test_a_bad_endpoint_is_refused(client: httpx2.Client, changes: Mapping[str, Any], param: str) -> None:
    """What is missing, unknown or forbidden in an endpoint is a 400 that names it, and nothing is made or changed."""
    body = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    assert is_error(client.post("/v1/webhook_endpoints", json=body), 400, "invalid_request", param)
    assert client.get("/v1/webhook_endpoints").json()["data"] == []
    made = client.post("/v1/webhook_endpoints", json=GOOD).json()
    asked = {name: value for name, value in changes.items() if value is not None}
    path = f"/v1/webhook_endpoints/{made['id']}"
    if asked:
        assert is_error(client.post(path, json=asked), 400, "invalid_request", param)
    shown = {name: value for name, value in made.items() if name != "signing_secret"}
    assert client.get(path).json() == shown


def test_a_bad_url_of_a_job_is_refused(client: httpx2.Client) -> None:
    """A URL that no webhook may be sent to is a 400 that names it, through every door, and no job is made."""
    bad = "https://10.0.0.1/"
    before = client.get("/v1/jobs", params={"limit": 1}).json()["first_id"]
    assert is_error(
        client.post("/v1/jobs", json={"prompt": "x", "webhook_url": bad}), 400, "invalid_request", "webhook_url"
    )
    ours = {"promptq": {"webhook_url": bad}}
    for path, body in (
        ("/v1/responses", {"model": "sim", "input": "x", "background": True}),
        ("/v1/chat/completions", chat("x")),
    ):
        answer = client.post(path, json={**body, **ours})
        assert is_error(answer, 400, "invalid_request", "promptq.webhook_url")
    assert client.get("/v1/jobs", params={"limit": 1}).json()["first_id"] == before


@pytest.fixture
def api(redis_url: str, redis_client: redis.Redis) -> Callable[..., FlaskClient]:
    """Makes clients of an API of its own with other settings, on an empty database."""

    def make(**settings: Any) -> FlaskClient:
        known = {"api_keys": {}, "api_keys_file": None, "encryption_keys": "", "webhook_allow": ""}
        return create_app(Settings(redis_url=redis_url, **{**known, **settings})).test_client()

    return make


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "https://127.0.0.1/", "https://localhost/", "https://[::1]/", "http://hooks.example.com/"],
)
def test_without_an_allowance_loopback_is_refused(api: Callable[..., FlaskClient], url: str) -> None:
    """Unless the settings allow it, no webhook goes to this machine, nor anywhere by plain HTTP."""
    client = api(encryption_keys=new_key())
    refusal = client.post("/v1/webhook_endpoints", json={**GOOD, "url": url})
    assert is_error(refusal, 400, "invalid_request", "url")
    refusal = client.post("/v1/jobs", json={"prompt": "x", "webhook_url": url})
    assert is_error(refusal, 400, "invalid_request", "webhook_url")
    public = client.post("/v1/webhook_endpoints", json={**GOOD, "url": "https://hooks.example.com/"})
    assert public.status_code == 200


def test_without_a_key_there_are_no_webhooks(api: Callable[..., FlaskClient]) -> None:
    """Where no encryption key is set, what would need a secret is a 501 that says so, and the rest works."""
    client = api(webhook_allow="127.0.0.0/8")
    endpoint = f"/v1/webhook_endpoints/we_{'0' * 32}"
    for path, body in [
        ("/v1/webhook_endpoints", GOOD),
        (f"{endpoint}/rotate_secret", {}),
        ("/v1/webhook_secret", {}),
        ("/v1/webhook_secret/rotate", {}),
        ("/v1/jobs", {"prompt": "x", "webhook_url": "http://127.0.0.1/"}),
    ]:
        answer = client.post(path, json=body)
        assert is_error(answer, 501, "webhooks_not_set_up"), path
        assert answer.headers.get("x-should-retry") == "false", "the SDK would try again"
        assert "PROMPTQ_ENCRYPTION_KEYS" in answer.json["error"]["message"]
    for path in ("/v1/webhook_endpoints", "/v1/webhook_deliveries", "/v1/jobs"):
        assert client.get(path).json["data"] == []
    assert client.post("/v1/jobs", json={"prompt": "x"}).status_code == 202


# Privacy


def test_nothing_that_is_secret_is_sent_or_logged(client: httpx2.Client, stack: Stack) -> None:
    """A webhook carries no prompt and no answer; no log has a URL's path or query, a secret or what a receiver answers;
    and no secret stands in Redis as it is."""
    prompt, path, query, told = (unique(name).replace(" ", "-") for name in ("prompt", "path", "query", "told"))
    reply = Reply(500, {"X-Marker": told, "Retry-After": told}, told.encode())
    where = f"/{path}?{query}={query}"
    with Receiver(Reply(200, body=told.encode())) as good, Receiver(reply) as bad, Receiver() as away:
        hooks = [register(client, one, path=where) for one in (good, bad, away)]
        away.stop()
        secrets = [hook.secret for hook in hooks] + [owners_secret(client)]
        secrets.append(
            client.post(f"/v1/webhook_endpoints/{hooks[0].endpoint_id}/rotate_secret").json()["signing_secret"]
        )
        job_id = submit(client, prompt=prompt, model="sim", webhook_url=bad.url(where))["id"]
        refusal = client.post("/v1/jobs", json={"prompt": prompt, "webhook_url": f"https://10.0.0.1{where}"})
        assert is_error(refusal, 400, "invalid_request", "webhook_url")
        for hook in (*hooks, Hook(bad, "job", "")):
            status = "succeeded" if hook.receiver is good else "pending"
            tried = eventually(lambda hook=hook, s=status: delivery(client, hook, job_id, s), lambda one: one["tries"])
            eventually(stack.logs, lambda logs, tried=tried: tried["id"] in logs)
            assert told not in json.dumps(tried)
        sent = [*good.requests(), *bad.requests()]
        assert len(sent) == 3
        for request in sent:
            text = request.body.decode() + json.dumps(request.headers)
            for secret in (prompt, "Simulated answer", path, query):
                assert secret not in text
        for listed in (client.get("/v1/webhook_endpoints"), client.get("/v1/webhook_deliveries"), refusal):
            assert not any(secret in listed.text for secret in secrets)
        assert query not in refusal.text
        logs, stored = stack.logs(), "".join(everything_in(stack.redis).values())
        for secret in secrets:
            assert secret.removeprefix("whsec_") not in logs
            assert secret.removeprefix("whsec_") not in stored
        for marker in (prompt, path, query, told):
            assert marker not in logs


# The command line


@pytest.fixture
def listening(stack: Stack, tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], Path]]]:
    """Starts ``promptq webhooks listen`` with these words; answers the process, once it listens, and what it prints."""
    started: list[subprocess.Popen[bytes]] = []

    def listen(*words: str) -> tuple[subprocess.Popen[bytes], Path]:
        environ = os.environ | {"PROMPTQ_URL": stack.api, "PROMPTQ_API_KEY": stack.api_key}
        output, told = tmp_path / f"{len(started)}.out", tmp_path / f"{len(started)}.err"
        command = [sys.executable, "-m", "cli", "webhooks", "listen", *words]
        with output.open("wb") as out, told.open("wb") as err:
            process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        started.append(process)
        eventually(lambda: "listening at" in told.read_text() or process.poll() is not None, within=30)
        assert process.poll() is None, told.read_text()
        return process, output

    yield listen
    for process in started:
        processes.end(process)


def lines(output: Path, about: str) -> list[str]:
    """What was printed about a job, once something was."""
    return eventually(lambda: [line for line in output.read_text().splitlines() if about in line])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_listen_registers_prints_and_unregisters(
    client: httpx2.Client, listening: Callable[..., Any], number: signal.Signals
) -> None:
    """``promptq webhooks listen`` has an endpoint while it runs, and prints each event and that it is verified."""
    process, output = listening()
    (endpoint,) = client.get("/v1/webhook_endpoints").json()["data"]
    assert sorted(endpoint["event_types"]) == sorted(ALL_EVENTS)
    job_id = submit(client, prompt=unique(), model="sim-400")["id"]
    (line,) = lines(output, job_id)
    assert "response.failed" in line
    assert line.endswith("  verified")
    (told,) = deliveries(client, endpoint=endpoint["id"])
    assert f"[{told['webhook_id']}]" in line
    forged = httpx2.post(endpoint["url"], content=b'{"type": "forged"}', headers=dict.fromkeys(SIGNED, "1"))
    assert forged.status_code == 400
    assert "NOT VERIFIED" in lines(output, "forged")[0]
    process.send_signal(number)
    assert process.wait(15) == 0
    assert client.get("/v1/webhook_endpoints").json()["data"] == []


def test_listen_with_the_owners_secret_registers_nothing(
    client: httpx2.Client, stack: Stack, listening: Callable[..., Any]
) -> None:
    """With ``--secret`` it verifies what comes for ``promptq submit --webhook-url``; ``--json`` prints a line each."""
    port = processes.free_port()
    process, output = listening("--secret", owners_secret(client), "--port", str(port), "--json")
    assert client.get("/v1/webhook_endpoints").json()["data"] == []
    submitted = promptq(stack, "submit", unique(), "--webhook-url", f"http://127.0.0.1:{port}/x", "--json")
    assert submitted.returncode == 0, submitted.stderr
    job = json.loads(submitted.stdout)
    assert job["webhook_url"] == f"http://127.0.0.1:{port}/x"
    (line,) = lines(output, job["id"])
    told = json.loads(line)
    assert (told["verified"], told["problem"]) == (True, None)
    assert (told["event"]["type"], told["event"]["data"]) == ("response.completed", {"id": job["id"]})
    process.send_signal(signal.SIGINT)
    assert process.wait(15) == 0


def test_listen_takes_back_what_a_killed_one_left(client: httpx2.Client, listening: Callable[..., Any]) -> None:
    """A receiver that was killed leaves its endpoint to the next on this machine, which lets alone one that runs."""
    killed, _ = listening()
    (left,) = client.get("/v1/webhook_endpoints").json()["data"]
    killed.kill()
    killed.wait(10)
    first, _ = listening()
    (mine,) = client.get("/v1/webhook_endpoints").json()["data"]
    assert mine["id"] != left["id"]
    second, _ = listening()
    assert len(client.get("/v1/webhook_endpoints").json()["data"]) == 2
    for process in (first, second):
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
    assert client.get("/v1/webhook_endpoints").json()["data"] == []


def test_listen_refuses_a_secret_that_is_none(stack: Stack) -> None:
    """A secret that nothing can be verified with is an error at the start, not one for each message."""
    ran = promptq(stack, "webhooks", "listen", "--secret", "bad secret")
    assert ran.returncode != 0
    assert "--secret" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_command_line_shows_and_redelivers(client: httpx2.Client, stack: Stack) -> None:
    """``promptq webhooks`` lists endpoints, ``deliveries`` what became of events, and ``redeliver`` sends one again."""
    with Receiver(Reply(500), Reply(200)) as receiver:
        hook = register(client, receiver, "response.completed")
        job_id = submit(client, prompt=unique(), model="sim")["id"]
        waiting = eventually(lambda: delivery(client, hook, job_id, "pending"), lambda one: one["tries"])
        for words in (("webhooks",), ("webhooks", "list")):
            (row,) = [line for line in promptq(stack, *words).stdout.splitlines() if hook.endpoint_id in line]
            assert "enabled" in row
        listed = promptq(stack, "webhooks", "deliveries", "--endpoint", hook.endpoint_id, "--status", "pending")
        (row,) = [line.split() for line in listed.stdout.splitlines() if waiting["id"] in line]
        assert row[:6] == [waiting["id"], "response.completed", job_id, "pending", "1", "http_status"]
        again = promptq(stack, "webhooks", "redeliver", waiting["id"])
        assert again.returncode == 0, again.stderr
        assert waiting["id"] in again.stdout
        hook.told(job_id, times=2)
        delivery(client, hook, job_id, "succeeded")
        shown = promptq(stack, "webhooks", "deliveries", "--endpoint", hook.endpoint_id, "--json")
        (one,) = json.loads(shown.stdout)["data"]
        assert [tried["status_code"] for tried in one["tries"]] == [500, 200]
        missing = promptq(stack, "webhooks", "redeliver", f"whd_{'0' * 32}_job", waiting["id"])
        assert missing.returncode == 1
        assert waiting["id"] in missing.stdout
        assert f"error: whd_{'0' * 32}_job: " in missing.stderr
        hook.told(job_id, times=3)
    refusal = promptq(stack, "submit", "x", "--webhook-url", "https://10.0.0.1/")
    assert (refusal.returncode, refusal.stdout) == (1, "")
    assert "private" in refusal.stderr


def test_the_command_line_makes_keys(stack: Stack, api: Callable[..., FlaskClient]) -> None:
    """``promptq webhooks key`` prints a fresh key, with which an API has webhooks."""
    first, second = (promptq(stack, "webhooks", "key").stdout.strip() for _ in range(2))
    assert first != second
    assert len(base64.urlsafe_b64decode(first)) == 32
    assert api(encryption_keys=f"{first},{second}").post("/v1/webhook_secret").status_code == 200
