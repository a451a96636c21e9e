"""The simulator as a real process, and the SDK as its client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.processes import eventually
from tests.unit.simulator.driving import DEADLINE, NORMAL, Simulator, running


@pytest.fixture(scope="package")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """One simulator process for all tests of this folder."""
    with running(tmp_path_factory.mktemp("simulator"), "--latency", "0") as simulator:
        yield simulator


@pytest.fixture
def simulator(process: Simulator) -> Simulator:
    """The simulator with nothing in flight, no latency and its counts at zero."""
    process.control(**NORMAL)
    eventually(lambda: process.stats()["in_flight"] == 0)
    process.request("/stats/reset", {})
    return process


@pytest.fixture(scope="package")
def client(process: Simulator) -> Iterator[OpenAI]:
    """The unchanged SDK, which repeats nothing."""
    with OpenAI(base_url=process.url, api_key="sk-test", max_retries=0, timeout=DEADLINE) as client:
        yield client
