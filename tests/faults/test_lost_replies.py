"""The reply to an atomic step is lost after the step has run: whoever asked for it asks again, and no harm is done."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import redis

from jobs.scripts import Scripts
from tests.faults.cluster import Cluster
from tests.faults.lossy import LossyProxy
from tests.faults.room import Room
from tests.faults.submitting import Order, Submitter, orders
from tests.integration.driving import messages, unique
from tests.processes import eventually, free_port

#: redis-py sends a step four times by itself; after so many losses the runner has to send it anew.
ONCE, BEYOND_THE_CLIENT = 1, 5


@pytest.fixture
def proxy(room: Room) -> Iterator[LossyProxy]:
    """A proxy before Redis, which knows every script already: a lost reply is that of a step that ran."""
    with LossyProxy(room.cluster.redis_port) as proxy:
        for step in vars(Scripts(room.store)).values():
            room.store.script_load(step.script)
        yield proxy


def sha(store: redis.Redis, step: str) -> str:
    """The name under which Redis knows the step."""
    return str(getattr(Scripts(store), step).sha)


def start_worker(cluster: Cluster, proxy: LossyProxy, **settings: str) -> None:
    """Start a worker that speaks to Redis through the proxy."""
    cluster.start_worker("w1", PROMPTQ_REDIS_URL=proxy.url, **settings)


def test_a_submit_whose_reply_was_lost_is_one_job_when_repeated(room: Room, proxy: LossyProxy) -> None:
    """The reply to ``create`` is lost: 503 ``acceptance_unknown``; the same key gives the one job that was made."""
    port = free_port()
    room.cluster.start_api("lossy-api", port=port, PROMPTQ_REDIS_URL=proxy.url)
    room.cluster.start_worker()
    order = Order(unique(), key=uuid.uuid4().hex)
    headers, body = {"Idempotency-Key": str(order.key)}, order.body
    with room.cluster.client(base_url=f"http://127.0.0.1:{port}") as client:
        proxy.lose_replies(sha(room.store, "create"), ONCE)
        answer = client.post("/v1/jobs", json=body, headers=headers)
        room.history.unknown(messages(order.prompt), key=order.key)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "acceptance_unknown"), answer.text
        assert proxy.lost == 1
        (made,) = room.client.get("/v1/jobs").json()["data"]
        assert Submitter(client, room.history).insist(order) == made["id"]
    room.conclude()
    assert room.calls([order]) == [1]


@pytest.mark.parametrize("times", [ONCE, BEYOND_THE_CLIENT])
@pytest.mark.parametrize(
    ("step", "model", "in_slot", "calls"),
    [
        ("claim", "sim", "2", 1),
        ("complete", "sim", "2", 1),
        ("retry", "sim-flaky-1", "2", 2),
        ("retry", "sim-flaky-1", "0", 2),
        ("renew", "sim-slow-4", "2", 1),
    ],
    ids=["claim", "complete", "retry in the slot", "retry by the scheduler", "renew"],
)
def test_a_worker_that_lost_the_reply_to_a_step_replays_it(
    room: Room, proxy: LossyProxy, step: str, model: str, in_slot: str, calls: int, times: int
) -> None:
    """The reply to a step of the worker is lost, once or until redis-py gives up: the replay changes nothing, and
    nobody pays for it."""
    start_worker(room.cluster, proxy, PROMPTQ_RETRY_IN_SLOT=in_slot)
    proxy.lose_replies(sha(room.store, step), times)
    wanted = orders(1, model=model)
    (job_id,) = room.submitter.must(wanted)
    # The worker may still repeat what the store has long done.
    eventually(lambda: proxy.lost, lambda lost: lost == times)
    room.conclude()
    assert room.calls(wanted) == [calls]
    assert room.numbers([job_id], "attempt") == [calls]
    assert room.numbers([job_id], "strikes") == [0]


@pytest.mark.parametrize("times", [ONCE, BEYOND_THE_CLIENT])
def test_a_hand_back_whose_reply_was_lost_happens_once(room: Room, proxy: LossyProxy, times: int) -> None:
    """The reply to the hand-back of a stopping worker is lost: the job waits once, and another worker completes it."""
    start_worker(room.cluster, proxy, PROMPTQ_GRACE_SECONDS="0.1")
    wanted = orders(1, model="sim-slow-1.5")
    (job_id,) = room.submitter.must(wanted)
    room.in_flight(1)
    proxy.lose_replies(sha(room.store, "release"), times)
    room.cluster.parts["w1"].terminate()
    eventually(lambda: proxy.lost, lambda lost: lost == times)
    assert room.cluster.parts["w1"].died() == 0
    room.cluster.start_worker("w2")
    room.conclude()
    assert room.calls(wanted) == [2]
    assert room.numbers([job_id], "attempt") == [1]
    assert room.numbers([job_id], "strikes") == [0]


def test_connections_cut_at_any_moment_lose_nothing(room: Room, proxy: LossyProxy) -> None:
    """All connections of a worker are cut, time and again, in a burst: all jobs complete, with one call each."""
    start_worker(room.cluster, proxy)
    wanted = orders(60, model="sim-slow-0.2")
    room.submitter.must(wanted)
    for ended in (5, 20, 40):
        eventually(lambda: room.cluster.stats()["calls"], lambda calls, ended=ended: calls >= ended, within=30)
        proxy.cut_all()
    room.conclude()
    assert room.calls(wanted) == [1] * len(wanted)
