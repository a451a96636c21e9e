"""The outbox: an event for each end of a job, and each transition of its deliveries."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from jobs import queues
from jobs.broker import MessageMaker
from jobs.errors import NotDeliverable, NotFound
from jobs.model import RESPONSES, JobStatus, Outcome
from jobs.scripts import MAX_STRIKES
from jobs.store import JobStore
from jobs.webhook_urls import Allowed, parse
from jobs.webhooks import EVENT_TYPES, SLOW_SECONDS, Delivery, DeliveryStatus, Endpoint, Leased
from tests.unit.making import (
    DONE,
    FAILED,
    FIVE_DAYS,
    OWN_URL,
    check_invariants,
    check_outbox,
    claim,
    create,
    deliveries,
    delivery,
    endpoint,
    event,
    forget_deliveries,
    job,
    keys,
    lease,
    lease_one,
    lose_lease,
    make_due,
    members,
    running,
    settle,
    webhook_store,
)

PENDING, SUCCEEDED, FAILED_STATUS = DeliveryStatus
COUNTERS = {"promptq:webhook-seq", "promptq:webhook-turn"}
BACKLOG = queues.backlog_key(queues.WEBHOOKS)
OTHER_URL = "https://other.example:8443/new"


@pytest.fixture
def store(redis_client: redis.Redis, redis_url: str, messages: MessageMaker) -> Iterator[JobStore]:
    """A store that can keep webhook secrets, on an empty database."""
    with webhook_store(redis_url, messages) as made:
        yield made


@pytest.fixture(autouse=True)
def _consistent(redis_client: redis.Redis, store: JobStore) -> Iterator[None]:
    """Whatever a test does, every set is as the records say after it."""
    yield
    check_invariants(redis_client)


def only(store: JobStore) -> Delivery:
    """The one delivery that there is."""
    (found,) = deliveries(store)
    return found


def to_hosts(store: JobStore, *hosts: str) -> dict[str, str]:
    """One due delivery to each of the hosts, in this order; their ids by host."""
    for host in hosts:
        event(store, webhook_url=f"https://{host}/in", webhook_host=host)
    found = [one.id for one in deliveries(store)][::-1]
    return dict(zip(hosts, found, strict=True))


def taken(leased: list[Leased]) -> list[str]:
    """The hosts of what was leased."""
    return [one.host for one in leased]


def retry_due(store: JobStore, client: redis.Redis, *delivery_ids: str) -> None:
    """Let scheduled deliveries become due."""
    make_due(client, queues.WEBHOOK_SCHEDULED, *delivery_ids)
    assert store.outbox.move_due() == (len(delivery_ids), 0)


def lose(store: JobStore, client: redis.Redis, *delivery_ids: str) -> None:
    """Let the worker of these deliveries be gone."""
    make_due(client, queues.WEBHOOK_LEASES, *delivery_ids)
    assert store.outbox.move_due() == (0, len(delivery_ids))


def failing_for(client: redis.Redis, hook: Endpoint, seconds: float) -> None:
    """Let an endpoint have failed for so long."""
    since = round((client.time()[0] - seconds) * 1000)
    client.hset(queues.endpoint_key(hook.id), "failing_since", since)


# --- Events ----------------------------------------------------------------------------------------------------------


def end_completed(store: JobStore, _: redis.Redis, **new: Any) -> str:
    held = running(store, **new)
    assert store.complete(held, DONE) == "done"
    return held.job.id


def end_failed(store: JobStore, _: redis.Redis, **new: Any) -> str:
    held = running(store, **new)
    assert store.complete(held, FAILED) == "done"
    return held.job.id


def end_incomplete(store: JobStore, _: redis.Redis, **new: Any) -> str:
    held = running(store, **new)
    assert store.complete(held, Outcome(JobStatus.INCOMPLETE, b"{}")) == "done"
    return held.job.id


def end_late(store: JobStore, client: redis.Redis, **new: Any) -> str:
    held = running(store, **new)
    lose_lease(client, held.job.id)
    assert store.upkeep.recover_lost() == 1
    assert store.complete(held, DONE) == "done"
    return held.job.id


def cancel_waiting(store: JobStore, _: redis.Redis, **new: Any) -> str:
    job_id = create(store, **new)
    assert store.cancel(job_id, "ann")
    return job_id


def cancel_running(store: JobStore, _: redis.Redis, **new: Any) -> str:
    held = running(store, **new)
    assert store.cancel(held.job.id, "ann")
    return held.job.id


def cancel_scheduled(store: JobStore, _: redis.Redis, **new: Any) -> str:
    held = running(store, **new)
    assert store.retry(held, attempt=1, attempts=[], delay=60, keep_slot=False) == "done"
    assert store.cancel(held.job.id, "ann")
    return held.job.id


def expire_waiting(store: JobStore, client: redis.Redis, **new: Any) -> str:
    job_id = create(store, deadline_seconds=60, **new)
    make_due(client, queues.DEADLINES, job_id)
    assert store.upkeep.expire_due() == 1
    return job_id


def expire_at_claim(store: JobStore, client: redis.Redis, **new: Any) -> str:
    job_id = create(store, deadline_seconds=60, **new)
    client.hset(queues.job_key(job_id), "deadline", 1)
    assert store.claim(job_id, "c1", lease_seconds=30, worker="w") == "expired"
    return job_id


def crash(store: JobStore, client: redis.Redis, **new: Any) -> str:
    job_id = create(store, **new)
    for number in range(MAX_STRIKES):
        claim(store, job_id, f"c{number}")
        lose_lease(client, job_id)
        assert store.upkeep.recover_lost() == 1
    return job_id


WAYS: list[tuple[Callable[..., str], str]] = [
    (end_completed, "response.completed"),
    (end_failed, "response.failed"),
    (end_incomplete, "response.incomplete"),
    (end_late, "response.completed"),
    (cancel_waiting, "response.cancelled"),
    (cancel_running, "response.cancelled"),
    (cancel_scheduled, "response.cancelled"),
    (expire_waiting, "response.failed"),
    (expire_at_claim, "response.failed"),
    (crash, "response.failed"),
]


@pytest.mark.parametrize("kind", ["/v1/chat/completions", RESPONSES])
@pytest.mark.parametrize(("end", "event_type"), WAYS)
def test_each_end_is_an_event(
    store: JobStore, redis_client: redis.Redis, end: Callable[..., str], event_type: str, kind: str
) -> None:
    """Whichever way a job ends, its endpoints and its own URL are told, once each, with ids made of the job's own."""
    hooks = [endpoint(store), endpoint(store, "https://second.example/"), endpoint(store, types=[event_type])]
    others = [one for one in EVENT_TYPES if one != event_type]
    endpoint(store, types=others)
    endpoint(store, owner="bob")
    job_id = end(store, redis_client, endpoint=kind, **OWN_URL)
    number = job_id.partition("_")[2]
    found = deliveries(store)
    targets = {f"whd_{number}_job": None} | {f"whd_{number}_{hook.id[-12:]}": hook.id for hook in hooks}
    assert {one.id: one.endpoint_id for one in found} == targets
    assert all(queues.DELIVERY_ID_PATTERN.fullmatch(one.id) for one in found)
    for one in found:
        assert (one.event_id, one.event_type, one.object_id) == (f"evt_{number}", event_type, job_id)
        assert (one.status, one.tries, one.error, one.test, one.ended_at) == (PENDING, (), None, False, None)
        assert one.created_at == one.due_at == job(store, job_id).finished_at
    assert deliveries(store, "bob") == []
    assert members(redis_client, BACKLOG) == set(targets)


def test_an_event_is_in_the_same_step(store: JobStore, redis_client: redis.Redis) -> None:
    """No moment is between a job's end and its event: one step of Redis writes both."""
    endpoint(store)
    held = running(store)
    before = redis_client.info("commandstats")["cmdstat_evalsha"]["calls"]
    store.complete(held, DONE)
    assert redis_client.info("commandstats")["cmdstat_evalsha"]["calls"] == before + 1
    assert only(store).object_id == held.job.id


def test_one_end_is_one_event(store: JobStore) -> None:
    """A completion that is sent again, a second cancel or a late result tells nobody anew, also after the delivery."""
    endpoint(store)
    held = running(store)
    for _ in range(2):
        assert store.complete(held, DONE) == "done"
        store.cancel(held.job.id, "ann")
        for leased in lease(store):
            settle(store, leased)
    assert only(store).status == SUCCEEDED
    assert len(only(store).tries) == 1


@pytest.mark.parametrize("state", ["queued", "running", "scheduled"])
def test_a_deleted_job_is_no_event(store: JobStore, state: str) -> None:
    """Who deletes a job that has not ended is told nothing of it, and its late result neither."""
    endpoint(store)
    held = running(store, **OWN_URL) if state != "queued" else None
    job_id = held.job.id if held else create(store, **OWN_URL)
    if held and state == "scheduled":
        store.retry(held, attempt=1, attempts=[], delay=60, keep_slot=False)
    store.delete(job_id, "ann")
    if held:
        assert store.complete(held, DONE) == "gone"
    assert deliveries(store) == []


def test_a_refused_completion_is_no_event(store: JobStore, redis_client: redis.Redis) -> None:
    """What a replaced worker brings ends nothing, and is told to nobody."""
    endpoint(store)
    old = running(store)
    lose_lease(redis_client, old.job.id)
    store.upkeep.recover_lost()
    new = claim(store, old.job.id, "c2")
    assert store.complete(old, FAILED) == "fenced"
    assert deliveries(store) == []
    store.complete(new, DONE)
    assert only(store).event_type == "response.completed"


@pytest.mark.parametrize("way", ["retry", "hand_back", "recover"])
def test_what_goes_on_is_no_event(store: JobStore, redis_client: redis.Redis, way: str) -> None:
    """A job that goes back to its queue has not ended."""
    endpoint(store)
    held = running(store, **OWN_URL)
    if way == "retry":
        store.retry(held, attempt=1, attempts=[], delay=60, keep_slot=False)
    elif way == "hand_back":
        store.hand_back(held)
    else:
        lose_lease(redis_client, held.job.id)
        store.upkeep.recover_lost()
    assert deliveries(store) == []


def test_a_deleted_job_is_still_told_of_if_it_had_ended(store: JobStore) -> None:
    """Deleting a job does not take back the events of its end."""
    endpoint(store)
    job_id = event(store, **OWN_URL)
    store.delete(job_id, "ann")
    assert {leased.url for leased in lease(store)} == {"https://hooks.example/in", OWN_URL["webhook_url"]}


def test_nobody_is_told_where_nobody_asked(store: JobStore, redis_client: redis.Redis) -> None:
    """Without an endpoint or a URL of its own, a job's end leaves nothing in the outbox."""
    event(store)
    assert check_outbox(redis_client) == {}
    assert lease(store) == []


def test_a_retried_dead_letter_keeps_its_url(store: JobStore, redis_client: redis.Redis) -> None:
    """The job that repeats a failed one tells the same URL of its own end, under an id of its own."""
    dead = end_failed(store, redis_client, **OWN_URL)
    accepted = store.resubmit(dead, "ann")
    assert accepted.made is not None
    assert accepted.made.webhook_url == job(store, accepted.job_id).webhook_url == OWN_URL["webhook_url"]
    store.complete(claim(store, accepted.job_id, "c2"), DONE)
    second, first = deliveries(store)
    assert (first.object_id, first.event_type) == (dead, "response.failed")
    assert (second.object_id, second.event_type) == (accepted.job_id, "response.completed")
    assert first.event_id != second.event_id
    assert [leased.url for leased in lease(store)] == [OWN_URL["webhook_url"]] * 2


def test_a_full_redis_still_takes_events(store: JobStore, redis_client: redis.Redis) -> None:
    """A job's end and its events, their leases and how they went are kept also when Redis is full."""
    endpoint(store)
    held = running(store)
    redis_client.config_set("maxmemory", 1)
    try:
        assert store.complete(held, DONE) == "done"
        leased = lease_one(store)
        assert settle(store, leased, "retry", delay=0) == "done"
        assert store.outbox.move_due() == (1, 0)
        assert settle(store, lease_one(store)) == "done"
    finally:
        redis_client.config_set("maxmemory", 0)
    assert only(store).status == SUCCEEDED


# --- Leases ----------------------------------------------------------------------------------------------------------


def test_a_lease_has_all_that_is_sent(store: JobStore) -> None:
    """Who leases a delivery gets its URL, event and secrets, and nobody else gets it meanwhile."""
    hook = endpoint(store)
    job_id = event(store)
    leased = lease_one(store)
    assert lease(store) == []
    assert (leased.url, leased.host, leased.round, leased.tries) == (hook.url, "hooks.example", 0, ())
    assert (leased.slow, leased.test) == (False, False)
    told = json.loads(leased.body)
    assert told == {
        "id": leased.event_id,
        "object": "event",
        "created_at": int(only(store).created_at),
        "type": "response.completed",
        "data": {"id": job_id},
    }


def test_a_success_ends_a_delivery(store: JobStore, redis_client: redis.Redis) -> None:
    """A delivery that went well has its try on record, is not sent again, and expires."""
    endpoint(store)
    event(store)
    leased = lease_one(store)
    assert settle(store, leased) == "done"
    ended = only(store)
    assert (ended.status, ended.due_at, len(ended.tries), ended.ended) == (SUCCEEDED, None, 1, True)
    assert ended.ended_at is not None
    assert lease(store) == []
    assert 0 < redis_client.pttl(queues.delivery_key(leased.id)) <= 3600_000
    assert members(redis_client, BACKLOG) == set()


def test_a_retry_is_scheduled_out_of_the_backlog(store: JobStore, redis_client: redis.Redis) -> None:
    """A delivery that waits for its next try keeps no worker alive; when that is due, it is in the backlog again."""
    endpoint(store)
    event(store)
    first = lease_one(store)
    assert members(redis_client, BACKLOG) == {first.id}
    assert settle(store, first, "retry", delay=1800) == "done"
    waiting = only(store)
    assert (waiting.status, len(waiting.tries), waiting.ended_at) == (PENDING, 1, None)
    assert waiting.due_at == pytest.approx(waiting.created_at + 1800, abs=5)
    assert members(redis_client, BACKLOG) == set()
    assert (store.outbox.move_due(), lease(store)) == ((0, 0), [])
    retry_due(store, redis_client, first.id)
    assert members(redis_client, BACKLOG) == {first.id}
    second = lease_one(store)
    assert (second.id, second.event_id, second.body) == (first.id, first.event_id, first.body)
    assert (second.round, len(second.tries)) == (1, 1)
    assert second.claim_id != first.claim_id


def test_the_last_try_fails_a_delivery(store: JobStore) -> None:
    """A delivery without another try has failed, and says nothing but its tries of why."""
    endpoint(store)
    event(store)
    assert settle(store, lease_one(store), "failed") == "done"
    ended = only(store)
    assert (ended.status, ended.error, len(ended.tries)) == (FAILED_STATUS, None, 1)


def test_what_is_given_back_was_not_tried(store: JobStore, redis_client: redis.Redis) -> None:
    """A delivery that its worker gives back is due at once, with no try counted."""
    endpoint(store)
    event(store)
    leased = lease_one(store)
    assert settle(store, leased, "release") == "done"
    assert members(redis_client, BACKLOG) == {leased.id}
    again = lease_one(store)
    assert (again.round, again.tries) == (0, ())
    assert settle(store, leased, "succeeded") == "fenced"


@pytest.mark.parametrize("verdict", ["succeeded", "retry", "failed", "gone", "release"])
def test_a_settling_can_be_replayed(store: JobStore, redis_client: redis.Redis, verdict: Any) -> None:
    """What is sent again after a lost reply changes nothing."""
    hook = endpoint(store)
    event(store)
    event(store)
    leased, other = lease(store)
    settle(store, leased, verdict)
    before = redis_client.hgetall(queues.delivery_key(leased.id)), store.webhooks.get(hook.id, "ann")
    check_outbox(redis_client)
    assert settle(store, leased, verdict) in ("fenced", "ended")
    assert (redis_client.hgetall(queues.delivery_key(leased.id)), store.webhooks.get(hook.id, "ann")) == before
    assert redis_client.hget(queues.WEBHOOK_RUNNING, other.host) == b"1"


def test_a_lost_worker_gives_back_what_it_had(store: JobStore, redis_client: redis.Redis) -> None:
    """A delivery whose lease runs out is sent by another; the first one's word counts no more after that."""
    endpoint(store)
    event(store)
    old = lease_one(store)
    assert store.outbox.move_due() == (0, 0), "its lease holds"
    lose(store, redis_client, old.id)
    new = lease_one(store)
    assert (new.id, new.body, new.event_id) == (old.id, old.body, old.event_id)
    assert settle(store, old, "failed") == "fenced"
    assert settle(store, new) == "done"
    assert settle(store, old, "failed") == "ended"
    assert only(store).status == SUCCEEDED


@pytest.mark.parametrize("verdict", ["succeeded", "retry", "failed", "gone", "release"])
def test_a_late_word_counts_while_nobody_else_has_it(store: JobStore, redis_client: redis.Redis, verdict: Any) -> None:
    """What a slow worker says after its lease ran out is taken, as long as nobody has the delivery anew."""
    endpoint(store)
    event(store)
    leased = lease_one(store)
    lose(store, redis_client, leased.id)
    assert settle(store, leased, verdict) == "done"
    check_outbox(redis_client)
    status = {"succeeded": SUCCEEDED, "failed": FAILED_STATUS, "gone": FAILED_STATUS}.get(verdict, PENDING)
    assert only(store).status == status
    assert len(lease(store)) == (verdict == "release")


@pytest.mark.parametrize("verdict", ["succeeded", "retry", "failed", "gone", "release"])
@pytest.mark.parametrize("ended_by", ["move_due", "lease"])
def test_a_late_word_changes_no_end(store: JobStore, redis_client: redis.Redis, verdict: Any, ended_by: str) -> None:
    """A delivery that has ended without its worker, since its endpoint is gone, stays as it ended."""
    hook = endpoint(store)
    event(store)
    leased = lease_one(store)
    if ended_by == "lease":
        lose(store, redis_client, leased.id)
        store.webhooks.delete(hook.id, "ann")
        assert lease(store) == []
    else:
        store.webhooks.delete(hook.id, "ann")
        lose(store, redis_client, leased.id)
    assert only(store).error == "endpoint_deleted"
    assert settle(store, leased, verdict) == "ended"
    assert (only(store).status, only(store).error) == (FAILED_STATUS, "endpoint_deleted")
    check_outbox(redis_client)


def test_an_expired_delivery_is_gone(store: JobStore, redis_client: redis.Redis) -> None:
    """A word on a delivery whose record is gone writes nothing."""
    endpoint(store)
    event(store)
    leased = lease_one(store)
    settle(store, leased)
    forget_deliveries(redis_client, leased.id)
    assert settle(store, leased) == "gone"
    assert not redis_client.exists(queues.delivery_key(leased.id))
    assert store.upkeep.purge_expired() == 2


def test_workers_are_told_of_what_is_due(store: JobStore, redis_client: redis.Redis) -> None:
    """When something is due and nothing was before, or a host is free again, a word goes out."""
    endpoint(store)
    with redis_client.pubsub(ignore_subscribe_messages=True) as told:

        def words() -> int:
            heard = 0
            while told.get_message(timeout=0.05):
                heard += 1
            return heard

        told.subscribe(queues.WEBHOOKS_CHANNEL)
        told.get_message(timeout=1)
        event(store)
        assert words() == 1
        event(store)
        assert words() == 0, "they go on by themselves"
        (first,) = lease(store, per_host=1)
        assert lease(store, per_host=1) == []
        assert words() == 0
        settle(store, first, "retry")
        assert words() == 1, "the other one can be sent now"
        (second,) = lease(store, per_host=1)
        settle(store, second)
        assert lease(store) == []
        retry_due(store, redis_client, first.id)
        assert words() == 1


# --- Endpoints that fail, are disabled, moved or deleted --------------------------------------------------------------


def test_gone_disables_at_once(store: JobStore) -> None:
    """An endpoint that answers 410 is disabled, and what waits for it ends as failed."""
    hook = endpoint(store)
    event(store)
    event(store)
    first, second = lease(store)
    settle(store, second, "retry", delay=0)
    assert settle(store, first, "gone") == "done"
    now = store.webhooks.get(hook.id, "ann")
    assert now.disabled_reason == "gone"
    assert now.disabled_at is not None
    event(store)
    assert len(deliveries(store)) == 2, "it is told nothing new"
    assert store.outbox.move_due() == (1, 0)
    assert lease(store) == []
    waiting, gone = (delivery(store, one.id) for one in (second, first))
    assert (waiting.status, waiting.error, len(waiting.tries)) == (FAILED_STATUS, "endpoint_disabled", 1)
    assert (gone.status, gone.error) == (FAILED_STATUS, None)


def test_failures_over_days_disable(store: JobStore, redis_client: redis.Redis) -> None:
    """An endpoint is disabled, and says so, when all of its tries have failed for long enough; not before."""
    hook = endpoint(store)
    event(store)
    settle(store, lease_one(store), "retry")
    since = store.webhooks.get(hook.id, "ann").failing_since
    assert since == pytest.approx(redis_client.time()[0], abs=5)
    retry_due(store, redis_client, only(store).id)
    settle(store, lease_one(store), "retry")
    assert store.webhooks.get(hook.id, "ann").failing_since == since, "it is the first failure that counts"
    for seconds, reason in ((FIVE_DAYS - 60, None), (FIVE_DAYS + 60, "failing")):
        failing_for(redis_client, hook, seconds)
        retry_due(store, redis_client, only(store).id)
        settle(store, lease_one(store), "retry")
        assert store.webhooks.get(hook.id, "ann").disabled_reason == reason


def test_a_last_failure_counts_too(store: JobStore, redis_client: redis.Redis) -> None:
    """A delivery that has no tries left also tells that its endpoint fails."""
    hook = endpoint(store)
    event(store)
    failing_for(redis_client, hook, 100)
    settle(store, lease_one(store), "failed", disable_after=99)
    assert store.webhooks.get(hook.id, "ann").disabled_reason == "failing"


def test_a_success_forgives(store: JobStore, redis_client: redis.Redis) -> None:
    """One success, of any delivery, sets the clock of failures back."""
    hook = endpoint(store)
    event(store)
    event(store)
    failing_for(redis_client, hook, FIVE_DAYS * 2)
    first, second = lease(store)
    settle(store, first)
    assert store.webhooks.get(hook.id, "ann").failing_since is None
    settle(store, second, "retry")
    now = store.webhooks.get(hook.id, "ann")
    assert now.disabled_at is None
    assert now.failing_since == pytest.approx(redis_client.time()[0], abs=5)


def test_only_the_endpoint_that_fails_is_disabled(store: JobStore) -> None:
    """Other endpoints, of the same host as well, and jobs' own URLs go on."""
    bad, good = endpoint(store), endpoint(store)
    event(store, **OWN_URL)
    by_id = {leased.id.rpartition("_")[2]: leased for leased in lease(store)}
    settle(store, by_id[bad.id[-12:]], "gone")
    settle(store, by_id["job"], "gone")
    assert store.webhooks.get(good.id, "ann").disabled_at is None
    event(store, **OWN_URL)
    assert {leased.id.rpartition("_")[2] for leased in lease(store)} == {good.id[-12:], "job"}


def test_what_is_on_its_way_to_a_disabled_endpoint_may_arrive(store: JobStore) -> None:
    """A delivery that was sent before its endpoint was disabled ends as it went."""
    hook = endpoint(store)
    event(store)
    leased = lease_one(store)
    store.webhooks.update(hook.id, "ann", enabled=False)
    assert settle(store, leased) == "done"
    assert only(store).status == SUCCEEDED
    assert store.webhooks.get(hook.id, "ann").disabled_reason == "owner"


def test_enabled_again_what_still_waits_is_sent(store: JobStore, redis_client: redis.Redis) -> None:
    """What was scheduled before its endpoint was disabled and enabled again goes on."""
    hook = endpoint(store)
    event(store)
    leased = lease_one(store)
    settle(store, leased, "retry")
    store.webhooks.update(hook.id, "ann", enabled=False)
    store.webhooks.update(hook.id, "ann", enabled=True)
    retry_due(store, redis_client, leased.id)
    assert lease_one(store).id == leased.id


@pytest.mark.parametrize("state", ["due", "scheduled", "delivering"])
def test_what_waits_for_a_deleted_endpoint_fails(store: JobStore, redis_client: redis.Redis, state: str) -> None:
    """A delivery whose endpoint was deleted is not sent, but ends as failed and says why."""
    hook = endpoint(store)
    event(store)
    if state != "due":
        leased = lease_one(store)
        if state == "scheduled":
            settle(store, leased, "retry")
    store.webhooks.delete(hook.id, "ann")
    if state == "scheduled":
        retry_due(store, redis_client, leased.id)
    elif state == "delivering":
        lose(store, redis_client, leased.id)
    assert lease(store) == []
    ended = only(store)
    assert (ended.status, ended.error, ended.endpoint_id) == (FAILED_STATUS, "endpoint_deleted", hook.id)
    assert deliveries(store, endpoint=hook.id) == [ended]


def test_a_try_that_was_on_its_way_when_its_endpoint_was_deleted(store: JobStore, redis_client: redis.Redis) -> None:
    """It ends as it went, or, if it is to be sent again, as failed when that is due; the endpoint is not made anew."""
    hook = endpoint(store)
    event(store)
    event(store)
    good, bad = lease(store)
    store.webhooks.delete(hook.id, "ann")
    settle(store, good)
    settle(store, bad, "retry")
    retry_due(store, redis_client, bad.id)
    assert delivery(store, good.id).status == SUCCEEDED
    assert delivery(store, bad.id).error == "endpoint_deleted"
    assert not redis_client.exists(queues.endpoint_key(hook.id))


@pytest.mark.parametrize("state", ["due", "scheduled", "delivering"])
def test_what_waits_follows_its_endpoint(store: JobStore, redis_client: redis.Redis, state: str) -> None:
    """A delivery goes to the URL that its endpoint has when it is sent, and counts for the host there."""
    hook = endpoint(store)
    event(store)
    leased = lease_one(store)
    if state == "scheduled":
        settle(store, leased, "retry")
    elif state == "due":
        settle(store, leased, "release")
    store.webhooks.update(hook.id, "ann", url=OTHER_URL, target=parse(OTHER_URL, Allowed()))
    if state == "scheduled":
        retry_due(store, redis_client, leased.id)
    elif state == "delivering":
        lose(store, redis_client, leased.id)
    now = lease_one(store)
    assert now.url == OTHER_URL
    assert now.host == "other.example:8443"
    assert redis_client.hgetall(queues.WEBHOOK_RUNNING) == {b"other.example:8443": b"1"}


def test_what_was_leased_is_told_again_after_a_lost_reply(store: JobStore, redis_client: redis.Redis) -> None:
    """The same claim id gets the same deliveries, and takes no others beside them."""
    endpoint(store)
    for _ in range(5):
        event(store)
    args = ["claim", 2, 0, 10, 30_000, 1000]
    first, again = (store._scripts.deliver(args=args) for _ in range(2))
    assert len(first) == 2
    assert again == first
    assert redis_client.zcard(queues.WEBHOOK_LEASES) == 2
    held = dict(zip(first[0][::2], first[0][1::2], strict=True))
    assert settle(store, Leased.from_record("claim", held)) == "done"
    assert store._scripts.deliver(args=args) == first[1:]


def test_what_an_earlier_url_answered_says_nothing_of_the_endpoint(store: JobStore) -> None:
    """A 410 of the URL that the endpoint had when the try began does not disable it at its new one, where the event is
    sent next."""
    hook = endpoint(store)
    event(store)
    leased = lease_one(store)
    store.webhooks.update(hook.id, "ann", url=OTHER_URL, target=parse(OTHER_URL, Allowed()))
    assert settle(store, leased, "gone") == "done"
    now = store.webhooks.get(hook.id, "ann")
    assert (now.disabled_reason, now.failing_since) == (None, None)
    store.outbox.move_due()
    assert lease_one(store).url == OTHER_URL


def test_a_failure_after_a_long_silence_begins_a_new_row(store: JobStore, redis_client: redis.Redis) -> None:
    """An endpoint that failed once, had nothing to do for a week, and fails again has not failed for a week."""
    hook = endpoint(store)
    event(store)
    settle(store, lease_one(store), "failed", longest_gap=36 * 3600)
    week = 7 * 24 * 3600 * 1000
    for name in ("failing_since", "failed_last"):
        redis_client.hincrby(queues.endpoint_key(hook.id), name, -week)
    event(store)
    settle(store, lease_one(store), "retry", longest_gap=36 * 3600)
    now = store.webhooks.get(hook.id, "ann")
    assert now.disabled_at is None
    assert now.failing_since == pytest.approx(redis_client.time()[0], abs=5)


# --- Sending again by hand -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", ["succeeded", "failed", "retry"])
def test_what_was_sent_is_sent_again(store: JobStore, redis_client: redis.Redis, verdict: Any) -> None:
    """A delivery that went well, failed, or waits is due now: the same event, all tries before on record, each of its
    retries ahead of it again."""
    endpoint(store)
    event(store)
    first = lease_one(store)
    settle(store, first, verdict)
    store.outbox.redeliver(first.id, "ann")
    check_outbox(redis_client)
    waiting = only(store)
    assert (waiting.status, waiting.ended_at, len(waiting.tries)) == (PENDING, None, 1)
    again = lease_one(store)
    assert (again.event_id, again.body, again.round) == (first.event_id, first.body, 0)
    settle(store, again)
    assert (only(store).status, len(only(store).tries)) == (SUCCEEDED, 2)


@pytest.mark.parametrize("state", ["due", "delivering"])
def test_what_is_being_sent_is_not_sent_beside_itself(store: JobStore, state: str) -> None:
    """Sending again what is due or on its way changes nothing."""
    endpoint(store)
    event(store)
    leased = lease_one(store)
    if state == "due":
        settle(store, leased, "release")
    store.outbox.redeliver(leased.id, "ann")
    assert len(lease(store)) == (state == "due")


def test_what_failed_without_a_try_is_sent_again(store: JobStore) -> None:
    """A delivery that failed since its endpoint was disabled is sent when that is enabled again, not before."""
    hook = endpoint(store)
    event(store)
    store.webhooks.update(hook.id, "ann", enabled=False)
    assert lease(store) == []
    assert only(store).error == "endpoint_disabled"
    with pytest.raises(NotDeliverable, match="disabled"):
        store.outbox.redeliver(only(store).id, "ann")
    store.webhooks.update(hook.id, "ann", enabled=True)
    store.outbox.redeliver(only(store).id, "ann")
    assert only(store).error is None
    assert lease_one(store).round == 0


def test_what_is_sent_again_follows_its_endpoint(store: JobStore) -> None:
    """Sending again goes to where the endpoint is now."""
    hook = endpoint(store)
    event(store)
    event(store)
    first, second = lease(store)
    settle(store, first, "failed")
    settle(store, second, "retry")
    store.webhooks.update(hook.id, "ann", url=OTHER_URL, target=parse(OTHER_URL, Allowed()))
    for one in (first, second):
        store.outbox.redeliver(one.id, "ann")
    assert [(one.url, one.host) for one in lease(store)] == [(OTHER_URL, "other.example:8443")] * 2


def test_what_cannot_be_sent_again(store: JobStore, redis_client: redis.Redis) -> None:
    """A delivery of a deleted endpoint, of another owner, or one that is unknown or expired is not sent again."""
    hook = endpoint(store)
    event(store)
    leased = lease_one(store)
    settle(store, leased, "failed")
    with pytest.raises(NotFound):
        store.outbox.redeliver(leased.id, "bob")
    with pytest.raises(NotFound):
        store.outbox.redeliver("whd_" + "0" * 32 + "_job", "ann")
    store.webhooks.delete(hook.id, "ann")
    with pytest.raises(NotDeliverable, match="deleted"):
        store.outbox.redeliver(leased.id, "ann")
    check_outbox(redis_client)
    forget_deliveries(redis_client, leased.id)
    store.upkeep.purge_expired()
    with pytest.raises(NotFound):
        store.outbox.redeliver(leased.id, "ann")
    with pytest.raises(NotFound):
        store.outbox.get(leased.id, "ann")


def test_a_jobs_own_url_is_told_again(store: JobStore) -> None:
    """What went to a job's own URL is sent there again, also when the job is deleted."""
    job_id = event(store, **OWN_URL)
    settle(store, lease_one(store), "gone")
    store.delete(job_id, "ann")
    store.outbox.redeliver(only(store).id, "ann")
    assert lease_one(store).url == OWN_URL["webhook_url"]


# --- Hosts and their turns -------------------------------------------------------------------------------------------


def test_hosts_take_turns(store: JobStore) -> None:
    """A host with a long line delays another by one delivery, not by its line."""
    to_hosts(store, "a.example")
    for _ in range(4):
        event(store, webhook_url="https://a.example/in", webhook_host="a.example")
    for host in ("b.example", "c.example"):
        event(store, webhook_url=f"https://{host}/in", webhook_host=host)
    assert sorted(taken(lease(store, fast=3))) == ["a.example", "b.example", "c.example"]
    assert taken(lease(store, fast=3)) == ["a.example"] * 3


def test_a_host_gets_its_oldest_first(store: JobStore, redis_client: redis.Redis) -> None:
    """Of one host's deliveries, that which has been due longest is sent first."""
    ids = []
    for number in range(3):
        event(store, **OWN_URL)
        ids.append(deliveries(store)[0].id)
        redis_client.zadd("promptq:webhook-due:own.example", {ids[-1]: 10 + number})
    assert [one.id for one in lease(store)] == ids


def test_no_more_at_once_than_a_host_may_have(store: JobStore) -> None:
    """The limit for one host holds over all workers together, and ends with the deliveries that used it up."""
    for _ in range(5):
        event(store, **OWN_URL)
    event(store, webhook_url="https://b.example/", webhook_host="b.example")
    first = lease(store, per_host=2)
    assert Counter(taken(first)) == {"own.example": 2, "b.example": 1}
    assert lease(store, per_host=2) == [], "another worker gets none of it"
    own = [one for one in first if one.host == "own.example"]
    settle(store, own[0])
    (third,) = lease(store, per_host=2)
    settle(store, own[1], "retry")
    settle(store, third, "release")
    assert len(lease(store, per_host=2)) == 2
    assert lease(store, per_host=2) == []


def test_a_lost_worker_frees_its_hosts(store: JobStore, redis_client: redis.Redis) -> None:
    """What a dead worker had on its way does not count against the host for ever."""
    for _ in range(3):
        event(store, **OWN_URL)
    held = lease(store, per_host=2)
    assert len(held) == 2
    lose(store, redis_client, *(one.id for one in held))
    assert len(lease(store, per_host=2)) == 2


def test_no_more_than_was_asked_for(store: JobStore) -> None:
    """A worker gets as many as it has slots, and none if it has none."""
    to_hosts(store, *(f"h{number}.example" for number in range(6)))
    assert lease(store, fast=0, slow=100) == []
    assert len(lease(store, fast=4, slow=100)) == 4
    assert len(lease(store, fast=4, slow=100)) == 2


def test_a_slow_host_is_in_a_line_of_its_own(store: JobStore, redis_client: redis.Redis) -> None:
    """After a slow answer a host gets slow slots alone, after a quick one it is among the others again."""
    for _ in range(3):
        event(store, **OWN_URL)
    (first,) = lease(store, fast=1)
    settle(store, first, "retry", slow=True)
    event(store, webhook_url="https://b.example/", webhook_host="b.example")
    assert taken(lease(store, fast=100, slow=0)) == ["b.example"]
    (second,) = lease(store, fast=0, slow=1)
    assert second.slow
    assert second.host == "own.example"
    settle(store, second, slow=False)
    assert members(redis_client, queues.WEBHOOK_SLOW) == set()
    (third,) = lease(store, fast=100, slow=0)
    assert not third.slow


def test_a_host_is_counted_as_slow_while_it_is_awaited(store: JobStore, redis_client: redis.Redis) -> None:
    """A host whose answer does not come is slow before it has come, for what is due to it already too."""
    for _ in range(2):
        event(store, **OWN_URL)
    lease(store, fast=1)
    store.outbox.note_slow("own.example")
    check_outbox(redis_client)
    assert lease(store, fast=100, slow=0) == []
    (found,) = lease(store, fast=0, slow=100)
    assert found.slow


def test_slowness_is_forgotten(store: JobStore, redis_client: redis.Redis) -> None:
    """A host that was slow a while ago is like any other when something is due to it again."""
    store.outbox.note_slow("own.example")
    until = redis_client.zscore(queues.WEBHOOK_SLOW, "own.example")
    assert until == pytest.approx((redis_client.time()[0] + SLOW_SECONDS) * 1000, abs=5000)
    redis_client.zadd(queues.WEBHOOK_SLOW, {"own.example": 1})
    event(store, **OWN_URL)
    (leased,) = lease(store, fast=1, slow=0)
    assert not leased.slow
    store.outbox.move_due()
    assert members(redis_client, queues.WEBHOOK_SLOW) == set(), "and takes no memory any more"


def test_what_was_due_to_a_host_that_was_slow(store: JobStore, redis_client: redis.Redis) -> None:
    """A host whose slowness is over does not stay behind hosts that hang, with what was due to it before."""
    event(store, **OWN_URL)
    store.outbox.note_slow("own.example")
    redis_client.zadd(queues.WEBHOOK_SLOW, {"own.example": 1})
    store.outbox.move_due()
    assert taken(lease(store, fast=1, slow=0)) == ["own.example"]


# --- The scheduler's side --------------------------------------------------------------------------------------------


def test_the_backlog_is_what_is_due_or_on_its_way(store: JobStore, redis_client: redis.Redis) -> None:
    """Workers are kept for what can be sent or is being sent, and for nothing else."""
    for _ in range(5):
        event(store, **OWN_URL)
    sent, failed, waiting, on_its_way = lease(store, per_host=4)
    settle(store, sent)
    settle(store, failed, "failed")
    settle(store, waiting, "retry")
    (due,) = {one.id for one in deliveries(store)} - {one.id for one in (sent, failed, waiting, on_its_way)}
    assert members(redis_client, BACKLOG) == {due, on_its_way.id}
    assert redis_client.zcard(BACKLOG) == 2


def test_a_delivery_keeps_its_age_in_the_backlog(store: JobStore, redis_client: redis.Redis) -> None:
    """Being leased does not make a delivery younger."""
    event(store, **OWN_URL)
    redis_client.zadd(BACKLOG, {only(store).id: 5})
    lease_one(store)
    assert redis_client.zscore(BACKLOG, only(store).id) == 5


def test_what_is_due_is_moved_in_parts(store: JobStore, redis_client: redis.Redis) -> None:
    """A limit bounds what one step does, and the next goes on."""
    for _ in range(5):
        event(store, **OWN_URL)
    held = lease(store)
    for leased in held[:3]:
        settle(store, leased, "retry")
    make_due(redis_client, queues.WEBHOOK_SCHEDULED, *(one.id for one in held[:3]))
    make_due(redis_client, queues.WEBHOOK_LEASES, *(one.id for one in held[3:]))
    assert [store.outbox.move_due(limit=2) for _ in range(3)] == [(2, 2), (1, 0), (0, 0)]
    assert len(lease(store)) == 5


def test_a_record_that_is_gone_is_passed_over(store: JobStore, redis_client: redis.Redis) -> None:
    """An entry without a record holds nobody up, and is taken away."""
    event(store, **OWN_URL)
    redis_client.zadd(queues.WEBHOOK_SCHEDULED, {"whd_x": 1})
    redis_client.zadd(queues.WEBHOOK_LEASES, {"whd_y": 1})
    redis_client.zadd("promptq:webhook-due:own.example", {"whd_z": 1})
    assert store.outbox.move_due() == (1, 1)
    assert lease_one(store).id == only(store).id


def test_nothing_of_the_outbox_grows(store: JobStore, redis_client: redis.Redis) -> None:
    """When deliveries have outlived their time, no entry of them is left in any index."""
    endpoint(store)
    for _ in range(6):
        event(store, **OWN_URL)
    for number, leased in enumerate(lease(store)):
        settle(store, leased, ("succeeded", "failed", "gone")[number % 3])
    ended = [one.id for one in deliveries(store)]
    assert len(ended) == 12
    forget_deliveries(redis_client, *ended)
    purged = 0
    while found := store.upkeep.purge_expired(limit=7):
        purged += found
    assert purged == 24
    assert lease(store) == []
    # What was leased is kept for as long as a lost reply to it may be asked for again.
    for key in redis_client.scan_iter("promptq:webhook-taken:*"):
        assert 0 < redis_client.pttl(key) <= 30_000
        redis_client.delete(key)
    kept = {key for key in keys(redis_client) if "webhook" in key or "deliver" in key}
    hook = store.webhooks.list("ann")[0]
    assert kept == {queues.endpoint_key(hook.id), queues.endpoints_key("ann"), *COUNTERS}


def test_an_ended_delivery_is_purged_when_its_record_goes(store: JobStore, redis_client: redis.Redis) -> None:
    """What is written into the purge list is due when the record is, and not before."""
    event(store, **OWN_URL)
    settle(store, lease_one(store))
    goes = redis_client.execute_command("PEXPIRETIME", queues.delivery_key(only(store).id))
    entries = redis_client.zrange(queues.EXPIRING, 0, -1, withscores=True)
    dues = [due for member, due in entries if member.startswith(b"promptq:deliveries:")]
    assert dues == [pytest.approx(goes, abs=1000)] * 2
    assert store.upkeep.purge_expired() == 0


# --- Listings --------------------------------------------------------------------------------------------------------


def test_deliveries_are_listed(store: JobStore, redis_client: redis.Redis) -> None:
    """An owner's deliveries are listed newest first, by endpoint and status if asked, a page at a time."""
    first, second = endpoint(store), endpoint(store, "https://second.example/")
    for _ in range(3):
        event(store, **OWN_URL)
    event(store, owner="bob", **OWN_URL)
    everything = deliveries(store)
    assert len(everything) == 9
    created = [one.created_at for one in everything]
    assert created == sorted(created, reverse=True)
    by_first = deliveries(store, endpoint=first.id)
    assert by_first == [one for one in everything if one.endpoint_id == first.id]
    assert len(by_first) == 3
    assert deliveries(store, endpoint="job") == [one for one in everything if one.endpoint_id is None]
    for leased in lease(store):
        if leased.id in {one.id for one in deliveries(store, endpoint=second.id)}:
            settle(store, leased, "failed")
        elif leased.host == "hooks.example":
            settle(store, leased, "retry")
        elif leased.id in {one.id for one in everything}:
            settle(store, leased)
    counts = {status: len(deliveries(store, statuses=[status])) for status in DeliveryStatus}
    assert counts == {PENDING: 3, SUCCEEDED: 3, FAILED_STATUS: 3}
    assert len(deliveries(store, endpoint=second.id, statuses=[FAILED_STATUS, PENDING])) == 3
    assert deliveries(store, endpoint=second.id, statuses=[SUCCEEDED]) == []
    assert [one.id for one in deliveries(store)] == [one.id for one in everything]
    pages, after = [], None
    while True:
        page = store.outbox.list("ann", limit=4, after=after)
        pages.append([one.id for one in page.deliveries])
        if not page.has_more:
            break
        after = pages[-1][-1]
    assert [len(page) for page in pages] == [4, 4, 1]
    assert [one for page in pages for one in page] == [one.id for one in everything]
    assert store.outbox.list("ann", limit=9).has_more is False


def test_a_listing_after_what_is_not_there(store: JobStore) -> None:
    """A page after a delivery that the owner does not have is an error."""
    event(store, owner="bob", **OWN_URL)
    (bobs,) = deliveries(store, "bob")
    for after in (bobs.id, "whd_x"):
        with pytest.raises(NotFound):
            store.outbox.list("ann", after=after)
    assert deliveries(store, "bob", after=bobs.id) == []


def test_a_delivery_is_its_owners(store: JobStore) -> None:
    """Another owner's delivery does not exist."""
    event(store, **OWN_URL)
    assert delivery(store, only(store).id) == only(store)
    with pytest.raises(NotFound):
        store.outbox.get(only(store).id, "bob")


def test_what_has_expired_fills_no_page(store: JobStore, redis_client: redis.Redis) -> None:
    """A listing passes over what is gone and not purged yet."""
    for _ in range(4):
        event(store, **OWN_URL)
    old = lease(store, per_host=3)
    for leased in old:
        settle(store, leased)
    forget_deliveries(redis_client, *(one.id for one in old))
    page = store.outbox.list("ann", limit=1)
    assert len(page.deliveries) == 1
    assert page.has_more is False
    store.upkeep.purge_expired()


# --- Test events -----------------------------------------------------------------------------------------------------


def test_a_test_event_goes_to_one_endpoint(store: JobStore) -> None:
    """A made-up event is sent to the endpoint that is tested, whatever it subscribes to, and is marked."""
    hook = endpoint(store, types=["response.failed"])
    endpoint(store)
    delivery_id = store.outbox.post_test(hook.id, "ann", "response.completed")
    assert queues.DELIVERY_ID_PATTERN.fullmatch(delivery_id)
    assert (only(store).id, only(store).endpoint_id, only(store).test) == (delivery_id, hook.id, True)
    assert only(store).event_type == "response.completed"
    assert only(store).object_id.startswith("resp_")
    leased = lease_one(store)
    assert (leased.test, leased.url) == (True, hook.url)
    assert leased.sealed_secret is not None


def test_a_disabled_endpoint_can_be_tested(store: JobStore) -> None:
    """Before an endpoint is enabled again its owner can see whether it answers, and send the test again."""
    hook = endpoint(store)
    store.webhooks.update(hook.id, "ann", enabled=False)
    store.outbox.post_test(hook.id, "ann", "response.completed")
    settle(store, lease_one(store))
    store.outbox.redeliver(only(store).id, "ann")
    settle(store, lease_one(store))
    assert len(only(store).tries) == 2


@pytest.mark.parametrize("verdict", ["succeeded", "failed", "gone"])
def test_a_test_says_nothing_of_the_endpoint(store: JobStore, redis_client: redis.Redis, verdict: Any) -> None:
    """A test neither disables an endpoint nor forgives it; who waits for it is told how it ended."""
    hook = endpoint(store)
    failing_for(redis_client, hook, FIVE_DAYS * 2)
    before = store.webhooks.get(hook.id, "ann")
    delivery_id = store.outbox.post_test(hook.id, "ann", "response.completed")
    with redis_client.pubsub(ignore_subscribe_messages=True) as told:
        told.subscribe(queues.EVENTS_CHANNEL)
        told.get_message(timeout=1)
        settle(store, lease_one(store), verdict)
        message = told.get_message(timeout=1)
    assert message is not None
    status = "succeeded" if verdict == "succeeded" else "failed"
    assert message["data"].decode() == f"{delivery_id} {status}"
    assert store.webhooks.get(hook.id, "ann") == before


def test_a_test_event_is_posted_once(store: JobStore) -> None:
    """The step is safe to send again after a lost reply."""
    hook = endpoint(store)
    args = ["whd_" + "1" * 32 + "_" + hook.id[-12:], hook.id, "ann", "evt_1", "response.completed", "resp_1"]
    assert [store._scripts.probe(args=args) for _ in range(2)] == [1, 1]
    settle(store, lease_one(store))
    assert store._scripts.probe(args=args) == 1
    assert lease(store) == []
