"""Jobs for the tests of the store and of what stands on it, and a second opinion on what Redis holds."""

from __future__ import annotations

import contextlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import redis

from jobs import queues
from jobs.broker import MessageMaker
from jobs.model import CHAT_COMPLETIONS, Claim, Job, JobStatus, NewJob, Outcome, new_job_id
from jobs.outbox import Verdict
from jobs.redis_clients import worker_client
from jobs.sealing import Sealer, new_key
from jobs.settings import Settings
from jobs.store import JobStore
from jobs.webhook_urls import Allowed, parse
from jobs.webhooks import EVENT_TYPES, Delivery, Endpoint, Leased

DONE = Outcome(JobStatus.COMPLETED, b'{"choices": []}', {"total_tokens": 3})
FAILED = Outcome(JobStatus.FAILED, error={"code": "llm_unavailable", "message": "The LLM answered 500."})
BODY = b'{"model":"sim","messages":[]}'
SEALER = Sealer([new_key()])
#: What a job is made with that names a webhook URL of its own.
OWN_URL: Mapping[str, str] = {"webhook_url": "https://own.example/in", "webhook_host": "own.example"}
FIVE_DAYS = 5 * 24 * 3600.0


def new_job(**changes: Any) -> NewJob:
    """A job of the owner ``ann`` in the default queue, but for the changes."""
    endpoint = changes.get("endpoint", CHAT_COMPLETIONS)
    known: dict[str, Any] = {"owner": "ann", "queue": "default", "request": BODY, "model": "sim"}
    return NewJob(**({"id": new_job_id(endpoint), "endpoint": endpoint} | known | changes))


def create(store: JobStore, **changes: Any) -> str:
    """Make a job and answer its id."""
    accepted = store.create(new_job(**changes))
    assert accepted.made is not None
    return accepted.job_id


def claim(store: JobStore, job_id: str, claim_id: str = "c1", *, lease: float = 30) -> Claim:
    """Claim a job that is there to be claimed."""
    claimed = store.claim(job_id, claim_id, lease_seconds=lease, worker="w1")
    assert isinstance(claimed, Claim), claimed
    return claimed


def running(store: JobStore, claim_id: str = "c1", **changes: Any) -> Claim:
    """A new job, claimed."""
    return claim(store, create(store, **changes), claim_id)


def job(store: JobStore, job_id: str, owner: str = "ann") -> Job:
    """The job as it is now."""
    return store.get(job_id, owner)


def make_due(client: redis.Redis, key: str, *job_ids: str) -> None:
    """Set the time of these members of a sorted set to the past."""
    for job_id in job_ids:
        assert client.zadd(key, {job_id: 1}, xx=True, ch=True) == 1, f"{job_id} is not in {key}"


def lose_lease(client: redis.Redis, *job_ids: str) -> None:
    """Let leases run out now."""
    make_due(client, queues.LEASES, *job_ids)


def forget_expired(client: redis.Redis, *job_ids: str) -> None:
    """Let finished jobs outlive their time: the records are gone, and their index entries are due."""
    for member in client.zrange(queues.EXPIRING, 0, -1):
        job_id = member.decode().rpartition(" ")[2]
        if job_id in job_ids:
            assert client.delete(queues.job_key(job_id)) == 1
            client.zadd(queues.EXPIRING, {member: 1})


@contextlib.contextmanager
def webhook_store(redis_url: str, messages: MessageMaker) -> Iterator[JobStore]:
    """A store that can keep webhook secrets."""
    client = worker_client(Settings(redis_url=redis_url))
    yield JobStore(client, messages, result_ttl=3600, sealer=SEALER)
    client.close()


def endpoint(
    store: JobStore,
    url: str = "https://hooks.example/in",
    *,
    owner: str = "ann",
    types: Sequence[str] = EVENT_TYPES,
) -> Endpoint:
    """A new webhook endpoint."""
    made, _ = store.webhooks.create(owner, name="n", url=url, target=parse(url, Allowed()), event_types=types)
    return made


def event(store: JobStore, **changes: Any) -> str:
    """End a new job as completed, which its owner is to be told of; answer its id."""
    held = running(store, f"c-{new_job_id('')}", **changes)
    assert store.complete(held, DONE) == "done"
    return held.job.id


def deliveries(store: JobStore, owner: str = "ann", **asked: Any) -> list[Delivery]:
    """The owner's deliveries, the newest first."""
    return store.outbox.list(owner, **({"limit": 1000} | asked)).deliveries


def delivery(store: JobStore, delivery_id: str, owner: str = "ann") -> Delivery:
    """The delivery as it is now."""
    return store.outbox.get(delivery_id, owner)


def lease(store: JobStore, *, fast: int = 1000, slow: int = 1000, per_host: int = 1000) -> list[Leased]:
    """Take what is due."""
    return store.outbox.lease(fast=fast, slow=slow, per_host=per_host, lease_seconds=30)


def lease_one(store: JobStore) -> Leased:
    """Take the one that is due."""
    (leased,) = lease(store)
    return leased


def settle(
    store: JobStore,
    leased: Leased,
    verdict: Verdict = "succeeded",
    *,
    delay: float = 300,
    slow: bool = False,
    disable_after: float = FIVE_DAYS,
    longest_gap: float = math.inf,
) -> str:
    """Write down how a try went."""
    tried = {"started_at": 1.0, "seconds": 0.1, "status_code": 200, "error": None}
    tries = [*leased.tries, *([] if verdict == "release" else [tried])]
    return store.outbox.settle(
        leased,
        verdict,
        tries=tries,
        delay=delay,
        slow=slow,
        disable_after=disable_after,
        longest_gap=longest_gap,
    )


def forget_deliveries(client: redis.Redis, *delivery_ids: str) -> None:
    """Let ended deliveries outlive their time: the records are gone, and their index entries are due."""
    assert client.delete(*map(queues.delivery_key, delivery_ids)) == len(delivery_ids)
    for member in client.zrange(queues.EXPIRING, 0, -1):
        if member.decode().rpartition(" ")[2] in delivery_ids:
            client.zadd(queues.EXPIRING, {member: 1})


def members(client: redis.Redis, key: str) -> set[str]:
    """The members of a sorted set."""
    return {member.decode() for member in client.zrange(key, 0, -1)}


def keys(client: redis.Redis) -> set[str]:
    """All keys but Celery's own bindings."""
    return {key.decode() for key in client.keys("*") if not key.startswith(b"_kombu")}


def check_invariants(client: redis.Redis) -> dict[str, dict[bytes, bytes]]:
    """Recount every set from the records, and answer the records by job id."""
    records = {
        key.decode().removeprefix(queues.job_key("")): client.hgetall(key)
        for key in client.scan_iter(queues.job_key("*"), count=1000)
    }
    scheduled, leases = members(client, queues.SCHEDULED), members(client, queues.LEASES)
    waiting: dict[str, set[str]] = defaultdict(set)
    active: dict[str, set[str]] = defaultdict(set)
    leaves: dict[str, set[str]] = defaultdict(set)
    in_progress, later, deadlines, dead = set(), set(), set(), set()
    for job_id, record in records.items():
        fields = {name: record[name.encode()].decode() for name in ("owner", "kind", "status", "queue")}
        leaves["promptq:index:" + ":".join(fields.values())].add(job_id)
        status = JobStatus(fields["status"])
        # What is not stored cannot be retried.
        if status is JobStatus.FAILED and b"retried_as" not in record and fields["kind"] != queues.UNSTORED:
            leaves["promptq:index:" + ":".join({**fields, "status": "dead"}.values())].add(job_id)
            dead.add(job_id)
        assert (client.pttl(queues.job_key(job_id)) > 0) is status.terminal, "only what has ended may expire"
        if status.terminal:
            continue
        if b"deadline" in record:
            deadlines.add(job_id)
        if status is JobStatus.IN_PROGRESS:
            in_progress.add(job_id)
            active[fields["queue"]].add(job_id)
        elif b"retry_at" in record:
            later.add(job_id)
        else:
            waiting[fields["queue"]].add(job_id)
    assert leases == in_progress
    assert scheduled == later
    assert members(client, queues.DEADLINES) == deadlines
    assert members(client, queues.DEAD) == dead
    for queue in queues.QUEUES:
        paused = client.sismember(queues.PAUSED, queue)
        messages, held = client.llen(queues.celery_queue(queue)), client.llen(queues.held_messages_key(queue))
        assert members(client, queues.waiting_key(queue)) == waiting[queue]
        assert members(client, queues.held_key(queue)) == (waiting[queue] if paused else set())
        assert members(client, queues.backlog_key(queue)) == active[queue] | (set() if paused else waiting[queue])
        assert paused or held == 0, "what was held back goes on with its queue"
        if not waiting[queue]:
            assert (held if paused else messages) == 0, "nobody waits, so no message is of use"
    assert sets(client, "promptq:index:") == dict(leaves)
    for prefix in (queues.stream_key(""), queues.deltas_key("")):
        for key in client.scan_iter(f"{prefix}*", count=1000):
            record = records[key.decode().removeprefix(prefix)]
            assert b"stream" in record
            ended = JobStatus(record[b"status"].decode()).terminal
            assert (client.pttl(key) > 0) is ended, "a stream lives as long as its job"
    check_outbox(client)
    check_batches(client)
    return records


def check_batches(client: redis.Redis) -> None:
    """Recount what batches are made of from their lines' own records."""
    total = left = 0
    due = members(client, queues.BATCH_DUE)
    for key in client.scan_iter(queues.batch_key("batch_*"), count=1000):
        batch_id = key.decode().removeprefix(queues.batch_key(""))
        if ":" in batch_id:
            continue
        batch, alive, ended = client.hgetall(key), members(client, f"{key.decode()}:alive"), 0
        running = batch[b"status"].decode() in ("validating", "in_progress", "finalizing", "cancelling")
        assert (batch_id in due) is running, "what has not ended is looked at some time"
        assert (client.pttl(key) > 0) is not running, "only what has ended may expire"
        asked = sum(client.hstrlen(queues.job_key(job_id), "request") for job_id in alive)
        for member in members(client, f"{key.decode()}:ended"):
            if member.startswith("bad:"):
                ended += client.hstrlen(f"{key.decode()}:bad", member.removeprefix("bad:"))
            else:
                ended += sum(client.hstrlen(queues.job_key(member), name) for name in ("result", "error"))
        assert (int(batch.get(b"alive_bytes", 0)), int(batch.get(b"ended_bytes", 0))) == (asked, ended)
        total += asked + ended
        if running:
            left += 1 + int(batch[b"total"]) - int(batch[b"fed"])
    assert int(client.get(queues.BATCH_BYTES) or 0) == total
    paused = client.sismember(queues.PAUSED, queues.BULK)
    assert client.llen(queues.backlog_key(queues.BATCHES)) == (0 if paused else left)


def sets(client: redis.Redis, prefix: str) -> dict[str, set[str]]:
    """All sorted sets whose keys begin so, with their members."""
    return {key.decode(): members(client, key.decode()) for key in client.scan_iter(f"{prefix}*", count=1000)}


def check_outbox(client: redis.Redis, per_host: int = 1) -> dict[str, dict[bytes, bytes]]:
    """Recount every set of the outbox from the delivery records, and answer the records by delivery id.

    ``per_host``: how many deliveries a host has on its way before it may be without a turn.
    """
    records = {
        key.decode().removeprefix(queues.delivery_key("")): client.hgetall(key)
        for key in client.scan_iter(queues.delivery_key("*"), count=1000)
    }
    by_state: dict[str, set[str]] = defaultdict(set)
    due: dict[str, set[str]] = defaultdict(set)
    leaves: dict[str, set[str]] = defaultdict(set)
    expiring: set[str] = set()
    sending: Counter[str] = Counter()
    for delivery_id, record in records.items():
        state, host, owner = (record[name].decode() for name in (b"state", b"host", b"owner"))
        by_state[state].add(delivery_id)
        if state == "due":
            due[f"promptq:webhook-due:{host}"].add(delivery_id)
        sending[host] += state == "delivering"
        ended = state in ("succeeded", "failed")
        assert ended is (b"ended" in record)
        assert (client.pttl(queues.delivery_key(delivery_id)) > 0) is ended, "only what has ended may expire"
        for target in ("all", record[b"endpoint"].decode() or "job"):
            leaf = f"promptq:deliveries:{owner}:{target}:{state if ended else 'pending'}"
            leaves[leaf].add(delivery_id)
            if ended:
                expiring.add(f"{leaf} {delivery_id}")
    assert set(by_state) <= {"due", "delivering", "scheduled", "succeeded", "failed"}
    assert sets(client, "promptq:webhook-due:") == dict(due)
    assert members(client, queues.WEBHOOK_LEASES) == by_state["delivering"]
    assert members(client, queues.WEBHOOK_SCHEDULED) == by_state["scheduled"]
    assert members(client, queues.backlog_key(queues.WEBHOOKS)) == by_state["due"] | by_state["delivering"]
    counted = {host.decode(): int(count) for host, count in client.hgetall(queues.WEBHOOK_RUNNING).items()}
    assert counted == dict(+sending)
    assert sets(client, "promptq:deliveries:") == dict(leaves)
    assert {one for one in members(client, queues.EXPIRING) if one.startswith("promptq:deliveries:")} == expiring
    fast, slow = members(client, queues.WEBHOOK_TURNS_FAST), members(client, queues.WEBHOOK_TURNS_SLOW)
    for host in (key.removeprefix("promptq:webhook-due:") for key in due):
        assert host in fast | slow or sending[host] >= per_host, "what is due has a turn"
    now = client.time()[0] * 1000
    assert not fast & {host.decode() for host in client.zrangebyscore(queues.WEBHOOK_SLOW, now + 1000, "+inf")}
    _check_endpoints(client)
    return records


def _check_endpoints(client: redis.Redis) -> None:
    """Recount the owners' endpoints, and who is told of what, from the endpoint records."""
    owned: dict[str, set[str]] = defaultdict(set)
    told: dict[str, set[str]] = defaultdict(set)
    for key in client.scan_iter(queues.endpoint_key("*"), count=1000):
        endpoint_id, record = key.decode().removeprefix(queues.endpoint_key("")), client.hgetall(key)
        owner, types = record[b"owner"].decode(), record[b"types"].decode().split(",")
        owned[queues.endpoints_key(owner)].add(endpoint_id)
        for event_type in types if b"disabled" not in record else ():
            told[f"promptq:webhook-subscribers:{owner}:{event_type}"].add(endpoint_id)
    assert sets(client, queues.endpoints_key("")) == dict(owned)
    subscribers = client.scan_iter("promptq:webhook-subscribers:*", count=1000)
    assert {key.decode(): {one.decode() for one in client.smembers(key)} for key in subscribers} == dict(told)
