"""Redis hangs, comes back, and dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import pytest

from tests import processes
from tests.integration.conftest import EMBEDDED, QUICK_RETRIES
from tests.integration.driving import calls_of, chat, ended, messages, read, running, submit, unique
from tests.processes import Stack, eventually


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose Redis may be stopped; its last test kills it."""
    arguments = ("--concurrency", "10", "--simulator-latency", "0.05", "--no-flower", "--grace", "3")
    with processes.stack(tmp_path_factory.mktemp("fragile"), *arguments, **QUICK_RETRIES, **EMBEDDED) as running:
        yield running


@pytest.fixture
def client(fragile: Stack) -> Iterator[httpx2.Client]:
    """A client of that stack."""
    with fragile.client() as client:
        yield client


def timed(client: httpx2.Client, method: str, path: str, body: object) -> tuple[httpx2.Response, float]:
    """The answer, and how many seconds it took."""
    began = time.monotonic()
    return client.request(method, path, json=body), time.monotonic() - began


def test_a_redis_that_hangs_is_a_503_soon_and_works_again_after(client: httpx2.Client, fragile: Stack) -> None:
    """While Redis hangs, calls get a 503 with Retry-After in about two seconds; a running job loses nothing."""
    prompt = unique()
    job = submit(client, prompt=prompt, model="sim-slow-1")
    running(client, fragile, job["id"], messages(prompt))
    os.kill(fragile.processes["redis"], signal.SIGSTOP)
    try:
        calls = [
            ("POST", "/v1/jobs", {"prompt": unique()}),
            ("GET", f"/v1/jobs/{job['id']}", None),
            ("GET", f"/v1/jobs/{job['id']}?wait=30", None),
            ("GET", "/v1/jobs", None),
            ("POST", "/v1/chat/completions", chat(unique())),
            ("POST", "/v1/responses", {"model": "sim", "input": "x", "background": True}),
            ("GET", "/readyz", None),
        ]
        with ThreadPoolExecutor(len(calls)) as pool:
            answers = list(pool.map(lambda call: timed(client, *call), calls))
        for (_, path, _), (answer, seconds) in zip(calls, answers, strict=True):
            assert seconds < 4.5, path
            assert answer.status_code == 503, (path, answer.text)
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.json()["error"]["code"] in {"store_unavailable", "acceptance_unknown"}
        assert client.get("/healthz").status_code == 200
        with openai.OpenAI(base_url=f"{fragile.api}/v1", api_key=fragile.api_key, max_retries=0) as sdk:
            with pytest.raises(openai.InternalServerError) as caught:
                sdk.responses.retrieve("resp_" + "0" * 32)
            assert caught.value.status_code == 503
    finally:
        os.kill(fragile.processes["redis"], signal.SIGCONT)
    eventually(lambda: client.get("/readyz").status_code, lambda status: status == 200)
    assert ended(client, job["id"])["status"] == "completed"
    assert calls_of(fragile, messages(prompt)) == 1
    again = unique()
    assert client.post("/generate", json={"prompt": again}).json() == {"response": f"Simulated answer to: {again}"}
    assert read(client, job["id"])["attempt"] == 1


def test_a_redis_that_is_dead_leaves_the_api_alive_but_unready(client: httpx2.Client, fragile: Stack) -> None:
    """Without Redis ``/healthz`` stays green and ``/readyz`` turns red, and jobs are refused with a 503."""
    os.kill(fragile.processes["redis"], signal.SIGKILL)
    eventually(lambda: client.get("/readyz").status_code, lambda status: status == 503)
    assert client.get("/healthz").status_code == 200
    began = time.monotonic()
    answer = client.post("/v1/jobs", json={"prompt": unique()})
    assert time.monotonic() - began < 4
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")
    assert "Retry-After" in answer.headers
    assert fragile.up.poll() is None


def test_calls_that_outlast_a_crash_of_redis_are_paid_once(tmp_path: Path) -> None:
    """Redis is killed with calls in flight and comes back: each job completes, with one call."""
    port = processes.free_port()
    server = processes.start_redis(tmp_path / "redis", port)
    url = {"PROMPTQ_REDIS_URL": f"redis://127.0.0.1:{port}/0", "PROMPTQ_LEASE_SECONDS": "3"}
    try:
        options = ("--concurrency", "20", "--simulator-latency", "0.05", "--no-flower")
        with processes.stack(tmp_path, *options, **url) as stack, stack.client() as client:
            jobs = [submit(client, model="sim-slow-2", prompt=unique())["id"] for _ in range(30)]
            eventually(lambda: stack.stats()["in_flight"], lambda count: count == 20)
            server.kill()
            server.wait(10)
            # The running calls end while there is nobody to tell.
            eventually(lambda: stack.stats()["in_flight"], lambda count: count == 0)
            server = processes.start_redis(tmp_path / "redis", port)
            assert {ended(client, job_id, within=40)["status"] for job_id in jobs} == {"completed"}
            assert stack.stats()["calls"] == 30
    finally:
        processes.end(server)
