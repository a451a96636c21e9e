"""How the tests drive a running stack: submitting, waiting for ends, counting LLM calls."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import httpx2
import redis

from simulator.prompts import prompt_hash
from tests.processes import Stack, eventually

TERMINAL = frozenset({"completed", "failed", "cancelled", "incomplete"})


def unique(label: str = "prompt") -> str:
    """A prompt that no other test has."""
    return f"{label} {uuid.uuid4().hex}"


def messages(prompt: str) -> list[dict[str, str]]:
    """The prompt as one user message."""
    return [{"role": "user", "content": prompt}]


def chat(prompt: str, model: str = "sim", **more: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    return {"model": model, "messages": messages(prompt), **more}


def calls_of(stack: Stack, prompt: object) -> int:
    """How many LLM calls the simulator saw for this value of ``input``, ``messages`` or ``prompt``."""
    return int(stack.stats()["by_prompt"].get(prompt_hash({"input": prompt}), 0))


def submit(client: httpx2.Client, headers: dict[str, str] | None = None, **sent: Any) -> dict[str, Any]:
    """The job that ``POST /v1/jobs`` makes of this."""
    answer = client.post("/v1/jobs", json=sent, headers=headers)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def read(client: httpx2.Client, job_id: str) -> dict[str, Any]:
    """The job as it stands."""
    answer = client.get(f"/v1/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ended(client: httpx2.Client, job_id: str, *, within: float = 20.0) -> dict[str, Any]:
    """The job once it has ended."""
    return eventually(lambda: read(client, job_id), lambda job: job["status"] in TERMINAL, within=within)


def running(client: httpx2.Client, stack: Stack, job_id: str, prompt: object) -> None:
    """Return once the job's LLM call is in flight."""
    eventually(lambda: calls_of(stack, prompt))
    eventually(lambda: read(client, job_id)["status"], lambda status: status == "in_progress")


def newest(client: httpx2.Client) -> str | None:
    """The id of the newest job: unchanged as long as none is made."""
    return client.get("/v1/jobs", params={"limit": 1}).raise_for_status().json()["first_id"]  # type: ignore[no-any-return]


def job_labelled(client: httpx2.Client, label: str) -> dict[str, Any] | None:
    """The recent job whose metadata has this label."""
    jobs = client.get("/v1/jobs", params={"limit": 100}).raise_for_status().json()["data"]
    return next((job for job in jobs if job["metadata"].get("label") == label), None)


def everything_in(redis_url: str) -> dict[str, str]:
    """All that the Redis database holds as text by key, with Celery's message bodies decoded."""
    found: dict[str, str] = {}
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(count=1000):
            match client.type(key):
                case b"string":
                    parts = [client.get(key)]
                case b"hash":
                    parts = [part for pair in client.hgetall(key).items() for part in pair]
                case b"list":
                    parts = client.lrange(key, 0, -1)
                case b"stream":
                    parts = [part for _, fields in client.xrange(key) for part in fields.values()]
                case b"set":
                    parts = list(client.smembers(key))
                case _:
                    parts = client.zrange(key, 0, -1)
            found[key.decode()] = "\n".join(with_bodies(part or b"") for part in parts)
    return found


def with_bodies(raw: bytes) -> str:
    """The text of a value, and of the base64 body in it where it is a message of Celery's."""
    text = raw.decode("utf-8", "replace")
    try:
        message: Any = json.loads(text)
        while isinstance(message, list):  # what is not acknowledged yet is kept as [message, exchange, key]
            message = message[0]
        return text + base64.b64decode(message["body"]).decode("utf-8", "replace")
    except (ValueError, TypeError, KeyError, IndexError):
        return text
