"""What listing and submitting cost as jobs pile up: ``python -m bench.listing``.

On an embedded server of its own, at 1,000, 10,000 and 100,000 waiting jobs: the median time of one page of 20 jobs and
of one new job, at the store, and the server's memory per waiting job.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from jobs.broker import MessageMaker, make_celery
from jobs.model import CHAT_COMPLETIONS, NewJob, new_job_id
from jobs.redis_clients import worker_client
from jobs.settings import Settings
from jobs.store import JobStore
from tests import processes

_LEVELS = (1_000, 10_000, 100_000)
_SAMPLES = 200
_BODY = b'{"model":"sim","messages":[{"role":"user","content":"Explain Kubernetes in simple terms."}]}'


def main() -> None:
    """Measure each level once and print a line of JSON for it."""
    with tempfile.TemporaryDirectory() as folder, processes.redis_server(Path(folder)) as url:
        settings = Settings(redis_url=url)
        client = worker_client(settings)
        store = JobStore(client, MessageMaker(make_celery(settings)), result_ttl=3600)
        made = 0
        for level in _LEVELS:
            while made < level:
                _create(store)
                made += 1
            figures = {
                "waiting": level,
                "list_microseconds": _median(lambda: store.list("bench", limit=20)),
                "create_microseconds": _median(lambda: _create(store)),
                "bytes_per_waiting_job": round(client.info("memory")["used_memory"] / (made + _SAMPLES)),
            }
            made += _SAMPLES
            print(json.dumps(figures), flush=True)
        client.close()


def _create(store: JobStore) -> None:
    new_id = new_job_id(CHAT_COMPLETIONS)
    store.create(NewJob(new_id, "bench", CHAT_COMPLETIONS, "default", _BODY, "sim"))


def _median(step: Callable[[], object]) -> int:
    samples = []
    for _ in range(_SAMPLES):
        began = time.perf_counter()
        step()
        samples.append(time.perf_counter() - began)
    return round(1e6 * statistics.median(samples))


if __name__ == "__main__":
    main()
