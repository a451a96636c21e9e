"""API keys: who may call, and whose jobs are whose."""

from __future__ import annotations

from pathlib import Path

import httpx2
import openai
import pytest

from tests.integration.driving import ended, submit, unique
from tests.processes import Stack, eventually

PATHS = [
    *(("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("GET", "/v1/jobs/x"), ("POST", "/v1/chat/completions")),
    *(("POST", "/v1/responses"), ("GET", "/v1/models"), ("POST", "/generate"), ("DELETE", "/v1/jobs/x")),
]


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer", "Bearer k1x", "Basic k1", "k1", "Bearer alice:k1"])
def test_without_a_good_key_nothing_is_answered(small: Stack, header: str | None) -> None:
    """Without a key, or with one that is not known, every door answers 401 in OpenAI's error shape."""
    headers = {} if header is None else {"Authorization": header}
    with httpx2.Client(base_url=small.api, headers=headers, timeout=30) as client:
        for method, path in PATHS:
            answer = client.request(method, path)
            assert answer.status_code == 401, (method, path)
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"):
            assert client.get(path).status_code == 200, path


def test_the_sdk_raises_an_authentication_error(small: Stack) -> None:
    """A wrong key is an AuthenticationError."""
    with openai.OpenAI(base_url=f"{small.api}/v1", api_key="wrong") as sdk:
        with pytest.raises(openai.AuthenticationError):
            sdk.responses.create(model="sim", input="x")
        with pytest.raises(openai.AuthenticationError):
            sdk.models.list()


def test_anothers_job_is_not_there(alice: httpx2.Client, bob: httpx2.Client) -> None:
    """A key sees its own jobs only: another's is a 404 for every call, and stands in no list."""
    job_id = submit(alice, prompt=unique(), model="sim")["id"]
    body = {"model": "sim", "input": unique(), "background": True}
    response_id = alice.post("/v1/responses", json=body).raise_for_status().json()["id"]
    mine = submit(bob, prompt=unique(), model="sim")["id"]
    for method, path in [
        *(("GET", f"/v1/jobs/{job_id}"), ("GET", f"/v1/jobs/{response_id}"), ("POST", f"/v1/jobs/{job_id}/cancel")),
        *(("DELETE", f"/v1/jobs/{job_id}"), ("GET", f"/v1/jobs?after={job_id}"), ("GET", f"/v1/jobs/{job_id}?wait=5")),
        *(("GET", f"/v1/responses/{response_id}"), ("POST", f"/v1/responses/{response_id}/cancel")),
        *(("DELETE", f"/v1/responses/{response_id}"), ("GET", f"/v1/responses/{response_id}/input_items")),
        ("GET", f"/v1/responses?after={response_id}"),
    ]:
        answer = bob.request(method, path)
        assert answer.status_code == 404, (method, path)
        assert answer.json()["error"]["code"] == "not_found"
    listed = {job["id"] for job in bob.get("/v1/jobs", params={"limit": 100}).json()["data"]}
    assert mine in listed
    assert not listed & {job_id, response_id}
    assert bob.get("/v1/responses").json()["data"] == []
    assert ended(alice, job_id)["status"] == ended(alice, response_id)["status"] == "completed"


def test_idempotency_keys_are_their_owners(alice: httpx2.Client, bob: httpx2.Client) -> None:
    """The same Idempotency-Key of two owners makes two jobs."""
    headers = {"Idempotency-Key": unique()}
    ids = {submit(client, headers, prompt=unique(), model="sim")["id"] for client in (alice, bob)}
    assert len(ids) == 2


def test_keys_come_and_go_without_a_restart(small: Stack, keys_file: Path) -> None:
    """A key written into the file works within seconds, one taken out gets 401, and a slip locks nobody out."""

    def statuses(key: str) -> set[int]:
        # Each on a connection of its own, so that both API processes are asked.
        return {
            httpx2.get(f"{small.api}/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code
            for _ in range(12)
        }

    assert statuses("dora-key") == {401}
    hashed = "0b5cb5ea7aea7ef3cc9d5bd7ba2cd7e25c2fb7b7ac12e1e1f09ca0f9c2ab5e1c"
    keys_file.write_text(f"# keys\ndora:dora-key\nemil:sha256:{hashed}\n")
    eventually(lambda: statuses("dora-key"), lambda found: found == {200})
    draft = keys_file.with_name("draft")
    draft.write_text("emil:emil-key\n")
    draft.replace(keys_file)
    eventually(lambda: statuses("emil-key"), lambda found: found == {200})
    assert statuses("dora-key") == {401}
    keys_file.write_text("no colon here\n")
    # The file is looked at when somebody calls; until it is mended, the last good keys hold.
    found = eventually(lambda: (statuses("emil-key"), "keys.not_reloaded" in small.logs()), lambda found: found[1])
    assert found[0] == {200}
    keys_file.write_text("")
    eventually(lambda: statuses("emil-key"), lambda found: found == {401})
    assert statuses("k1") == {200}
    for key in ("dora-key", "emil-key"):
        assert key not in small.logs()
