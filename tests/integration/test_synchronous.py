"""The doors that hold the caller's connection until the LLM has answered."""

from __future__ import annotations

import json
import socket
import uuid
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.integration.driving import calls_of, chat, ended, job_labelled, messages, running, unique
from tests.processes import Stack, eventually


def connect(stack: Stack, path: str, body: dict[str, Any], **headers: str) -> socket.socket:
    """A socket that has sent a request and waits for its answer."""
    address = urlsplit(stack.api)
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", f"Host: {address.netloc}", f"Authorization: Bearer {stack.api_key}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(content)}", "", ""]
    caller = socket.create_connection((address.hostname, address.port), timeout=10)
    caller.sendall("\r\n".join(lines).encode() + content)
    return caller


def test_generate_is_a_prompt_in_and_a_text_out(client: httpx2.Client, stack: Stack) -> None:
    """``POST /generate`` with nothing but a prompt answers with nothing but a text."""
    prompt = "Explain Kubernetes in simple terms. " + unique()
    answer = client.post("/generate", json={"prompt": prompt})
    assert (answer.status_code, answer.json()) == (200, {"response": f"Simulated answer to: {prompt}"})
    assert calls_of(stack, messages(prompt)) == 1
    assert client.post("/generate", json={"prompt": unique(), "model": "sim-400"}).status_code == 400


def test_the_answer_is_the_llms_byte_for_byte(client: httpx2.Client) -> None:
    """A chat completion is answered with the LLM's own body, and the job's id in a header."""
    label = unique("label")
    answer = client.post("/v1/chat/completions", json=chat(unique(), metadata={"label": label}))
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["id"].startswith("chatcmpl-")
    job_id = answer.headers["x-promptq-job-id"]
    assert ended(client, job_id)["result"] == answer.json()
    labelled = job_labelled(client, label)
    assert labelled is not None
    assert (labelled["id"], labelled["queue"]) == (job_id, "interactive")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"])
def test_prefer_respond_async_answers_with_the_job(client: httpx2.Client, path: str) -> None:
    """``Prefer: respond-async`` makes a synchronous door answer 202, the job and its Location."""
    bodies = {
        "/v1/chat/completions": chat(unique(), "sim-slow-1"),
        "/v1/completions": {"model": "sim-slow-1", "prompt": unique()},
    }
    body = bodies.get(path, {"model": "sim-slow-1", "input": unique()})
    answer = client.post(path, json=body, headers={"Prefer": "wait=5, Respond-Async"})
    assert (answer.status_code, answer.json()["object"], answer.json()["endpoint"]) == (202, "job", path)
    assert answer.headers["Preference-Applied"] == "respond-async"
    assert answer.headers["Location"].endswith(f"/v1/jobs/{answer.json()['id']}")
    assert ended(client, answer.json()["id"])["status"] == "completed"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_a_caller_who_goes_away_cancels_the_job(client: httpx2.Client, stack: Stack, path: str) -> None:
    """When a waiting caller closes the connection, the job is cancelled and its LLM call aborted."""
    label = unique("label")
    prompt: Any = messages(label) if path != "/v1/responses" else label
    body = {
        "model": "sim-hang",
        "metadata": {"label": label},
        "messages" if path != "/v1/responses" else "input": prompt,
    }
    with connect(stack, path, body):
        job = eventually(lambda: job_labelled(client, label))
        running(client, stack, job["id"], prompt)
        aborted = stack.stats()["aborted"]
    assert ended(client, job["id"], within=5)["status"] == "cancelled"
    eventually(lambda: stack.stats()["aborted"], lambda count: count > aborted, within=4)
    assert calls_of(stack, prompt) == 1


def test_generate_is_cancelled_too_when_its_caller_goes_away(client: httpx2.Client, stack: Stack) -> None:
    """The simplest door watches its caller as the others do."""
    prompt = unique()
    with connect(stack, "/generate", {"prompt": prompt, "model": "sim-hang"}):
        eventually(lambda: calls_of(stack, messages(prompt)))
        aborted = stack.stats()["aborted"]
    eventually(lambda: stack.stats()["aborted"], lambda count: count > aborted, within=5)


def test_a_caller_with_a_key_may_go_away_and_come_back(client: httpx2.Client, stack: Stack) -> None:
    """With an Idempotency-Key the job goes on without its caller, who finds the answer with the same request."""
    prompt, key, label = unique(), uuid.uuid4().hex, unique("label")
    body = chat(prompt, "sim-slow-1.5", metadata={"label": label})
    with connect(stack, "/v1/chat/completions", body, Idempotency_Key=key):
        eventually(lambda: calls_of(stack, messages(prompt)))
    answer = client.post("/v1/chat/completions", json=body, headers={"Idempotency-Key": key})
    assert answer.json()["choices"][0]["message"]["content"] == f"Simulated answer to: {prompt}"
    assert ended(client, answer.headers["x-promptq-job-id"])["status"] == "completed"
    assert calls_of(stack, messages(prompt)) == 1


def test_a_caller_who_joins_by_key_cannot_cancel_a_job_by_leaving(client: httpx2.Client, stack: Stack) -> None:
    """A second caller of the same key who goes away takes nothing from the first."""
    prompt, key = unique(), uuid.uuid4().hex
    body = chat(prompt, "sim-slow-1.5")
    with connect(stack, "/v1/chat/completions", body, Idempotency_Key=key) as first:
        eventually(lambda: calls_of(stack, messages(prompt)))
        connect(stack, "/v1/chat/completions", body, Idempotency_Key=key).close()
        answer = first.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
    assert calls_of(stack, messages(prompt)) == 1


def test_a_caller_whose_job_is_cancelled_by_another_is_told(client: httpx2.Client, stack: Stack) -> None:
    """A waiting caller gets a 409 that is not to be repeated when the job is cancelled, or deleted, under it."""
    for method, path in (("POST", "/v1/jobs/{id}/cancel"), ("DELETE", "/v1/jobs/{id}")):
        label = unique("label")
        with connect(stack, "/v1/chat/completions", chat(label, "sim-hang", metadata={"label": label})) as caller:
            job = eventually(lambda label=label: job_labelled(client, label))
            client.request(method, path.format(id=job["id"])).raise_for_status()
            answer = ""
            while "}}" not in answer:  # head and body may come one after the other
                part = caller.recv(65536).decode()
                assert part, answer
                answer += part
        assert answer.startswith("HTTP/1.1 409"), answer
        assert "x-should-retry: false" in answer
        assert "job_cancelled" in answer


def test_pipelined_requests_are_not_taken_for_a_departure(client: httpx2.Client, stack: Stack) -> None:
    """A caller that sends its next request while it waits is still there."""
    label = unique("label")
    with connect(stack, "/v1/chat/completions", chat(label, "sim-slow-1", metadata={"label": label})) as caller:
        eventually(lambda: calls_of(stack, messages(label)))
        caller.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        received = b""
        while part := caller.recv(65536):
            received += part
    assert received.count(b"HTTP/1.1 200") == 2, received
