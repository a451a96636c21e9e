"""Receivers, workers, Redis and schedulers fail while webhooks are sent: each event arrives, always under one
``webhook-id`` and word for word the same, and no job waits for it."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from jobs import queues
from tests.faults.room import Room
from tests.faults.submitting import orders
from tests.faults.test_full_redis import no_memory
from tests.integration.driving import ended, submit, unique
from tests.processes import eventually
from tests.receiving import OK, Hook, Receiver, Reply, register
from tests.unit.making import make_due
from worker.webhooks.deliverer import LEASE_MARGIN

SIGKILLED = -9
HANG = Reply(way="hang")
#: How long Redis is away (seconds): longer than its clients try again by themselves.
AWAY = 2.0


def deliveries(room: Room, hook: Hook) -> list[dict[str, Any]]:
    """All deliveries to an endpoint, the newest first."""
    found: list[dict[str, Any]] = []
    while True:
        params = {"endpoint": hook.endpoint_id, "limit": 100} | ({"after": found[-1]["id"]} if found else {})
        page = room.client.get("/v1/webhook_deliveries", params=params).raise_for_status().json()
        found += page["data"]
        if not page["has_more"]:
            return found


def statuses(room: Room, hook: Hook) -> list[str]:
    """The statuses of all deliveries to an endpoint."""
    return [one["status"] for one in deliveries(room, hook)]


def errors(room: Room, hook: Hook) -> set[tuple[str | None, ...]]:
    """The different courses that deliveries to an endpoint have taken: what went wrong in each of their tries."""
    return {tuple(tried["error"] for tried in one["tries"]) for one in deliveries(room, hook)}


def all_refused(room: Room, hook: Hook, count: int) -> None:
    """Wait until so many deliveries have each had a first try, which was refused."""
    eventually(lambda: deliveries(room, hook), lambda found: len(found) == count and all(one["tries"] for one in found))
    assert errors(room, hook) == {("http_status",)}


def endpoint(room: Room, hook: Hook) -> dict[str, Any]:
    """The endpoint as the API shows it."""
    found = room.client.get(f"/v1/webhook_endpoints/{hook.endpoint_id}").raise_for_status()
    return dict(found.json())


def tries_of(room: Room, *workers: str) -> int:
    """How many tries these workers have logged, and those of the same names before them."""
    return sum(room.cluster.parts[name].said().count("webhook.tried") for name in workers)


def held(receiver: Receiver, count: int) -> None:
    """Return once so many requests have come."""
    eventually(lambda: len(receiver.requests()), lambda came: came >= count, within=20)


def has_arrived(room: Room, hook: Hook, job_ids: Sequence[str], *, times: int | None = None) -> None:
    """The end of each of these jobs has arrived as one event, sent so many ``times`` if that is known."""
    arrived = hook.receiver.by_id()
    assert sorted(tries[0].about for tries in arrived.values()) == sorted(job_ids), "one webhook-id for each job"
    for tries in arrived.values():
        assert len({request.body for request in tries}) == 1
        assert times in (None, len(tries)), errors(room, hook)
    hook.receiver.verified(hook.secret)
    told = deliveries(room, hook)
    assert {(one["webhook_id"], one["status"]) for one in told} == {(name, "succeeded") for name in arrived}
    assert len(told) == len(job_ids)


def conclude(room: Room, hook: Hook, job_ids: Sequence[str], *, times: int | None = None) -> None:
    """Wait for all ends; then all has arrived at the one hook that there is, and the books fit."""
    room.conclude()
    has_arrived(room, hook, job_ids, times=times)


# What receivers do


def test_what_a_receiver_misses_while_it_is_down_arrives_when_it_is_up(room: Room) -> None:
    """Nothing listens when the jobs end: they end all the same, and their events arrive once something does."""
    with Receiver() as receiver:
        hook = register(room.client, receiver)
        receiver.stop()
        room.cluster.start_worker()
        job_ids = room.submitter.must(orders(10))
        room.submitter.see_the_end(within=20)
        eventually(lambda: errors(room, hook), lambda found: () not in found)
        assert {error for course in errors(room, hook) for error in course} == {"connection_failed"}
        receiver.start()
        conclude(room, hook, job_ids, times=1)


def test_what_a_receiver_answers_badly_is_sent_again(room: Room) -> None:
    """Whatever goes wrong with one receiver, a 500 or an answer that breaks off, never comes or never ends, each of its
    events is sent again until it is answered 200, and once only to the others."""
    troubles = {
        "http_status": [Reply(500), Reply(404, body=b"x" * 100_000), Reply(500, way="cut_body"), Reply(502, delay=0.7)],
        "bad_answer": [Reply(way="close"), Reply(way="cut_head"), Reply(500, {"Content-Length": "?"}, way="close")],
        "timeout": [HANG, Reply(way="drip"), Reply(delay=3)],
    }
    cases = [(error, reply) for error, replies in troubles.items() for reply in replies]
    with ExitStack() as stack:
        hooks = [register(room.client, stack.enter_context(Receiver(reply, OK))) for _, reply in cases]
        well = register(room.client, stack.enter_context(Receiver()))
        cut = register(room.client, stack.enter_context(Receiver(Reply(200, way="cut_body"))))
        room.cluster.start_worker()
        job_ids = room.submitter.must(orders(3))
        room.submitter.see_the_end(within=20)
        room.conclude()
        for (error, reply), hook in zip(cases, hooks, strict=True):
            has_arrived(room, hook, job_ids, times=2)
            assert errors(room, hook) == {(error, None)}, reply
            assert endpoint(room, hook)["failing_since"] is None
        has_arrived(room, well, job_ids, times=1)
        # A 200 is a 200, whatever becomes of the rest.
        has_arrived(room, cut, job_ids, times=1)


def test_slow_and_hanging_receivers_hold_up_only_themselves(room: Room) -> None:
    """Eight receivers hang and one is slow, more than the worker has slots for: jobs end and all events of a healthy
    one arrive meanwhile; the others' arrive as soon as they answer."""
    slots = {"PROMPTQ_WEBHOOK_CONCURRENCY": "12", "PROMPTQ_WEBHOOK_SLOW_CONCURRENCY": "6"}
    with ExitStack() as stack:
        hanging = [register(room.client, stack.enter_context(Receiver(HANG))) for _ in range(8)]
        slow = register(room.client, stack.enter_context(Receiver(Reply(delay=1))))
        healthy = register(room.client, stack.enter_context(Receiver()))
        room.cluster.start_worker(**slots, PROMPTQ_WEBHOOK_TIMEOUT="60")
        job_ids = room.submitter.must(orders(10))
        room.submitter.see_the_end(within=20)
        held(healthy.receiver, 10)
        # All slots for slow ones are taken now, and those that such a host takes before it counts as slow come free.
        job_ids += room.submitter.must(orders(10))
        room.submitter.see_the_end(within=20)
        held(healthy.receiver, 20)
        assert all(set(statuses(room, hook)) == {"pending"} for hook in hanging)
        assert 6 <= room.store.zcard(queues.WEBHOOK_LEASES) <= 18
        for hook in hanging:
            hook.receiver.release()
        room.conclude()
        # What turned out slow and found no slot for slow ones is begun again.
        for hook in (*hanging, slow):
            has_arrived(room, hook, job_ids)
        has_arrived(room, healthy, job_ids, times=1)


def test_a_host_that_hangs_never_has_more_than_its_share(room: Room) -> None:
    """Of one receiver's events no more than ``PROMPTQ_WEBHOOK_PER_HOST`` are on their way at once, from all workers."""
    with Receiver(HANG) as receiver, Receiver() as other:
        hook, healthy = register(room.client, receiver), register(room.client, other)
        room.cluster.start_workers("w1", "w2", PROMPTQ_WEBHOOK_PER_HOST="3", PROMPTQ_WEBHOOK_TIMEOUT="60")
        job_ids = room.submitter.must(orders(12))
        held(other, 12)
        held(receiver, 3)
        assert len(receiver.requests()) == 3
        receiver.release()
        room.conclude()
        has_arrived(room, hook, job_ids, times=1)
        has_arrived(room, healthy, job_ids, times=1)


def test_redirects_are_never_followed(room: Room) -> None:
    """A receiver that redirects has failed: where it points to receives nothing, and the event is sent to it again."""
    with Receiver() as target:
        kinds = [Reply(status, {"Location": target.url("/elsewhere")}) for status in (301, 302, 303, 307, 308)]
        with Receiver(*kinds, OK) as receiver:
            hook = register(room.client, receiver)
            room.cluster.start_worker(PROMPTQ_WEBHOOK_RETRIES="0.1,0.1,0.1,0.1,0.1")
            job_ids = room.submitter.must(orders(2))
            room.submitter.see_the_end(within=20)
            conclude(room, hook, job_ids, times=6)
            assert errors(room, hook) == {("redirect",) * 5 + (None,)}
        assert target.requests() == []


def test_a_receiver_that_is_gone_is_disabled(room: Room) -> None:
    """After a 410 the endpoint is disabled and says so; what waited for it and what comes later is not sent to it."""
    with Receiver(Reply(500), Reply(410)) as receiver, Receiver() as other:
        gone, healthy = register(room.client, receiver), register(room.client, other)
        room.cluster.start_worker()
        (first,) = room.submitter.must(orders(1))
        eventually(lambda: endpoint(room, gone)["enabled"], lambda enabled: not enabled)
        told = endpoint(room, gone)
        assert told["disabled_reason"] == "gone"
        assert told["disabled_at"] == pytest.approx(time.time(), abs=60)
        assert len(receiver.told(first)) == 2
        later = room.submitter.must(orders(3))
        conclude(room, healthy, [first, *later], times=1)
        assert statuses(room, gone) == ["failed"], "later events are none of its"
        assert {request.about for request in receiver.requests()} == {first}

        receiver.answer(OK)
        path = f"/v1/webhook_endpoints/{gone.endpoint_id}"
        assert room.client.post(path, json={"enabled": True}).json()["disabled_reason"] is None
        (again,) = room.submitter.must(orders(1))
        gone.told(again)


def test_what_waits_for_a_receiver_that_is_gone_is_not_sent(room: Room) -> None:
    """Events that wait for their next try when another is answered 410 end as failed, and are sent no more."""
    with Receiver(Reply(500)) as receiver:
        hook = register(room.client, receiver)
        room.cluster.start_worker(PROMPTQ_WEBHOOK_RETRIES="3600")
        waiting = room.submitter.must(orders(3))
        all_refused(room, hook, 3)
        receiver.answer(Reply(410))
        (last,) = room.submitter.must(orders(1))
        eventually(lambda: endpoint(room, hook)["disabled_reason"], lambda reason: reason == "gone")
        make_due(room.store, queues.WEBHOOK_SCHEDULED, *(one["id"] for one in deliveries(room, hook)[1:]))
        room.conclude()
        found = {one["data"]["id"]: (one["status"], one["error"], len(one["tries"])) for one in deliveries(room, hook)}
        disabled = ("failed", "endpoint_disabled", 1)
        assert found == {last: ("failed", "http_status", 1), **dict.fromkeys(waiting, disabled)}
        assert len(receiver.requests()) == 4


def test_a_receiver_that_fails_for_long_is_disabled(room: Room) -> None:
    """An endpoint that has only failed for ``PROMPTQ_WEBHOOK_DISABLE_AFTER`` is disabled as failing; one that has not,
    stays."""
    with Receiver(Reply(500)) as receiver, Receiver(Reply(500), Reply(500), OK) as other:
        failing, mixed = register(room.client, receiver), register(room.client, other)
        room.cluster.start_worker(PROMPTQ_WEBHOOK_DISABLE_AFTER="1.5", PROMPTQ_WEBHOOK_RETRIES="0.2,0.3,0.5,0.5,1")
        job_ids = room.submitter.must(orders(2))
        eventually(lambda: endpoint(room, failing)["failing_since"])
        conclude(room, mixed, job_ids, times=3)
        told = eventually(lambda: endpoint(room, failing), lambda one: not one["enabled"])
        assert told["disabled_reason"] == "failing"
        assert told["disabled_at"] - told["failing_since"] >= 1.5
        assert endpoint(room, mixed)["enabled"]
        assert endpoint(room, mixed)["failing_since"] is None
        assert set(statuses(room, failing)) == {"failed"}


def test_retry_after_is_honoured(room: Room) -> None:
    """A receiver that says when to come again, in seconds or as a date, is not asked before that, although the schedule
    has the try earlier; one that says nothing of sense is asked by the schedule."""
    until = int(time.time()) + 4
    with ExitStack() as stack:
        asked = {
            (status, value): register(
                room.client, stack.enter_context(Receiver(Reply(status, {"Retry-After": value}), OK))
            )
            for status in (429, 503)
            for value in ("2", email.utils.formatdate(until, usegmt=True), "soon", "-1", "inf")
        }
        room.cluster.start_worker()
        job_ids = room.submitter.must(orders(1))
        room.submitter.see_the_end(within=20)
        room.conclude()
        for (status, value), hook in asked.items():
            has_arrived(room, hook, job_ids, times=2)
            first, second = hook.receiver.requests()
            if value == "2":
                assert second.at - first.at >= 2
            elif value.endswith("GMT"):
                assert second.wall >= until
            (told,) = deliveries(room, hook)
            assert [tried["status_code"] for tried in told["tries"]] == [status, 200]


# What workers do


@pytest.mark.parametrize(
    ("point", "times"),
    [("before_lease", 1), ("after_lease", 1), ("before_settle", 2)],
    ids=["between completion and delivery", "with the event in hand", "between answer and note"],
)
def test_the_event_of_a_killed_worker_arrives(room: Room, point: str, times: int) -> None:
    """A worker killed at any step between a job's end and the end of its delivery: another delivers it, under the same
    id; it comes twice only if it had come before the kill."""
    with Receiver() as receiver:
        hook = register(room.client, receiver)
        room.cluster.start_worker("faulty", fault=point)
        job_ids = room.submitter.must(orders(1))
        assert room.cluster.parts["faulty"].died() == SIGKILLED
        assert len(receiver.requests()) == times - 1
        assert room.states(job_ids) == ["completed"]
        (waiting,) = deliveries(room, hook)
        assert (waiting["status"], waiting["tries"]) == ("pending", [])
        assert room.store.zscore(queues.backlog_key(queues.WEBHOOKS), waiting["id"]) is not None
        if point != "before_lease":
            make_due(room.store, queues.WEBHOOK_LEASES, waiting["id"])
        room.cluster.start_worker("w1")
        conclude(room, hook, job_ids, times=times)


def test_deliveries_that_died_with_their_workers_are_made_again_after_their_lease(room: Room) -> None:
    """kill -9 of two workers in mid-delivery: a third makes these again once their lease has run out, and not earlier;
    all others are made meanwhile, and the jobs end on time."""
    with Receiver(HANG) as receiver:
        hook = register(room.client, receiver)
        room.cluster.start_workers("w1", "w2", PROMPTQ_WEBHOOK_TIMEOUT="3", PROMPTQ_WEBHOOK_PER_HOST="10")
        room.cluster.set_latency(0.5)
        job_ids = room.submitter.insist_on_all(orders(20, keys=True))
        held(receiver, 10)
        for name in ("w1", "w2"):
            room.cluster.parts[name].kill()
        receiver.answer(Reply(503, delay=0.1), OK)
        before = receiver.requests()
        lost = [request.about for request in before]
        assert len(lost) == len(set(lost)) == 10
        room.cluster.start_worker("w3", PROMPTQ_WEBHOOK_PER_HOST="20")
        room.submitter.see_the_end(within=20)
        later = room.submitter.must(orders(5))
        for job_id in {*job_ids, *later} - set(lost):
            receiver.told(job_id, times=2, within=LEASE_MARGIN / 2)
        assert [len(receiver.about(job_id)) for job_id in lost] == [1] * 10
        for request in before:
            again = receiver.told(request.about, times=2, within=40)[1]
            assert again.at - request.at > LEASE_MARGIN
        conclude(room, hook, [*job_ids, *later], times=2)


def test_a_stopped_worker_finishes_what_it_can_and_hands_the_rest_back(room: Room) -> None:
    """SIGTERM in mid-delivery: what is answered within the grace is sent once, the exit code is 0, and another worker
    delivers the rest at once, not when the lease has run out."""
    with Receiver(HANG) as receiver, Receiver(Reply(delay=1)) as other:
        hook, slow = register(room.client, receiver), register(room.client, other)
        room.cluster.start_worker("w1", PROMPTQ_WEBHOOK_TIMEOUT="60", PROMPTQ_GRACE_SECONDS="2.5")
        job_ids = room.submitter.must(orders(5))
        held(receiver, 5)
        held(other, 5)
        receiver.answer(OK)
        assert room.cluster.parts["w1"].stop() == 0
        assert statuses(room, slow) == ["succeeded"] * 5
        waiting = deliveries(room, hook)
        assert {(one["status"], len(one["tries"])) for one in waiting} == {("pending", 0)}
        assert room.store.zcard(queues.WEBHOOK_LEASES) == 0
        assert room.store.zcard(queues.backlog_key(queues.WEBHOOKS)) == 5
        room.cluster.start_worker("w2")
        for job_id in job_ids:
            receiver.told(job_id, times=2, within=LEASE_MARGIN / 2)
        room.conclude()
        has_arrived(room, hook, job_ids, times=2)
        has_arrived(room, slow, job_ids, times=1)


def test_a_frozen_worker_that_comes_back_changes_nothing(room: Room) -> None:
    """SIGSTOP past the lease, another worker delivers, SIGCONT: the delivery stays as it ended, with its one try."""
    with Receiver(HANG) as receiver:
        hook = register(room.client, receiver)
        room.cluster.start_worker("w1", PROMPTQ_WEBHOOK_TIMEOUT="60")
        job_ids = room.submitter.must(orders(1))
        held(receiver, 1)
        room.submitter.see_the_end(within=20)
        room.cluster.parts["w1"].freeze()
        (waiting,) = deliveries(room, hook)
        make_due(room.store, queues.WEBHOOK_LEASES, waiting["id"])
        receiver.answer(OK)
        room.cluster.start_worker("w2")
        (done,) = eventually(lambda: deliveries(room, hook), lambda found: found[0]["status"] == "succeeded")
        receiver.release(Reply(500))
        before = tries_of(room, "w1")
        room.cluster.parts["w1"].thaw()
        eventually(lambda: tries_of(room, "w1") > before)
        conclude(room, hook, job_ids, times=2)
        assert deliveries(room, hook) == [done]
        assert len(done["tries"]) == 1


def test_an_end_without_workers_is_told_when_there_are_some(room: Room) -> None:
    """Jobs that end while no worker runs put their events into the backlog; a worker that is started sends them."""
    with Receiver() as receiver:
        hook = register(room.client, receiver)
        wanted = orders(3, good=False)
        job_ids = room.submitter.must(wanted)
        for job_id in job_ids:
            assert room.client.post(f"/v1/jobs/{job_id}/cancel").json()["status"] == "cancelled"
        late = submit(room.client, prompt=unique(), model="sim", deadline_seconds=0.2)["id"]
        assert ended(room.client, late)["status"] == "failed"
        assert room.store.zcard(queues.backlog_key(queues.WEBHOOKS)) == 4
        room.cluster.start_worker()
        for job_id in (*job_ids, late):
            event_type = "response.failed" if job_id == late else "response.cancelled"
            assert hook.told(job_id).event["type"] == event_type
        eventually(lambda: statuses(room, hook), lambda found: found == ["succeeded"] * 4)
        assert len(receiver.requests()) == 4


def test_a_retry_is_made_although_the_workers_have_scaled_to_zero(room: Room) -> None:
    """While a retry is not due it is in no backlog, so that workers may go; when due it is, although none runs, and one
    that is started for it delivers it."""
    with Receiver(Reply(500), OK) as receiver:
        hook = register(room.client, receiver)
        backlog = queues.backlog_key(queues.WEBHOOKS)
        room.cluster.start_worker("w1", PROMPTQ_WEBHOOK_RETRIES="3600")
        job_ids = room.submitter.must(orders(2))
        all_refused(room, hook, 2)
        assert room.cluster.parts["w1"].stop() == 0
        waiting = {one["id"]: one["next_try_at"] for one in deliveries(room, hook)}
        assert all(due > time.time() + 1800 for due in waiting.values())
        assert room.store.zcard(backlog) == 0
        assert {name.decode() for name in room.store.zrange(queues.WEBHOOK_SCHEDULED, 0, -1)} == set(waiting)
        make_due(room.store, queues.WEBHOOK_SCHEDULED, *waiting)
        eventually(lambda: room.store.zcard(backlog), lambda count: count == 2)
        assert {name.decode() for name in room.store.zrange(backlog, 0, -1)} == set(waiting)
        assert len(receiver.requests()) == 2
        room.cluster.start_worker("w2")
        conclude(room, hook, job_ids, times=2)
        assert room.store.zcard(backlog) == 0


# What Redis does


def test_a_restart_of_redis_in_mid_delivery_loses_nothing(room: Room) -> None:
    """Redis is stopped while events are on their way and started again: each arrives, and is not sent a second time."""
    with Receiver(HANG) as receiver:
        hook = register(room.client, receiver)
        room.cluster.start_worker(PROMPTQ_WEBHOOK_TIMEOUT="60")
        job_ids = room.submitter.must(orders(5))
        held(receiver, 5)
        room.submitter.see_the_end(within=20)
        assert room.cluster.parts["redis"].stop() == 0
        before = tries_of(room, "w1")
        receiver.release()
        # What the receiver has answered cannot be noted yet.
        eventually(lambda: tries_of(room, "w1") - before, lambda count: count == 5)
        time.sleep(AWAY)
        room.cluster.start_redis()
        eventually(lambda: statuses(room, hook), lambda found: found == ["succeeded"] * 5, within=20)
        later = room.submitter.must(orders(5))
        conclude(room, hook, [*job_ids, *later], times=1)


def test_a_full_redis_still_delivers(room: Room) -> None:
    """Without memory the events of jobs that end are kept, sent, sent again and noted all the same."""
    with Receiver(Reply(500), OK) as receiver:
        hook = register(room.client, receiver)
        room.cluster.start_worker()
        room.cluster.set_latency(0.5)
        wanted = orders(5)
        job_ids = room.submitter.must(wanted)
        room.in_flight(5)
        with no_memory(room):
            room.submitter.see_the_end(within=20)
            eventually(lambda: statuses(room, hook), lambda found: found == ["succeeded"] * 5, within=20)
            refusal = room.client.post(
                "/v1/webhook_endpoints",
                json={"name": "n", "url": receiver.url(), "event_types": ["response.completed"]},
            )
            assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "store_full")
        conclude(room, hook, job_ids, times=2)


# Many of each


def test_each_event_is_sent_once_by_many(room: Room) -> None:
    """Two schedulers and three workers, 200 jobs: each event arrives, and without faults once."""
    with Receiver() as receiver:
        hook = register(room.client, receiver)
        room.cluster.start_scheduler("scheduler-2")
        room.cluster.start_workers("w1", "w2", "w3")
        job_ids = room.submitter.insist_on_all(orders(200, keys=True))
        conclude(room, hook, job_ids, times=1)
        assert errors(room, hook) == {(None,)}
