"""The API is asked to stop while callers poll, wait and submit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.faults.room import Room
from tests.faults.submitting import Order, orders
from tests.integration.driving import chat, ended, unique
from tests.processes import eventually, free_port

NAME = "api-2"
#: Longer than the margin at which waiting callers are answered: the one must not be taken out of the other.
POLITE = {"PROMPTQ_DRAIN_SECONDS": "4", "PROMPTQ_GRACE_SECONDS": "6"}


@pytest.fixture
def leaving(room: Room) -> Iterator[httpx2.Client]:
    """A client of a second API, which is to be stopped, and a worker."""
    port = free_port()
    room.cluster.start_worker()
    room.cluster.start_api(NAME, port=port, **POLITE)
    with room.cluster.client(base_url=f"http://127.0.0.1:{port}") as client:
        yield client


def status_of_readyz(client: httpx2.Client) -> int:
    """What ``/readyz`` says."""
    return client.get("/readyz").status_code


def test_an_api_that_stops_lets_everybody_finish(room: Room, leaving: httpx2.Client) -> None:
    """On SIGTERM ``/readyz`` turns red while requests are still taken, long-polls end with what there is, waiting
    callers get their answers, and the process ends with 0, whatever connections are kept alive."""
    (hanging,) = orders(1, model="sim-hang", good=False)
    job_id = room.submitter.submit(hanging)
    room.in_flight(1)
    api = room.cluster.parts[NAME]
    with ThreadPoolExecutor(2) as pool:
        polling = pool.submit(leaving.get, f"/v1/jobs/{job_id}?wait=60")
        waiting = pool.submit(leaving.post, "/v1/chat/completions", json=chat(unique(), "sim-slow-3"))
        room.in_flight(2)
        began = time.monotonic()
        api.terminate()
        eventually(lambda: status_of_readyz(leaving), lambda status: status == 503)
        late = leaving.post("/v1/jobs", json=Order(unique()).body)
        polled, answered = polling.result(), waiting.result()
        api.died()
    assert (polled.status_code, polled.json()["status"]) == (200, "in_progress")
    assert (late.status_code, answered.status_code, api.exit_code) == (202, 200, 0)
    assert time.monotonic() - began < 20, "nobody was left to wait for"
    assert ended(room.client, late.json()["id"])["status"] == "completed"
    room.client.post(f"/v1/jobs/{job_id}/cancel")


def test_a_caller_whose_answer_takes_too_long_is_told_where_to_find_it(room: Room, leaving: httpx2.Client) -> None:
    """A waiting caller is not cut off at the end of the grace period: it gets a 504 with the id of its job, which goes
    on and is not to be sent again."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(leaving.post, "/v1/chat/completions", json=chat(unique(), "sim-slow-12"))
        room.in_flight(1)
        room.cluster.parts[NAME].terminate()
        answer = waiting.result()
    job_id = answer.headers["x-promptq-job-id"]
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "wait_timeout")
    assert answer.headers["x-should-retry"] == "false"
    assert job_id in answer.json()["error"]["message"]
    assert room.cluster.parts[NAME].died() == 0
    assert ended(room.client, job_id)["status"] == "completed"
    assert room.cluster.stats()["calls"] == 1
