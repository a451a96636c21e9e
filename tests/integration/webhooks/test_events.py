"""What is told of a job's end, to whom, and how it is signed."""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo
from types import SimpleNamespace

import httpx2
import pytest
import standardwebhooks
from openai.lib import _webhooks as openai_webhooks
from openai.types import webhooks as types

from tests.integration.driving import chat, ended, messages, read, running, submit, unique
from tests.integration.webhooks.steps import EVENTS, TYPED, WebhookSdk, delivery, is_error, owners_secret, refused
from tests.processes import Stack
from tests.receiving import Hook, Receiver, register


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
