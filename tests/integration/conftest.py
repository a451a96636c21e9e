"""Fixtures of the integration tests, besides the shared ``stack``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import redis

from tests import processes
from tests.processes import Stack

QUICK_RETRIES = {"PROMPTQ_RETRY_BASE": "0.05", "PROMPTQ_RETRY_MAX": "0.2", "PROMPTQ_MAX_ATTEMPTS": "3"}
#: The embedded server, whatever Redis the environment names: for tests that stop it.
EMBEDDED = {"PROMPTQ_REDIS_URL": ""}


def own_database(number: int) -> dict[str, str]:
    """The setting for a Redis database that no other stack uses; the embedded server where none is given."""
    given = os.environ.get("PROMPTQ_REDIS_URL")
    if not given:
        return EMBEDDED
    url = f"{given.rstrip('/').removesuffix('/0')}/{number}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return {"PROMPTQ_REDIS_URL": url}


@pytest.fixture
def client(stack: Stack) -> Iterator[httpx2.Client]:
    """A plain HTTP client of the shared stack."""
    with stack.client() as client:
        yield client


@pytest.fixture(scope="session")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key file of ``small``."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("# nobody yet\n")
    return file


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, keys_file: Path) -> Iterator[Stack]:
    """A stack that is soon full (5 calls at once), of two API processes, with keys of alice (``k1``), bob (``k2``) and
    carol (``k3``), where a synchronous call is held for a second at most."""
    settings = {
        "PROMPTQ_API_KEYS": "alice:k1,bob:k2,carol:k3",
        "PROMPTQ_API_KEYS_FILE": str(keys_file),
        "PROMPTQ_MAX_WAIT": "1",
        "PROMPTQ_API_KEY": "k1",
    }
    with processes.stack(
        tmp_path_factory.mktemp("small"),
        *("--concurrency", "5", "--api-workers", "2", "--simulator-latency", "0.05", "--no-flower"),
        **settings,
        **QUICK_RETRIES,
        **own_database(2),
    ) as running:
        yield running


@pytest.fixture
def alice(small: Stack) -> Iterator[httpx2.Client]:
    """A client of ``small`` with alice's key."""
    with small.client() as client:
        yield client


@pytest.fixture
def bob(small: Stack) -> Iterator[httpx2.Client]:
    """A client of ``small`` with bob's key."""
    with small.client(headers={"Authorization": "Bearer k2"}) as client:
        yield client


@pytest.fixture
def carol(small: Stack) -> Iterator[httpx2.Client]:
    """A client of ``small`` with carol's key: the owner who has never had a webhook secret."""
    with small.client(headers={"Authorization": "Bearer k3"}) as client:
        yield client


@pytest.fixture
def full(small: Stack, alice: httpx2.Client) -> Iterator[list[str]]:
    """``small`` with every slot taken by a job that hangs; yields their ids, and cancels them."""
    ids = [
        alice.post("/v1/jobs", json={"prompt": f"hold slot {number}", "model": "sim-hang"}).json()["id"]
        for number in range(5)
    ]
    processes.eventually(lambda: small.stats()["in_flight"], lambda count: count == 5)
    yield ids
    with contextlib.suppress(httpx2.HTTPError):
        for job_id in ids:
            alice.post(f"/v1/jobs/{job_id}/cancel")
    processes.eventually(lambda: small.stats()["in_flight"], lambda count: count == 0)
