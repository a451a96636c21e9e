"""A prompt stands in its job's record and nowhere else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import httpx2
import pytest
import redis

from tests.integration.driving import chat, ended, everything_in, read, submit, unique, with_bodies
from tests.processes import Stack, eventually

MODELS = ["sim", "sim-400", "sim-429", "sim-500", "sim-cut", "sim-truncated", "sim-garbage", "sim-wrong-shape"]


@pytest.fixture
def published(stack: Stack) -> Iterator[list[str]]:
    """All that is published on any Redis channel, Celery's events among it."""
    heard: list[str] = []
    stop = threading.Event()
    with redis.Redis.from_url(stack.redis) as client, client.pubsub() as channels:
        channels.psubscribe("*")
        channels.get_message(timeout=5)

        def listen() -> None:
            while not stop.is_set():
                message = channels.get_message(timeout=0.1)
                if message is not None and message["type"] == "pmessage":
                    heard.append(with_bodies(message["data"]))

        listener = threading.Thread(target=listen)
        listener.start()
        yield heard
        stop.set()
        listener.join()


def test_no_prompt_is_logged_or_published(client: httpx2.Client, stack: Stack, published: list[str]) -> None:
    """Neither logs nor Redis channels, Celery's events among them, hold a prompt, whatever becomes of its job."""
    marker = unique("marker").replace(" ", "-")
    ids = [submit(client, endpoint="/v1/chat/completions", body=chat(marker, model))["id"] for model in MODELS]
    body = {"model": "sim-failed", "input": marker, "background": True, "instructions": marker}
    ids.append(client.post("/v1/responses", json=body).json()["id"])
    first = client.post("/v1/responses", json={"model": "sim", "input": marker}).json()["id"]
    following = {"model": "sim-500", "input": "And then?", "previous_response_id": first}
    ids.append(client.post("/v1/responses", json={**following, "background": True}).json()["id"])
    client.post("/v1/responses", json={**following, "store": False})
    client.post("/v1/chat/completions", json=chat(marker, "sim-400"))
    client.post("/generate", json={"prompt": marker})
    for model in ("sim", "sim-stream-error", "sim-breaks-1"):
        streamed = client.post("/v1/responses", json={"model": model, "input": marker, "stream": True})
        ids.append(streamed.headers["x-promptq-job-id"])
    refused = [
        client.post("/v1/jobs", json={"prompt": marker, "queue": marker}),
        client.post("/v1/jobs", json={"prompt": [marker]}),
        client.post("/v1/jobs", json={marker: marker, "prompt": "x"}),
        client.post("/v1/jobs", content=f'{{"prompt": "{marker}'),
        client.post("/v1/chat/completions", json={"model": "sim", "messages": marker}),
    ]
    assert {answer.status_code for answer in refused} == {400}
    for job_id in ids:
        ended(client, job_id)
    eventually(lambda: stack.logs(), lambda logs: all(job_id in logs for job_id in ids))
    assert marker not in stack.logs()
    eventually(lambda: "".join(published), lambda heard: f'"uuid": "{ids[-1]}"' in heard)
    assert marker not in "".join(published)


def test_only_job_records_hold_prompts(alice: httpx2.Client, small: Stack, full: list[str]) -> None:
    """Of all keys in Redis, the queues among them, only the job's record holds its prompt."""
    marker = unique("marker").replace(" ", "-")
    queued = [submit(alice, prompt=marker, model="sim", queue=queue)["id"] for queue in ("default", "bulk")]
    headers = {"Idempotency-Key": marker}
    queued.append(submit(alice, headers, endpoint="/v1/responses", body={"model": "sim-400", "input": marker})["id"])
    found = everything_in(small.redis)
    assert {key for key, text in found.items() if marker in text} == {f"promptq:job:{job_id}" for job_id in queued}
    # The messages are there to be looked at, in the queues' lists.
    assert queued[1] in found["promptq.bulk"]
    assert "promptq.run_job" in found["promptq.bulk"]
    assert "k1" not in json.dumps(found).replace('"', " ").split()
    for job_id in queued:
        alice.post(f"/v1/jobs/{job_id}/cancel")
        assert read(alice, job_id)["status"] == "cancelled"
