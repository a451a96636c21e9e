"""What Prometheus reads from workers and schedulers, on a real store."""

from __future__ import annotations

import contextlib
from typing import Any

import gevent
import redis
from prometheus_client import CollectorRegistry

from jobs import queues
from jobs.broker import MessageMaker
from jobs.errors import LLMRateLimited, LLMRejected
from jobs.model import JobStatus
from jobs.redis_clients import worker_client
from jobs.settings import Settings
from jobs.store import JobStore
from tests.processes import free_port
from tests.unit.making import DONE, FAILED, claim, create, endpoint, event, lose_lease, running, webhook_store
from tests.unit.test_runner import FakeLLM, make_runner
from worker.calls import AbortReason
from worker.llm import Answer
from worker.metrics import SchedulerMetrics
from worker.scheduler import Scheduler

GOOD = Answer(b'{"choices": [1]}', JobStatus.COMPLETED, {"prompt_tokens": 7, "completion_tokens": 2}, None, "req_1")


def read(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """A sample's value, as it is exposed."""
    return registry.get_sample_value(name, labels)


def scheduler_metrics(store: JobStore) -> CollectorRegistry:
    metrics = SchedulerMetrics()
    metrics.watch(store.queues)
    return metrics.registry


def test_the_scheduler_tells_what_the_queues_hold(store: JobStore, redis_client: redis.Redis) -> None:
    """Waiting, running, backlog, age of the next, scheduled, dead letters: as Redis has them at the scrape."""
    registry = scheduler_metrics(store)
    oldest = create(store)
    create(store), create(store, queue="bulk")
    running(store, "c1")
    scheduled = running(store, "c2")
    store.retry(scheduled, attempt=1, attempts=[], delay=60, keep_slot=False)
    dead = running(store, "c3")
    store.complete(dead, FAILED)
    redis_client.zincrby(queues.backlog_key("default"), -90_000, oldest)
    told = {
        (name, queue): read(registry, f"promptq_queue_{name}", queue=queue)
        for name in ("waiting_jobs", "running_jobs", "paused")
        for queue in ("interactive", "default", "bulk")
    }
    assert told == {
        ("waiting_jobs", "interactive"): 0,
        ("waiting_jobs", "default"): 2,
        ("waiting_jobs", "bulk"): 1,
        ("running_jobs", "interactive"): 0,
        ("running_jobs", "default"): 1,
        ("running_jobs", "bulk"): 0,
        **{("paused", queue): 0 for queue in ("interactive", "default", "bulk")},
    }
    assert [read(registry, "promptq_backlog", queue=queue) for queue in ("default", "bulk", "webhooks")] == [3, 1, 0]
    age = read(registry, "promptq_queue_oldest_waiting_age_seconds", queue="default")
    assert age is not None
    assert 90 <= age < 100
    assert read(registry, "promptq_queue_oldest_waiting_age_seconds", queue="interactive") == 0
    singles = ("jobs_in_flight", "jobs_scheduled", "dead_letters", "webhooks_scheduled", "redis_up")
    assert [read(registry, f"promptq_{name}") for name in singles] == [1, 1, 1, 0, 1]
    assert (read(registry, "promptq_redis_memory_bytes") or 0) > 100_000
    assert read(registry, "promptq_redis_memory_limit_bytes") == redis_client.info("memory")["maxmemory"]


def test_each_end_is_counted_once(store: JobStore, redis_client: redis.Redis) -> None:
    """However a job ends, and whoever ends it, it counts in its state, also when it is deleted afterwards."""
    registry = scheduler_metrics(store)
    done = running(store, "c1")
    assert [store.complete(done, DONE) for _ in range(2)] == ["done", "done"]
    store.cancel(create(store), "ann")
    expired = create(store, deadline_seconds=0.001)
    gevent.sleep(0.01)
    Scheduler(upkeep=store.upkeep, outbox=store.outbox, lease_seconds=30).tick()
    crashed = create(store)
    for number in range(3):
        claim(store, crashed, f"k{number}")
        lose_lease(redis_client, crashed)
        store.upkeep.recover_lost()
    store.delete(expired, "ann")
    counts = {
        status: read(registry, "promptq_jobs_ended_total", status=status) for status in JobStatus if status.terminal
    }
    assert counts == {"completed": 1, "cancelled": 1, "failed": 2, "incomplete": None}
    assert read(registry, "promptq_dead_letters") == 1


def test_due_webhooks_are_a_backlog(redis_url: str, messages: MessageMaker) -> None:
    """A delivery that is due counts in the backlog that workers are scaled on."""
    with webhook_store(redis_url, messages) as store:
        endpoint(store)
        event(store)
        assert read(scheduler_metrics(store), "promptq_backlog", queue="webhooks") == 1


def test_while_redis_is_away_nothing_stale_is_told(messages: MessageMaker) -> None:
    """Without Redis there is a 0 for it, and no other word of the queues."""
    with contextlib.closing(worker_client(Settings(redis_url=f"redis://127.0.0.1:{free_port()}"))) as client:
        registry = scheduler_metrics(JobStore(client, messages, result_ttl=60))
        names = {family.name for family in registry.collect()}
        assert read(registry, "promptq_redis_up") == 0
    assert not any(name.startswith(("promptq_queue", "promptq_backlog", "promptq_jobs_in")) for name in names)


def test_ticks_and_what_they_did_are_counted(store: JobStore, redis_client: redis.Redis) -> None:
    """A recovered job counts as such."""
    job_id = create(store)
    claim(store, job_id, "c1")
    lose_lease(redis_client, job_id)
    scheduler = Scheduler(upkeep=store.upkeep, outbox=store.outbox, lease_seconds=30)
    scheduler.tick()
    assert read(scheduler.metrics.registry, "promptq_scheduler_jobs_total", step="recovered") == 1
    scheduler.metrics.ticked("ok")
    assert read(scheduler.metrics.registry, "promptq_scheduler_ticks_total", outcome="ok") == 1


def run(store: JobStore, *script: Any, **options: Any) -> CollectorRegistry:
    runner = make_runner(store, FakeLLM(list(script)), **options)
    runner.run(create(store))
    return runner.metrics.registry


CHAT = "/v1/chat/completions"


def test_a_worker_tells_of_calls_retries_and_tokens(store: JobStore) -> None:
    """Each call counts under what came of it, each planned attempt under what made it necessary."""
    registry = run(store, LLMRateLimited("slow", retry_after=0), GOOD)
    calls = "promptq_llm_call_duration_seconds_count"
    assert read(registry, calls, endpoint=CHAT, outcome="llm_rate_limited") == 1
    assert read(registry, calls, endpoint=CHAT, outcome="ok") == 1
    assert read(registry, "promptq_job_retries_total", code="llm_rate_limited") == 1
    assert read(registry, "promptq_job_wait_seconds_count", queue="default") == 1
    tokens = [read(registry, "promptq_llm_tokens_total", endpoint=CHAT, kind=kind) for kind in ("input", "output")]
    assert tokens == [7, 2]


def test_a_last_failure_is_no_retry(store: JobStore) -> None:
    """A call that is not repeated counts as a call alone."""
    registry = run(store, LLMRejected("no"))
    assert read(registry, "promptq_llm_call_duration_seconds_count", endpoint=CHAT, outcome="llm_rejected") == 1
    assert read(registry, "promptq_job_retries_total", code="llm_rejected") is None


def test_what_nobody_wanted_is_counted(store: JobStore) -> None:
    """A result that another claim has overtaken, and a job that was given back."""
    job_id = create(store)
    runner = make_runner(store, FakeLLM([lambda: store.cancel(job_id, "ann")]))
    runner.run(job_id)
    assert read(runner.metrics.registry, "promptq_results_discarded_total", reason="ended") == 1

    def stop() -> None:
        for running_id in stopped.calls.claims():
            stopped.calls.abort(running_id, AbortReason.SHUTDOWN)
        gevent.sleep(5)

    stopped = make_runner(store, FakeLLM([stop]))
    stopped.run(create(store))
    assert read(stopped.metrics.registry, "promptq_jobs_handed_back_total") == 1
    aborted = {"endpoint": CHAT, "outcome": "aborted"}
    assert read(stopped.metrics.registry, "promptq_llm_call_duration_seconds_count", **aborted) == 1
