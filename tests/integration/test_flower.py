"""Flower shows tasks by name and job id, and never a prompt."""

from __future__ import annotations

import base64
import json
import time

import httpx2
import redis

from tests.integration.driving import chat, ended, submit, unique
from tests.manifests.rendering import PRODUCTION, container, rendered
from tests.processes import Stack, eventually


def test_flower_shows_tasks_by_job_id(client: httpx2.Client, stack: Stack) -> None:
    """Flower's pages know each task by the job's id and the task's name, and hold no prompt."""
    assert stack.flower is not None
    marker = unique("marker").replace(" ", "-")
    ids = [
        submit(client, endpoint="/v1/chat/completions", body=chat(marker, model))["id"] for model in ("sim", "sim-400")
    ]
    for job_id in ids:
        ended(client, job_id)
    user, password = str(stack.flower_login).split(":")
    with httpx2.Client(base_url=stack.flower, timeout=20, auth=(user, password)) as flower:
        # Below its path, and nowhere else.
        assert httpx2.get(httpx2.URL(stack.flower).join("/workers"), timeout=20).status_code == 404
        for path in ("workers", "tasks", f"task/{ids[0]}", "api/workers", "api/tasks"):
            assert httpx2.get(f"{stack.flower}{path}", timeout=20).status_code == 401, path
        workers = eventually(lambda: flower.get("api/workers", params={"refresh": 1}).raise_for_status().json())
        (worker,) = workers
        for path in (f"api/worker/shutdown/{worker}", f"api/task/revoke/{ids[0]}", "api/task/apply/promptq.run_job"):
            assert flower.post(path, json={"args": []}).status_code == 403, path
        for job_id in ids:
            page = eventually(lambda job_id=job_id: flower.get(f"/task/{job_id}"), lambda page: page.status_code == 200)
            assert "promptq.run_job" in page.text
            assert job_id in page.text
            assert marker not in page.text
        probes = container(rendered(PRODUCTION).get("Deployment", "flower"))
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            place = httpx2.URL(stack.flower).join(probes[probe]["httpGet"]["path"])
            assert httpx2.get(place, timeout=20).status_code == 200
        for path in ("/tasks", "/workers"):
            assert marker not in flower.get(path).raise_for_status().text
        assert "worker-1@" in flower.get("/workers").text


def test_events_go_out_many_in_a_message(client: httpx2.Client, stack: Stack) -> None:
    """All events of each task are published, within a second or so, and in far fewer messages than there are events."""
    with redis.Redis.from_url(stack.redis) as store, store.pubsub(ignore_subscribe_messages=True) as channels:
        channels.psubscribe("*celeryev/task*")
        channels.get_message(timeout=5)
        ids = {submit(client, prompt=unique(), model="sim")["id"] for _ in range(40)}
        seen: set[tuple[str, str]] = set()
        messages = 0
        wanted = {(job_id, f"task-{what}") for job_id in ids for what in ("received", "started", "succeeded")}
        deadline = time.monotonic() + 30
        while not wanted <= seen:
            assert time.monotonic() < deadline, wanted - seen
            message = channels.get_message(timeout=1)
            if message is not None:
                messages += 1
                events = json.loads(base64.b64decode(json.loads(message["data"])["body"]))
                seen |= {(one["uuid"], one["type"]) for one in (events if isinstance(events, list) else [events])}
    assert messages < len(wanted) / 2
