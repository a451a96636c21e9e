"""What it costs that a job is on disk before it counts as made: ``python -m bench.durability``.

On an embedded server of its own, new jobs at the store, one at a time and from 16 threads: the median and the 99th
percentile of their times, and jobs per second, for each way to set the server and PROMPTQ_DURABILITY.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import redis

from jobs.broker import MessageMaker, make_celery
from jobs.model import CHAT_COMPLETIONS, NewJob, new_job_id
from jobs.redis_clients import api_client
from jobs.settings import Settings
from jobs.store import JobStore
from tests import processes

_WAYS = (("everysec", "server"), ("always", "server"), ("everysec", "fsync"), ("always", "fsync"))
_BODY = b'{"model":"sim","messages":[{"role":"user","content":"Explain Kubernetes in simple terms."}]}'
_THREADS = 16


def main() -> None:
    """Measure each way and print a line of JSON for it."""
    with tempfile.TemporaryDirectory() as folder, processes.redis_server(Path(folder)) as url:
        messages = MessageMaker(make_celery(Settings(redis_url=url)))
        for appendfsync, durability in _WAYS:
            with redis.Redis.from_url(url) as server:
                server.config_set("appendfsync", appendfsync)
            settings = Settings(redis_url=url, durability=durability)
            client = api_client(settings)
            store = JobStore(client, messages, result_ttl=3600, fsync=durability == "fsync")
            # A job that waits for the disk with everysec takes most of a second.
            count = 10 if (appendfsync, durability) == ("everysec", "fsync") else 300
            alone = [_create(store) for _ in range(count)]
            began = time.perf_counter()
            with ThreadPoolExecutor(_THREADS) as pool:
                together = list(pool.map(lambda _, store=store: _create(store), range(count * _THREADS // 2)))
            rate = len(together) / (time.perf_counter() - began)
            client.close()
            figures = {
                "appendfsync": appendfsync,
                "PROMPTQ_DURABILITY": durability,
                "alone_ms": _ms(alone),
                f"in_{_THREADS}_threads_ms": _ms(together),
                f"jobs_per_second_in_{_THREADS}_threads": round(rate),
            }
            print(json.dumps(figures), flush=True)


def _create(store: JobStore) -> float:
    began = time.perf_counter()
    store.create(NewJob(new_job_id(CHAT_COMPLETIONS), "bench", CHAT_COMPLETIONS, "default", _BODY, "sim"))
    return time.perf_counter() - began


def _ms(samples: list[float]) -> dict[str, float]:
    return {
        "p50": round(1000 * statistics.median(samples), 2),
        "p99": round(1000 * statistics.quantiles(samples, n=100)[98], 2),
    }


if __name__ == "__main__":
    main()
