"""What is refused, and what is never told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient

from jobs.sealing import new_key
from tests.integration.driving import chat, everything_in, submit, unique
from tests.integration.webhooks.steps import GOOD, delivery, is_error, owners_secret
from tests.processes import Stack, eventually
from tests.receiving import Hook, Receiver, Reply, register


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
