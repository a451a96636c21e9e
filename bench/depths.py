"""What a long queue costs: bytes in Redis, and the time of a submit, a claim and a list with many jobs waiting."""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from bench.fill import make_store, new_job
from bench.loopback import Loopback
from bench.usage import cpu_seconds
from bench.workers import prompts
from jobs import queues
from jobs.model import Claim, JobStatus, Outcome
from jobs.settings import LOCAL_OWNER, Settings
from jobs.store import JobStore

_SAMPLES: Final = 300
_FINISHED: Final = 2000
_FILLERS: Final = 3
_ANSWER: Final = (
    b'{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant",'
    + (
        b'"content":"'
        + b"A" * 600
        + b'"},"finish_reason":"stop"}],"usage":{"prompt_tokens":60,"completion_tokens":150}}'
    )
)


def store_at(loopback: Loopback) -> JobStore:
    """The store on the bench's Redis."""
    return make_store(Settings(redis_url=loopback.redis_url))


def per_job(loopback: Loopback) -> dict[str, Any]:
    """Memory that Redis uses for a queued job and for one that has ended, with a prompt of some 300 bytes and an answer
    of some 800, and its CPU for all that happens to a job (submit, claim, completion)."""
    loopback.client.flushall()
    store = store_at(loopback)
    _used(loopback)
    before, cpu = _used(loopback), cpu_seconds(loopback.redis_pid)
    made = [store.create(new_job(prompt)).job_id for prompt in prompts(_FINISHED, "job")]
    queued = _used(loopback)
    for job_id in made:
        store.complete(
            _claim(store, job_id),
            Outcome(JobStatus.COMPLETED, _ANSWER, {"prompt_tokens": 60, "completion_tokens": 150}),
        )
    loopback.client.delete(queues.celery_queue(queues.DEFAULT))  # no worker has taken them
    ended = _used(loopback)
    used = cpu_seconds(loopback.redis_pid) - cpu
    loopback.client.flushall()
    return {
        "queued_bytes": round((queued - before) / len(made)),
        "ended_bytes": round((ended - before) / len(made)),
        "cpu_ms_per_job": round(used / len(made) * 1000, 3),
    }


def with_many_waiting(
    loopback: Loopback, levels: Sequence[int], say: Callable[[str], None]
) -> dict[int, dict[str, float]]:
    """Microseconds (median) of a submit, a claim and a page of 20, with so many jobs waiting, the fewest first."""
    loopback.client.flushall()
    store, made, found = store_at(loopback), 0, {}
    for level in levels:
        _fill(loopback, level - made, say)
        made = level
        found[level] = _measure(loopback, store)
    loopback.client.flushall()
    return found


def _measure(loopback: Loopback, store: JobStore) -> dict[str, float]:
    times: dict[str, list[float]] = {"submit": [], "claim": [], "list": []}
    for prompt in prompts(_SAMPLES, "sample"):
        new = new_job(prompt)
        times["submit"].append(_timed(functools.partial(store.create, new)))
    waiting = queues.waiting_key(queues.DEFAULT)
    taken = cast("list[bytes]", loopback.client.zrange(waiting, 0, _SAMPLES - 1))
    for job_id in taken:
        times["claim"].append(_timed(functools.partial(_claim, store, job_id.decode())))
    for _ in range(_SAMPLES):
        times["list"].append(_timed(lambda: store.list(LOCAL_OWNER, limit=20)))
    return {name: round(statistics.median(samples) * 1e6, 1) for name, samples in times.items()}


def _claim(store: JobStore, job_id: str) -> Claim:
    claim = store.claim(job_id, uuid.uuid4().hex, lease_seconds=600, worker="bench")
    assert isinstance(claim, Claim)
    return claim


def _fill(loopback: Loopback, count: int, say: Callable[[str], None]) -> None:
    """Three processes at once: Redis is what they wait for."""
    env = os.environ | {"PROMPTQ_REDIS_URL": loopback.redis_url}
    share = -(-count // _FILLERS)
    command = [sys.executable, "-m", "bench.fill", "--count"]
    fillers = [subprocess.Popen([*command, str(min(share, count - at))], env=env) for at in range(0, count, share)]
    began, before = time.monotonic(), loopback.client.zcard(queues.waiting_key(queues.DEFAULT))
    while any(filler.poll() is None for filler in fillers):
        time.sleep(10)
        made = loopback.client.zcard(queues.waiting_key(queues.DEFAULT)) - before
        say(f"{made:,} of {count:,} jobs more are waiting, {made / (time.monotonic() - began):,.0f} a second")
    assert all(filler.returncode == 0 for filler in fillers)


def _used(loopback: Loopback) -> int:
    return int(loopback.client.info("memory")["used_memory"])


def _timed(step: Callable[[], object]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began
