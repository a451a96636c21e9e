"""Flower shows tasks by name and job id, and never a prompt."""

from __future__ import annotations

import httpx2

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
    with httpx2.Client(base_url=stack.flower, timeout=20) as flower:
        for job_id in ids:
            page = eventually(lambda job_id=job_id: flower.get(f"/task/{job_id}"), lambda page: page.status_code == 200)
            assert "promptq.run_job" in page.text
            assert job_id in page.text
            assert marker not in page.text
        probes = container(rendered(PRODUCTION).get("Deployment", "flower"))
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert flower.get(probes[probe]["httpGet"]["path"], auth=("no", "login")).status_code == 200
        for path in ("/tasks", "/workers"):
            assert marker not in flower.get(path).raise_for_status().text
        assert "worker-1@" in flower.get("/workers").text
