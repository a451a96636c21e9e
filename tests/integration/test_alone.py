"""A job whose worker died under it twice runs in a process of its own, and takes nobody with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import redis

from jobs import queues
from tests import processes
from tests.integration.conftest import QUICK_RETRIES, own_database
from tests.integration.driving import calls_of, ended, messages, submit, unique
from tests.processes import Stack, eventually


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with one slot and short leases."""
    with processes.stack(
        tmp_path_factory.mktemp("single"),
        *("--concurrency", "1", "--simulator-latency", "0.05", "--no-flower"),
        PROMPTQ_LEASE_SECONDS="2",
        **QUICK_RETRIES,
        **own_database(3),
    ) as running:
        yield running


def struck_job(stack: Stack, client: httpx2.Client, model: str, prompt: str) -> str:
    """A job that is said to have crashed its worker twice, made while the only slot is taken."""
    holding = submit(client, model="sim-hang", prompt=unique())["id"]
    eventually(lambda: client.get(f"/v1/jobs/{holding}").json()["status"], lambda status: status == "in_progress")
    job_id = submit(client, model=model, prompt=prompt)["id"]
    with redis.Redis.from_url(stack.redis) as server:
        server.hset(queues.job_key(job_id), "strikes", 2)
    client.post(f"/v1/jobs/{holding}/cancel")
    return str(job_id)


def process_of(job_id: str) -> int | None:
    """The process that runs this one job (Linux)."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended as we looked
            continue
        if b"worker.alone" in arguments and job_id.encode() in arguments:
            return int(folder.name)
    return None


def test_a_struck_job_runs_alone_and_completes(single: Stack) -> None:
    """An innocent job that was struck twice is answered all the same, with one call, from a process of its own."""
    prompt = unique()
    with single.client() as client:
        job_id = struck_job(single, client, "sim-slow-1", prompt)
        alone = eventually(lambda: process_of(job_id), within=20)
        assert alone not in single.processes.values()
        job = ended(client, job_id)
    assert (job["status"], job["attempt"]) == ("completed", 1)
    assert calls_of(single, messages(prompt)) == 1
    eventually(lambda: process_of(job_id) is None)


def test_a_job_that_crashes_its_own_process_is_ended(single: Stack) -> None:
    """At the third crash the job fails as what it is; its worker goes on with others."""
    with single.client() as client:
        job_id = struck_job(single, client, "sim-hang", unique())
        alone = eventually(lambda: process_of(job_id), within=20)
        assert alone is not None
        eventually(lambda: single.stats()["in_flight"], lambda count: count == 1, within=20)
        os.kill(alone, signal.SIGKILL)
        job = ended(client, job_id)
        assert (job["status"], job["error"]["code"]) == ("failed", "worker_crashed")
        assert client.post("/generate", json={"prompt": unique()}).status_code == 200


def test_cancelling_reaches_a_job_that_runs_alone(single: Stack) -> None:
    """A cancelled job's call is aborted wherever it runs."""
    with single.client() as client:
        job_id = struck_job(single, client, "sim-hang", unique())
        eventually(lambda: process_of(job_id), within=20)
        eventually(lambda: single.stats()["in_flight"], lambda count: count == 1, within=20)
        assert client.post(f"/v1/jobs/{job_id}/cancel").json()["status"] == "cancelled"
        eventually(lambda: single.stats()["in_flight"], lambda count: count == 0)
