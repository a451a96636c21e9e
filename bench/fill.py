"""``python -m bench.fill``: a job of ours for each line of standard input, as ``POST /v1/jobs`` would make it.

With ``--count N`` so many of prompts of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Final

from jobs.broker import MessageMaker, make_celery
from jobs.model import CHAT_COMPLETIONS, NewJob, new_job_id
from jobs.queues import QueueName
from jobs.redis_clients import worker_client
from jobs.settings import LOCAL_OWNER, Settings
from jobs.store import JobStore

#: What a call asks, with a number before it: no two are the same.
PROMPT: Final = (
    "Summarise the following customer message in one sentence, and say whether it is a complaint, a question or "
    "praise: the parcel came two days late, but the driver was kind, and everything in it was as ordered."
)


def make_store(settings: Settings) -> JobStore:
    """The store as a worker has it."""
    return JobStore(worker_client(settings), MessageMaker(make_celery(settings)), result_ttl=settings.result_ttl)


def new_job(prompt: str, queue: QueueName = "default") -> NewJob:
    """The chat completion that a bare prompt becomes."""
    body = {"model": "sim", "messages": [{"role": "user", "content": prompt}]}
    return NewJob(
        id=new_job_id(CHAT_COMPLETIONS),
        owner=LOCAL_OWNER,
        endpoint=CHAT_COMPLETIONS,
        queue=queue,
        request=json.dumps(body).encode(),
        model="sim",
    )


def fill(store: JobStore, prompts: Iterable[str]) -> None:
    """Make the jobs one after the other."""
    for prompt in prompts:
        store.create(new_job(prompt))


def main() -> None:
    """Fill the queue of ``PROMPTQ_REDIS_URL``."""
    parser = argparse.ArgumentParser(prog="python -m bench.fill", description="Make jobs, as fast as one process can.")
    parser.add_argument("--count", type=int, metavar="N", help="of prompts of its own, and not of standard input")
    count = parser.parse_args().count
    lines = (line.rstrip("\n") for line in sys.stdin) if count is None else (f"{n}: {PROMPT}" for n in range(count))
    fill(make_store(Settings()), lines)


if __name__ == "__main__":
    main()
