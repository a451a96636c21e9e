"""Making jobs: all at once, and once for each Idempotency-Key."""

from __future__ import annotations

import base64
import json

import pytest
import redis

from jobs import queues
from jobs.errors import IdempotencyConflict, NotFound
from jobs.model import RESPONSES, JobStatus
from jobs.store import Accepted, JobStore
from tests.unit.making import BODY, check_invariants, claim, create, forget_expired, job, keys, new_job


def test_a_new_job_is_complete(store: JobStore, redis_client: redis.Redis) -> None:
    """The record, the place in the queue, the backlog and the Celery message are there as soon as the job is."""
    job_id = create(store, metadata={"a": "ü\x00"}, deadline_seconds=60, queue="bulk")
    made = job(store, job_id)
    assert (made.status, made.attempt, made.queue, made.request) == (JobStatus.QUEUED, 0, "bulk", BODY)
    assert made.metadata == {"a": "ü\x00"}
    assert made.deadline_at == pytest.approx(made.created_at + 60)
    assert (made.started_at, made.finished_at, made.result, made.error) == (None, None, None, None)
    assert store.position(made) == 1
    assert redis_client.zcard(queues.backlog_key("bulk")) == 1
    (message,) = redis_client.lrange(queues.celery_queue("bulk"), 0, -1)
    assert json.loads(base64.b64decode(json.loads(message)["body"]))[0] == [job_id]
    check_invariants(redis_client)


def test_create_can_be_replayed(store: JobStore, redis_client: redis.Redis) -> None:
    """The same new job sent twice, as after a lost reply, is one job with one message."""
    new = new_job(idempotency_key="k", fingerprint="f")
    assert store.create(new) == store.create(new) == Accepted(new.id, job(store, new.id), 1)
    assert redis_client.llen(queues.celery_queue("default")) == 1


def test_messages_go_in_order(store: JobStore) -> None:
    """Jobs wait in the order in which they came."""
    ids = [create(store) for _ in range(3)]
    assert [store.position(job(store, job_id)) for job_id in ids] == [1, 2, 3]


def test_the_same_key_and_request_give_the_same_job(store: JobStore, redis_client: redis.Redis) -> None:
    """A repeated Idempotency-Key with the same request makes nothing and answers with the first job."""
    first = create(store, idempotency_key="k", fingerprint="f")
    assert store.create(new_job(idempotency_key="k", fingerprint="f")) == Accepted(first, None, None)
    assert len(check_invariants(redis_client)) == 1


def test_the_same_key_with_another_request_is_a_conflict(store: JobStore, redis_client: redis.Redis) -> None:
    """A repeated Idempotency-Key with another request is refused, and makes nothing."""
    first = create(store, idempotency_key="k", fingerprint="f")
    with pytest.raises(IdempotencyConflict, match=first):
        store.create(new_job(idempotency_key="k", fingerprint="other"))
    assert len(check_invariants(redis_client)) == 1


def test_a_key_is_its_owners(store: JobStore) -> None:
    """Two owners may use the same Idempotency-Key for different jobs."""
    create(store, idempotency_key="k", fingerprint="f")
    create(store, idempotency_key="k", fingerprint="g", owner="bob")


def test_any_text_is_a_key(store: JobStore, redis_client: redis.Redis) -> None:
    """An Idempotency-Key may hold any text, which never becomes part of a Redis key."""
    first = create(store, idempotency_key="a b\n\x00ü\ud800", fingerprint="f")
    assert store.create(new_job(idempotency_key="a b\n\x00ü\ud800", fingerprint="f")) == Accepted(first, None, None)
    assert not any(" " in key for key in keys(redis_client))


def test_deleting_a_job_frees_its_key(store: JobStore) -> None:
    """After a job is deleted its Idempotency-Key makes a new one."""
    first = create(store, idempotency_key="k", fingerprint="f")
    store.delete(first, "ann")
    assert create(store, idempotency_key="k", fingerprint="g") != first


def test_a_key_goes_with_its_job(store: JobStore, redis_client: redis.Redis) -> None:
    """A key lives as long as its job: for ever while that runs, its time to live when it has ended, and no longer."""
    first = create(store, idempotency_key="k", fingerprint="f")
    (key,) = (key for key in keys(redis_client) if ":idem:" in key)
    assert redis_client.pttl(key) == -1
    store.cancel(first, "ann")
    assert 0 < redis_client.pttl(key) <= 3600_000
    forget_expired(redis_client, first)
    second = create(store, idempotency_key="k", fingerprint="g")
    assert redis_client.pttl(key) == -1
    assert job(store, second).status is JobStatus.QUEUED


def test_a_job_is_its_owners(store: JobStore) -> None:
    """Another owner's job is not found, whatever is asked of it; nor is one that never was."""
    job_id = create(store)
    for name in (job_id, "job_" + "0" * 32):
        for ask in (store.get, store.cancel, store.delete):
            with pytest.raises(NotFound):
                ask(name, "bob")
        with pytest.raises(NotFound):
            store.list("bob", after=name)
    assert job(store, job_id).status is JobStatus.QUEUED


def test_ids_tell_their_kind(store: JobStore) -> None:
    """A response has the id that the SDK expects, any other job one of its own; both match the pattern and sort."""
    response, other = new_job(endpoint=RESPONSES).id, new_job().id
    assert response.startswith("resp_")
    assert other.startswith("job_")
    assert queues.JOB_ID_PATTERN.fullmatch(response)
    assert queues.JOB_ID_PATTERN.fullmatch(other)


def test_any_model_name_can_be_read_again(store: JobStore) -> None:
    """A model's name of any text, a lone surrogate included, comes back as it went in."""
    job_id = create(store, model="m\ud800\x00ü")
    assert job(store, job_id).model == "m\ud800\x00ü"
    assert claim(store, job_id).job.model == "m\ud800\x00ü"
