"""Batches under fire: whatever is killed in whichever phase, every line stands exactly once in the two files."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.faults.cluster import LATENCY
from tests.faults.room import Room
from tests.integration.batching import check_books, ended, line, read, start
from tests.integration.driving import calls_of, messages, unique
from tests.processes import eventually, free_port
from tests.unit.making import check_invariants

SIGKILLED = -9


def some_lines(count: int) -> list[dict[str, Any]]:
    return [line(f"line-{number}", unique()) for number in range(count)]


def prompt_of(sent: dict[str, Any]) -> str:
    return str(sent["body"]["messages"][0]["content"])


def conclude(room: Room, batch_id: str, lines: list[dict[str, Any]], status: str = "completed") -> dict[str, Any]:
    """The batch once it has ended, its books in order."""
    batch = ended(room.client, batch_id, within=60)
    assert batch["status"] == status
    check_books(room.client, batch, [one["custom_id"] for one in lines])
    room.cluster.wait_until_idle()
    check_invariants(room.store)
    return batch


POINTS = (
    *("after_batch_claim", "after_batch_begin", "before_batch_feed", "after_batch_feed", "before_batch_part_written"),
    *("after_batch_part_written", "after_batch_finalize", "before_batch_end", "after_batch_end"),
)


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_killed_in_any_phase(room: Room, point: str) -> None:
    """Another goes on from what was written down; no line is asked for twice, unless its call died with the worker.

    The batch has a small window: it is fed in many portions, and its results are many parts.
    """
    port = free_port()
    room.cluster.start_api("small", port=port, PROMPTQ_BATCH_WINDOW="10")
    lines = some_lines(60)
    room.cluster.start_worker("faulty", fault=point)
    with room.cluster.client(base_url=f"http://127.0.0.1:{port}") as client:
        made = start(client, lines)
    assert room.cluster.parts["faulty"].died(within=40) == SIGKILLED
    room.cluster.start_worker("w1")
    conclude(room, made["id"], lines)
    calls = [calls_of(room.cluster, messages(prompt_of(one))) for one in lines]  # type: ignore[arg-type]
    assert all(1 <= count <= 2 for count in calls)


def test_workers_are_killed_one_after_the_other(room: Room) -> None:
    """kill -9 again and again while a batch runs: it ends all the same, each line once."""
    lines = some_lines(150)
    room.cluster.set_latency(0.3)
    made = start(room.client, lines)
    for number in range(4):
        name = f"w{number}"
        before = read(room.client, made["id"])["request_counts"]["completed"]
        room.cluster.start_worker(name, PROMPTQ_CONCURRENCY="10")
        eventually(
            lambda before=before: read(room.client, made["id"])["request_counts"]["completed"] > before + 5, within=40
        )
        room.cluster.parts[name].kill()
    room.cluster.set_latency(LATENCY)
    room.cluster.start_workers("a", "b")
    conclude(room, made["id"], lines)


@pytest.mark.parametrize("step", ["close", "part_written", "end"])
def test_a_worker_killed_while_a_batch_is_cancelled(room: Room, step: str) -> None:
    """Every line is told of once, the answered ones with their answers."""
    lines = some_lines(5) + [line(f"hang-{number}", unique(), model="sim-hang") for number in range(30)]
    room.cluster.start_worker("w1", PROMPTQ_CONCURRENCY="10")
    made = start(room.client, lines)
    eventually(lambda: read(room.client, made["id"])["request_counts"]["completed"] == 5, within=30)
    room.cluster.parts["w1"].kill()
    room.cluster.start_worker("faulty", fault=f"after_batch_{step}")
    assert room.client.post(f"/v1/batches/{made['id']}/cancel").status_code == 200
    assert room.cluster.parts["faulty"].died(within=40) == SIGKILLED
    room.cluster.start_worker("w2")
    batch = conclude(room, made["id"], lines, "cancelled")
    assert batch["request_counts"]["completed"] == 5


@pytest.mark.parametrize("step", ["close", "part_written", "end"])
def test_a_worker_killed_while_a_batch_expires(room: Room, step: str) -> None:
    """As when it is cancelled: every line is told of once, the answered ones with their answers."""
    lines = some_lines(5) + [line(f"hang-{number}", unique(), model="sim-hang") for number in range(30)]
    room.cluster.start_worker("w1", PROMPTQ_CONCURRENCY="10")
    made = start(room.client, lines, window="10s")
    eventually(lambda: read(room.client, made["id"])["request_counts"]["completed"] == 5, within=30)
    room.cluster.parts["w1"].kill()
    room.cluster.start_worker("faulty", fault=f"{'before' if step == 'part_written' else 'after'}_batch_{step}")
    assert room.cluster.parts["faulty"].died(within=60) == SIGKILLED
    room.cluster.start_worker("w2")
    batch = conclude(room, made["id"], lines, "expired")
    assert batch["request_counts"]["completed"] == 5
    _, failed = check_books(room.client, batch, [one["custom_id"] for one in lines])
    assert {one["error"]["code"] for one in failed} == {"batch_expired"}


@pytest.mark.parametrize(
    ("point", "ending"),
    [
        ("after_batch_begin", "cancelled"),
        ("after_batch_begin", "expired"),
        ("before_batch_part_written", "expired"),
        ("before_batch_end", "cancelled"),
    ],
)
def test_a_worker_killed_at_a_batch_that_was_ended_before_it_was_looked_at(room: Room, point: str, ending: str) -> None:
    """No worker was there when it was cancelled, or its time was over: every line is told of once, none is asked."""
    lines = some_lines(40)
    made = start(room.client, lines, window="1s" if ending == "expired" else "24h")
    if ending == "cancelled":
        assert room.client.post(f"/v1/batches/{made['id']}/cancel").json()["status"] == "cancelling"
    else:
        eventually(lambda: time.time() > made["expires_at"] + 1)
    assert read(room.client, made["id"])["request_counts"]["total"] == 0
    # It dies before it is ready.
    room.cluster.start_worker("faulty", fault=point, wait=False)
    assert room.cluster.parts["faulty"].died(within=40) == SIGKILLED
    room.cluster.start_worker("w2")
    batch = conclude(room, made["id"], lines, ending)
    _, failed = check_books(room.client, batch, [one["custom_id"] for one in lines])
    assert {one["error"]["code"] for one in failed} == {f"batch_{ending}"}
    assert room.cluster.stats()["calls"] == 0


@pytest.mark.parametrize("point", ["after_batch_feed", "before_batch_part_written"])
def test_a_worker_killed_at_two_batches_at_once(room: Room, point: str) -> None:
    """Both go on, each with its own lines; what they have in Redis is counted right to the end."""
    port = free_port()
    room.cluster.start_api("small", port=port, PROMPTQ_BATCH_WINDOW="10")
    first, second = some_lines(40), some_lines(40)
    room.cluster.start_worker("faulty", fault=point)
    with room.cluster.client(base_url=f"http://127.0.0.1:{port}") as client:
        made = [start(client, lines)["id"] for lines in (first, second)]
    assert room.cluster.parts["faulty"].died(within=40) == SIGKILLED
    room.cluster.start_workers("w1", "w2")
    for batch_id, lines in zip(made, (first, second), strict=True):
        batch = ended(room.client, batch_id, within=60)
        assert batch["status"] == "completed"
        check_books(room.client, batch, [one["custom_id"] for one in lines])
    room.cluster.wait_until_idle()
    check_invariants(room.store)


@pytest.mark.parametrize("killed", ["redis", "api", "scheduler"])
@pytest.mark.parametrize(
    ("phase", "step"), [("validating", "begin"), ("in_progress", "part_written"), ("finalizing", "end")]
)
def test_all_but_workers_are_killed_in_any_phase(room: Room, phase: str, step: str, killed: str) -> None:
    """kill -9: the batch goes on once what was killed is back, and no line is asked for twice that was answered."""
    port = free_port()
    room.cluster.start_api("small", port=port, PROMPTQ_BATCH_WINDOW="10")
    lines = some_lines(40)
    room.cluster.start_worker("w1", fault=f"freeze_before_batch_{step}", PROMPTQ_CONCURRENCY="5")
    with room.cluster.client(base_url=f"http://127.0.0.1:{port}") as client:
        made = start(client, lines)
    eventually(lambda: room.cluster.parts["w1"].frozen, within=40)
    assert read(room.client, made["id"])["status"] == phase
    room.cluster.parts[killed].kill_group()
    room.cluster.restore()  # the worker goes on as well
    # Each connection that ended with Redis a moment ago is a 503.
    eventually(lambda: room.client.get(f"/v1/batches/{made['id']}").status_code, lambda status: status == 200)
    conclude(room, made["id"], lines)
    calls = [calls_of(room.cluster, messages(prompt_of(one))) for one in lines]  # type: ignore[arg-type]
    # Those that were on their way may have lost their leases with the worker that stood still.
    most = 2 if phase == "in_progress" else 1
    assert all(1 <= count <= most for count in calls)
