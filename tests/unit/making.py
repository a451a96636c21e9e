"""Jobs for the tests of the store and of what stands on it, and a second opinion on what Redis holds."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import redis

from jobs import queues
from jobs.model import CHAT_COMPLETIONS, Claim, Job, JobStatus, NewJob, Outcome, new_job_id
from jobs.store import JobStore

DONE = Outcome(JobStatus.COMPLETED, b'{"choices": []}', {"total_tokens": 3})
FAILED = Outcome(JobStatus.FAILED, error={"code": "llm_unavailable", "message": "The LLM answered 500."})
BODY = b'{"model":"sim","messages":[]}'


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
    in_progress, later, deadlines = set(), set(), set()
    for job_id, record in records.items():
        fields = {name: record[name.encode()].decode() for name in ("owner", "kind", "status", "queue")}
        leaves["promptq:index:" + ":".join(fields.values())].add(job_id)
        status = JobStatus(fields["status"])
        if status is JobStatus.FAILED and b"retried_as" not in record:
            leaves["promptq:index:" + ":".join({**fields, "status": "dead"}.values())].add(job_id)
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
    for queue in queues.QUEUES:
        paused = client.sismember(queues.PAUSED, queue)
        messages, held = client.llen(queues.celery_queue(queue)), client.llen(queues.held_messages_key(queue))
        assert members(client, queues.waiting_key(queue)) == waiting[queue]
        assert members(client, queues.held_key(queue)) == (waiting[queue] if paused else set())
        assert members(client, queues.backlog_key(queue)) == active[queue] | (set() if paused else waiting[queue])
        assert paused or held == 0, "what was held back goes on with its queue"
        if not waiting[queue]:
            assert (held if paused else messages) == 0, "nobody waits, so no message is of use"
    found = {key.decode(): members(client, key.decode()) for key in client.scan_iter("promptq:index:*", count=1000)}
    assert found == dict(leaves)
    return records
