"""Waiting for a job's end without asking Redis in a loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import redis

from api.waiting import Waiter
from jobs.errors import StoreUnavailable
from jobs.model import Job, JobStatus
from jobs.redis_clients import listener_client
from jobs.settings import Settings
from jobs.store import JobStore
from tests.processes import eventually
from tests.unit.making import create, job


class Reader:
    """Reads a job, and counts how often."""

    def __init__(self, store: JobStore, job_id: str) -> None:
        self._store, self.job_id, self.reads = store, job_id, 0

    def __call__(self) -> Job:
        now = job(self._store, self.job_id)
        self.reads += 1
        return now


@pytest.fixture(scope="module")
def waiter(redis_url: str) -> Waiter:
    # Its listener runs until the process ends, so the module shares one.
    return Waiter(listener_client(Settings(redis_url=redis_url)))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def waiting(pool: ThreadPoolExecutor, waiter: Waiter, reader: Reader, timeout: float = 20) -> Future[Job]:
    """Start to wait, and return once the job was read."""
    future = pool.submit(waiter.wait, reader.job_id, reader, timeout=timeout)
    eventually(lambda: reader.reads)
    return future


@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_the_end_wakes_at_once(store: JobStore, waiter: Waiter, pool: ThreadPoolExecutor, how: str) -> None:
    """All who wait for a job are woken by its end, and nobody else is."""
    job_id = create(store)
    readers, other = [Reader(store, job_id) for _ in range(2)], Reader(store, create(store))
    futures = [waiting(pool, waiter, reader) for reader in readers]
    bystander = waiting(pool, waiter, other)
    before = other.reads
    start = time.monotonic()
    getattr(store, how)(job_id, "ann")
    for future in futures:
        if how == "cancel":
            assert future.result(5).status is JobStatus.CANCELLED
        else:
            assert future.exception(5) is not None
    assert time.monotonic() - start < 1
    assert other.reads == before
    store.cancel(other.job_id, "ann")
    bystander.result(5)


def test_an_ended_job_is_answered_at_once(store: JobStore, waiter: Waiter) -> None:
    """Who waits for a job that has ended does not wait."""
    reader = Reader(store, create(store))
    store.cancel(reader.job_id, "ann")
    assert waiter.wait(reader.job_id, reader, timeout=20).status is JobStatus.CANCELLED
    assert reader.reads == 1


def test_waiting_has_an_end(store: JobStore, waiter: Waiter) -> None:
    """After the timeout the job is answered as it is; a timeout of nothing reads once."""
    reader = Reader(store, create(store))
    start = time.monotonic()
    assert waiter.wait(reader.job_id, reader, timeout=0.2).status is JobStatus.QUEUED
    assert 0.2 <= time.monotonic() - start < 2
    reads = reader.reads
    waiter.wait(reader.job_id, reader, timeout=0)
    assert reader.reads == reads + 1


def test_nothing_is_asked_while_waiting(
    store: JobStore, waiter: Waiter, pool: ThreadPoolExecutor, redis_client: redis.Redis
) -> None:
    """Between two readings Redis gets no command at all."""
    future = waiting(pool, waiter, reader := Reader(store, create(store)))
    redis_client.config_resetstat()
    time.sleep(0.5)
    stats = redis_client.info("commandstats")
    assert set(stats) <= {"cmdstat_config|resetstat", "cmdstat_info"}
    store.cancel(reader.job_id, "ann")
    future.result(5)


def test_a_new_connection_wakes(
    store: JobStore, waiter: Waiter, pool: ThreadPoolExecutor, redis_client: redis.Redis
) -> None:
    """When the subscription was lost and made again everybody looks again, since an event may have been missed."""
    reader = Reader(store, create(store))
    future = waiting(pool, waiter, reader)
    before = reader.reads
    assert redis_client.client_kill_filter(_type="pubsub") >= 1
    eventually(lambda: reader.reads > before)
    store.cancel(reader.job_id, "ann")
    assert future.result(5).status is JobStatus.CANCELLED


def test_a_caller_can_be_woken_and_stopped(store: JobStore, waiter: Waiter, pool: ThreadPoolExecutor) -> None:
    """A caller's own event makes it look again, and ``stop`` lets it go, as when its client went away."""
    gone, wake = threading.Event(), threading.Event()
    reader = Reader(store, create(store))
    future = pool.submit(waiter.wait, reader.job_id, reader, timeout=20, stop=gone.is_set, wake=wake)
    eventually(lambda: reader.reads)
    gone.set()
    wake.set()
    assert future.result(5).status is JobStatus.QUEUED


def test_a_crowd_that_is_woken_together_takes_turns(store: JobStore, waiter: Waiter) -> None:
    """However many wait for one job, its end makes no more ask Redis at once than it has connections for."""
    reading = most = 0
    lock, job_id = threading.Lock(), create(store)

    def read() -> Job:
        nonlocal reading, most
        with lock:
            reading += 1
            most = max(most, reading)
        time.sleep(0.01)
        try:
            return job(store, job_id)
        finally:
            with lock:
                reading -= 1

    with ThreadPoolExecutor(200) as crowd:
        futures = [crowd.submit(waiter.wait, job_id, read, timeout=20) for _ in range(200)]
        eventually(lambda: len(waiter._waiting[job_id]) == 200)
        store.cancel(job_id, "ann")
        assert {future.result(20).status for future in futures} == {JobStatus.CANCELLED}
    assert most <= 32


def test_nobody_waits_for_a_turn_for_ever(store: JobStore, waiter: Waiter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where those before hang at Redis, the others are told that it does not answer."""
    monkeypatch.setattr("api.waiting._TURN", 0.2)
    job_id, hang = create(store), threading.Event()

    def read() -> Job:
        hang.wait(20)
        return job(store, job_id)

    with ThreadPoolExecutor(33) as crowd:
        futures = [crowd.submit(waiter.wait, job_id, read, timeout=0) for _ in range(33)]
        failed = eventually(lambda: [future for future in futures if future.done()])
        hang.set()
        assert len(failed) == 1
        with pytest.raises(StoreUnavailable):
            failed[0].result()
        assert all(future.result(20).status is JobStatus.QUEUED for future in futures if future is not failed[0])
