"""Idempotency-Key: one key, one job, one LLM call, at every door that makes jobs."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from simulator.prompts import PROMPT_FIELDS
from tests.integration.driving import calls_of, chat, ended, messages, read, submit, unique
from tests.processes import Stack


def key() -> dict[str, str]:
    """A header that nobody has used."""
    return {"Idempotency-Key": uuid.uuid4().hex}


DOORS = {
    "/v1/jobs": lambda prompt: {"prompt": prompt, "model": "sim"},
    "/v1/responses": lambda prompt: {"model": "sim", "input": prompt},
    "/v1/chat/completions": chat,
    "/v1/completions": lambda prompt: {"model": "sim", "prompt": prompt},
    "/v1/embeddings": lambda prompt: {"model": "sim", "input": prompt},
    "/generate": lambda prompt: {"prompt": prompt},
}


def asked(path: str, body: dict[str, Any]) -> Any:
    """What the LLM is asked by this body at this door."""
    if path in ("/v1/jobs", "/generate"):
        return messages(body["prompt"])
    return next(body[name] for name in PROMPT_FIELDS if name in body)


@pytest.mark.parametrize("path", DOORS)
def test_a_key_makes_one_job_at_every_door(client: httpx2.Client, stack: Stack, path: str) -> None:
    """The same request with the same key has the same answer and one LLM call; another request is a 409."""
    headers, body, other = key(), DOORS[path](unique()), DOORS[path](unique())
    first = client.post(path, json=body, headers=headers).raise_for_status()
    if path == "/v1/jobs":
        ended(client, first.json()["id"])
    # Neither the order of members nor spaces make it another request.
    text = str(dict(reversed(body.items()))).replace("'", '"')
    again = client.post(path, content=text, headers=headers).raise_for_status()
    if path == "/v1/jobs":
        assert again.status_code == 202
        assert again.json()["id"] == first.json()["id"]
    else:
        assert again.json() == first.json()
    conflict = client.post(path, json=other, headers=headers)
    assert (conflict.status_code, conflict.headers["x-should-retry"]) == (409, "false")
    assert conflict.json()["error"]["code"] == "idempotency_key_reused"
    assert (calls_of(stack, asked(path, body)), calls_of(stack, asked(path, other))) == (1, 0)


def test_a_key_holds_across_doors(client: httpx2.Client) -> None:
    """A key that came with a request to one door is a conflict at another."""
    headers, body = key(), {"model": "sim", "input": unique()}
    client.post("/v1/responses", json=body, headers=headers).raise_for_status()
    assert client.post("/v1/embeddings", json=body, headers=headers).status_code == 409


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/chat/completions"])
def test_twenty_at_once_make_one_job(client: httpx2.Client, stack: Stack, path: str) -> None:
    """Twenty concurrent requests with one key make one job, of one LLM call, and all have its answer."""
    headers, body = key(), DOORS[path](unique())
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: client.post(path, json=body, headers=headers), range(20)))
    assert {answer.status_code for answer in answers} == {202 if path == "/v1/jobs" else 200}
    ids = {answer.json()["id"] for answer in answers}
    assert len(ids) == 1
    if path == "/v1/jobs":
        assert ended(client, ids.pop())["status"] == "completed"
    assert calls_of(stack, asked(path, body)) == 1


def test_the_key_of_a_deleted_job_is_free_again(client: httpx2.Client) -> None:
    """Deleting a job frees its key for another request."""
    headers = key()
    first = submit(client, headers, prompt=unique(), model="sim")
    assert client.delete(f"/v1/jobs/{first['id']}").status_code == 200
    second = submit(client, headers, prompt=unique(), model="sim")
    assert second["id"] != first["id"]
    assert read(client, second["id"])["id"] == second["id"]
