"""Stacks of their own: a full worker, an LLM that is away, a wait that ends, restarts, several API processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests import processes
from tests.integration.conftest import EMBEDDED, QUICK_RETRIES
from tests.integration.driving import calls_of, chat, ended, job_labelled, messages, read, submit, unique
from tests.processes import Stack, end, eventually, free_port


def simulator(stack: Stack, path: str, **settings: Any) -> None:
    """Tell the simulator something."""
    httpx2.post(stack.llm.removesuffix("/v1") + path, json=settings).raise_for_status()


def test_a_full_worker_refills_a_freed_slot_at_once(alice: httpx2.Client, small: Stack) -> None:
    """30 jobs of half a second in 5 slots take about three seconds, with never more than 5 calls at once."""
    eventually(lambda: small.stats()["in_flight"], lambda count: count == 0)
    simulator(small, "/stats/reset")
    prompts = [unique() for _ in range(30)]
    jobs = [submit(alice, prompt=prompt, model="sim-slow-0.5")["id"] for prompt in prompts]
    done = [ended(alice, job_id) for job_id in jobs]
    assert {job["status"] for job in done} == {"completed"}
    stats = small.stats()
    assert (stats["calls"], stats["peak"]) == (30, 5)
    makespan = max(job["finished_at"] for job in done) - min(job["started_at"] for job in done)
    assert makespan < 2 * 30 * 0.5 / 5
    # First in, first out, give or take what runs at once.
    order = [job["id"] for job in sorted(done, key=lambda job: job["started_at"])]
    assert all(abs(order.index(job_id) - place) <= 10 for place, job_id in enumerate(jobs))


def test_the_queues_are_served_in_their_order(alice: httpx2.Client, full: list[str]) -> None:
    """When a slot is freed, interactive goes before default, and default before bulk."""
    jobs = {
        queue: submit(alice, prompt=unique(), model="sim-slow-0.2", queue=queue)["id"]
        for queue in ("bulk", "default", "interactive")
    }
    alice.post(f"/v1/jobs/{full[0]}/cancel")
    started = {queue: ended(alice, job_id)["started_at"] for queue, job_id in jobs.items()}
    assert started["interactive"] < started["default"] < started["bulk"]


@pytest.mark.parametrize("retries", [0, 2])
def test_a_call_that_outlasts_the_wait_is_told_of_its_job(alice: httpx2.Client, small: Stack, retries: int) -> None:
    """After ``PROMPTQ_MAX_WAIT`` a 504 that the SDK does not repeat names the job, which goes on to its one answer."""
    prompt, label = unique(), unique("label")
    with openai.OpenAI(base_url=f"{small.api}/v1", api_key="k1", max_retries=retries) as sdk:
        with pytest.raises(openai.InternalServerError) as caught:
            sdk.chat.completions.create(**chat(prompt, "sim-slow-2.5", metadata={"label": label}))
        assert (caught.value.status_code, caught.value.code) == (504, "wait_timeout")
        assert caught.value.response.headers["x-should-retry"] == "false"
        job = job_labelled(alice, label)
        assert job is not None
        assert job["id"] in caught.value.message
        with pytest.raises(openai.InternalServerError) as caught:
            sdk.responses.create(model="sim-slow-2.5", input=prompt)
    named = re.search(r"resp_[0-9a-f]{32}", caught.value.message)
    assert named
    assert ended(alice, job["id"])["status"] == ended(alice, named[0])["status"] == "completed"
    assert (calls_of(small, messages(prompt)), calls_of(small, prompt)) == (1, 1)


def test_an_llm_that_is_down_fails_the_job_after_its_retries(alice: httpx2.Client, small: Stack) -> None:
    """While the LLM answers 503 to all, jobs fail with a clear error after their attempts, and run again after."""
    prompt = unique()
    simulator(small, "/control", down=True)
    try:
        job = ended(alice, submit(alice, prompt=prompt, model="sim")["id"])
        answer = alice.post("/generate", json={"prompt": unique()})
    finally:
        simulator(small, "/control", down=False)
    assert (job["status"], job["error"]["code"], job["attempt"]) == ("failed", "llm_unavailable", 3)
    assert job["error"]["upstream_status"] == 503
    assert calls_of(small, messages(prompt)) == 3
    assert (answer.status_code, answer.headers["x-should-retry"]) == (503, "false")
    assert alice.post("/generate", json={"prompt": prompt}).status_code == 200


def test_metrics_are_summed_over_the_processes(small: Stack) -> None:
    """With two API processes, ``/metrics`` counts what both have answered, whichever is asked."""

    def count() -> float:
        text = httpx2.get(f"{small.api}/metrics").raise_for_status().text
        found = re.findall(r"^promptq_http_requests_total\{(.*)\} (.*)$", text, re.MULTILINE)
        return sum(float(value) for labels, value in found if 'route="/v1/models"' in labels and '"200"' in labels)

    before = count()
    for _ in range(40):  # each on a connection of its own, so that both processes get some
        httpx2.get(f"{small.api}/v1/models", headers={"Authorization": "Bearer k1"}).raise_for_status()
    assert [count() for _ in range(6)] == [before + 40] * 6


def test_a_restart_keeps_jobs(tmp_path: Path) -> None:
    """A stack that is stopped and started on the same folder has its results, and runs what was left."""
    arguments = ("--concurrency", "2", "--simulator-latency", "0.05", "--no-flower", "--grace", "2")
    with processes.stack(tmp_path, *arguments, **QUICK_RETRIES, **EMBEDDED) as stack, stack.client() as client:
        prompt, later = unique(), unique()
        done = ended(client, submit(client, prompt=prompt, model="sim")["id"])
        response = client.post("/v1/responses", json={"model": "sim", "input": prompt}).json()
        for _ in range(2):
            hanging = submit(client, prompt=unique(), model="sim-slow-3")["id"]
        queued = submit(client, prompt=later, model="sim")["id"]
        eventually(lambda: read(client, hanging)["status"], lambda status: status == "in_progress")
        assert read(client, queued)["status"] == "queued"
    assert stack.up.returncode == 0
    with processes.stack(tmp_path, *arguments, **QUICK_RETRIES, **EMBEDDED) as stack, stack.client() as client:
        assert read(client, done["id"]) == done
        assert client.get(f"/v1/responses/{response['id']}").json() == response
        assert ended(client, queued)["status"] == "completed"
        again = ended(client, hanging)
        assert (again["status"], again["attempt"]) == ("completed", 1)
        assert calls_of(stack, messages(later)) == 1
        # Redis is here, and the LLM gone for good: refused connections are retried, then reported.
        os.kill(stack.processes["simulator"], signal.SIGKILL)
        job = ended(client, submit(client, prompt=unique(), model="sim")["id"])
        assert (job["status"], job["error"]["code"], job["attempt"]) == ("failed", "llm_unreachable", 3)
        assert client.get("/readyz").status_code == 200


def test_without_keys_only_loopback_is_bound(tmp_path: Path) -> None:
    """A server that anybody could reach, and that has no keys, does not start, and says what to set."""
    names = {name: value for name, value in os.environ.items() if not name.startswith(("PROMPTQ_API_KEY", "OPENAI_"))}
    env = names | {"PROMPTQ_HOST": "0.0.0.0", "PROMPTQ_PORT": str(free_port())}
    serve = [sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "api.wsgi:app"]
    up = [sys.executable, "-m", "cli", "up", "--simulator", "--host", "0.0.0.0", "--port", "0", "--no-flower"]
    for command in (serve, [*up, "--data-dir", str(tmp_path / "data")]):
        own = env | EMBEDDED if command[2] == "cli" else env
        ran = subprocess.run(command, env=own, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode != 0
        assert "PROMPTQ_API_KEYS" in ran.stdout + ran.stderr
        assert "Traceback" not in ran.stdout + ran.stderr


@pytest.mark.parametrize("apart", [False, True], ids=["at the API's port", "at a port of their own"])
def test_metrics_of_the_documented_gunicorn_command_are_summed(small: Stack, tmp_path: Path, apart: bool) -> None:
    """Two API processes, started as gunicorn_conf says and by nothing else, tell the sum of both; with a port for
    metrics they do so there alone."""
    port, metrics_port = free_port(), free_port()
    outside = {name: value for name, value in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    settings = {"PROMPTQ_PORT": str(port), "PROMPTQ_API_WORKERS": "2", "PROMPTQ_REDIS_URL": small.redis}
    if apart:
        settings["PROMPTQ_METRICS_PORT"] = str(metrics_port)
    command = [sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "api.wsgi:app"]
    with (tmp_path / "api.log").open("w") as log:
        api = subprocess.Popen(command, env=outside | settings, stdout=log, stderr=log)
    try:

        def fetch(path: str, port: int = port) -> str:
            try:
                # A connection each, so that both processes get some.
                return httpx2.get(f"http://127.0.0.1:{port}{path}", headers={"Connection": "close"}).text
            except httpx2.TransportError:
                return ""

        eventually(lambda: fetch("/healthz"), within=30)
        at = metrics_port if apart else port
        before = _answered(fetch("/metrics", at))
        for _ in range(20):
            fetch("/v1/jobs/none")
        assert [_answered(fetch("/metrics", at)) for _ in range(6)] == [before + 20] * 6
        assert apart is ("not_found" in fetch("/metrics"))
    finally:
        assert end(api) == 0


def _answered(metrics: str) -> float:
    lines = [line for line in metrics.splitlines() if line.startswith("promptq_http_requests_total")]
    return sum(float(line.split()[-1]) for line in lines if 'route="/v1/jobs/<job_id>"' in line)
