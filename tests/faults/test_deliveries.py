"""One job is named by many messages, many requests, or asked to end in two ways at once."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from jobs import queues
from jobs.broker import MessageMaker
from tests.faults.room import Room
from tests.faults.submitting import Order, Submitter, orders
from tests.integration.driving import ended, unique
from tests.processes import eventually

LIST = queues.celery_queue(queues.DEFAULT)


def test_a_message_that_comes_again_while_its_job_runs_costs_no_call(room: Room, messages: MessageMaker) -> None:
    """Running jobs are delivered again, to another worker as well, and are left alone."""
    wanted = orders(3, model="sim-slow-5")
    room.cluster.start_workers("w1", "w2")
    job_ids = room.submitter.must(wanted)
    room.in_flight(3)
    for _ in range(4):
        room.store.lpush(LIST, *(messages.message(job_id, queues.DEFAULT) for job_id in job_ids))
        eventually(lambda: room.store.llen(LIST) == 0)
    eventually(lambda: min(room.refused_claims(job_id) for job_id in job_ids), lambda count: count == 4)
    assert room.states(job_ids) == ["in_progress"] * 3
    room.conclude()
    assert room.calls(wanted) == [1] * 3
    assert room.numbers(job_ids, "attempt") == [1] * 3


def test_ten_deliveries_at_once_are_one_claim(room: Room, messages: MessageMaker) -> None:
    """Two workers are told ten times at once of one job: one claim, one call, nine refusals."""
    # It would see that a job has no message, and send it another.
    room.cluster.end("scheduler")
    (anchor,), (order,) = orders(1, good=False), orders(1)
    anchor_id, job_id = room.submitter.must([anchor, order])
    # A claim empties the list when nobody else waits: a job without a message keeps the copies from being dropped so.
    assert room.store.rpop(LIST) is not None
    room.store.lpush(LIST, *(messages.message(job_id, queues.DEFAULT) for _ in range(9)))
    assert room.store.llen(LIST) == 10
    room.cluster.start_workers("w1", "w2")
    ended(room.client, job_id)
    eventually(lambda: room.refused_claims(job_id), lambda count: count == 9)
    room.client.post(f"/v1/jobs/{anchor_id}/cancel").raise_for_status()
    room.conclude()
    assert room.calls([anchor, order]) == [0, 1]
    assert room.numbers([job_id], "attempt") == [1]


def test_one_key_from_fifty_clients_at_once_is_one_job(room: Room) -> None:
    """Fifty clients submit the same request with one Idempotency-Key at the same moment: one job, one call, one id."""
    order = Order(unique(), key=uuid.uuid4().hex)
    room.cluster.start_worker()
    together = threading.Barrier(50)

    def submit(_: int) -> str | None:
        with room.cluster.client() as client:
            client.get("/healthz")  # connected, and ready to go
            together.wait(30)
            return Submitter(client, room.history).submit(order)

    with ThreadPoolExecutor(50) as pool:
        answers = set(pool.map(submit, range(50)))
    room.conclude()
    assert None not in answers
    assert len(answers) == 1
    assert room.calls([order]) == [1]


@contextmanager
def counted_events(room: Room) -> Iterator[Counter[str]]:
    """Counts the ends that are announced, by job."""
    found: Counter[str] = Counter()
    with room.store.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(queues.EVENTS_CHANNEL)
        pubsub.get_message(timeout=5)
        yield found
        while (message := pubsub.get_message(timeout=0.5)) is not None:
            found[message["data"].decode().split()[0]] += 1


class Aim:
    """When to cancel (seconds after the submit): follows the moment of completion, however busy the machine is."""

    def __init__(self, first: float) -> None:
        self._lock = threading.Lock()
        self._delay = first

    def delay(self) -> float:
        """The best guess, give or take a little."""
        with self._lock:
            return max(0.0, self._delay + random.uniform(-0.02, 0.02))

    def correct(self, status: str) -> None:
        """Learn from what a cancel call answered."""
        with self._lock:
            self._delay += 0.02 if status == "cancelled" else -0.02


def test_a_cancel_that_races_with_the_completion_has_one_outcome(room: Room) -> None:
    """Jobs are cancelled at about the moment they complete: each ends once, as what its cancel call said."""
    wanted, aim = orders(80, model="sim-slow-0.2", good=False), Aim(0.25)
    room.cluster.start_worker(PROMPTQ_CONCURRENCY="100")

    def race(order: Order) -> tuple[str, str]:
        job_id = str(room.submitter.submit(order))
        time.sleep(aim.delay())
        answer = room.client.post(f"/v1/jobs/{job_id}/cancel").raise_for_status().json()
        aim.correct(answer["status"])
        room.history.observe(answer)
        return job_id, answer["status"]

    with counted_events(room) as events:
        with ThreadPoolExecutor(8) as pool:
            answered = dict(pool.map(race, wanted))
        room.conclude()
    assert dict(zip(answered, room.states(list(answered)), strict=True)) == answered
    assert set(answered.values()) == {"completed", "cancelled"}, "it was no race"
    assert events == Counter(list(answered))
    assert max(room.calls(wanted)) == 1
