"""Names that processes must agree on: queues, Celery task names, Redis keys and channels. Constants only."""

from __future__ import annotations

import re
from typing import Final, Literal

QueueName = Literal["interactive", "default", "bulk"]
INTERACTIVE: Final = "interactive"
DEFAULT: Final = "default"
BULK: Final = "bulk"
#: In order of preference: a worker with a free slot looks at the first queue first.
QUEUES: Final[tuple[QueueName, ...]] = (INTERACTIVE, DEFAULT, BULK)

RUN_JOB: Final = "promptq.run_job"

#: The kind, in the index, of a job that its owner can neither list nor look up (``store: false``).
UNSTORED: Final = "unstored"
#: The kind of a job that is a line of a batch: the batch's, and nobody's to look up by itself.
LINE: Final = "line"

#: Every key of ours begins with this. ``jobs/lua`` gets it from here.
PREFIX: Final = "promptq:"
#: Terminal states, as ``job-id status``; what wakes those who wait for a job.
EVENTS_CHANNEL: Final = PREFIX + "events"
#: Ids of running jobs that were cancelled or deleted; what makes workers abort their calls.
ABORTS_CHANNEL: Final = PREFIX + "aborts"
#: A word when webhooks have become due and nobody is at them.
WEBHOOKS_CHANNEL: Final = PREFIX + "webhooks"
#: The backlog that due webhook deliveries are members of, as jobs are of their queue's (see ``backlog_key``).
WEBHOOKS: Final = "webhooks"
WEBHOOK_SCHEDULED: Final = PREFIX + "webhook-scheduled"
WEBHOOK_LEASES: Final = PREFIX + "webhook-leases"
#: How many deliveries are on their way to each host.
WEBHOOK_RUNNING: Final = PREFIX + "webhook-running"
#: Hosts that have been slow, by when that is forgotten.
WEBHOOK_SLOW: Final = PREFIX + "webhook-slow"
#: Hosts that have something due, by when they were served last.
WEBHOOK_TURNS_FAST: Final = PREFIX + "webhook-turns:fast"
WEBHOOK_TURNS_SLOW: Final = PREFIX + "webhook-turns:slow"
#: The backlog of batches: a list of as many tokens as there are batches that have not ended and lines that are not fed.
BATCHES: Final = "batches"
#: Batches by when a worker must look at them.
BATCH_DUE: Final = PREFIX + "batch-due"
#: Bytes that lines of all batches have in Redis: of requests of those that have not ended, of results of the others.
BATCH_BYTES: Final = PREFIX + "batch-bytes"
LEASES: Final = PREFIX + "leases"
SCHEDULED: Final = PREFIX + "scheduled"
DEADLINES: Final = PREFIX + "deadlines"
EXPIRING: Final = PREFIX + "expiring"
#: Jobs of all owners that failed and were not retried, by number.
DEAD: Final = PREFIX + "dead"
#: How many jobs have ended in each terminal state, for good: for Prometheus.
ENDED: Final = PREFIX + "ended"
#: The names of the queues that are paused.
PAUSED: Final = PREFIX + "paused"
TICK: Final = PREFIX + "tick"
HOLD: Final = PREFIX + "hold"

#: What is to be deleted from the storage of files, by when (jobs/lua/files.lua).
GARBAGE: Final = PREFIX + "garbage"

OWNER_PATTERN: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
JOB_ID_PATTERN: Final = re.compile(r"(job|resp)_[0-9a-f]{32}")
FILE_ID_PATTERN: Final = re.compile(r"file-[0-9a-f]{32}")
BATCH_ID_PATTERN: Final = re.compile(r"batch_[0-9a-f]{32}")
ENDPOINT_ID_PATTERN: Final = re.compile(r"we_[0-9a-f]{32}")
DELIVERY_ID_PATTERN: Final = re.compile(r"whd_[0-9a-f]{32}_(job|[0-9a-f]{12})")


def job_key(job_id: str) -> str:
    """The hash that is the record of one job."""
    return f"{PREFIX}job:{job_id}"


def waiting_key(queue: str) -> str:
    """The sorted set of a queue's waiting jobs, by enqueueing number."""
    return f"{PREFIX}waiting:{queue}"


def backlog_key(queue: str) -> str:
    """The sorted set of a queue's waiting and running jobs: its length is what KEDA scales on."""
    return f"{PREFIX}backlog:{queue}"


def held_key(queue: str) -> str:
    """The sorted set of a paused queue's waiting jobs, which stay out of its backlog."""
    return f"{PREFIX}held:{queue}"


def held_messages_key(queue: str) -> str:
    """The list of a paused queue's messages, where no worker looks for them."""
    return f"{PREFIX}held-messages:{queue}"


def claimed_key(queue: str) -> str:
    """The highest enqueueing number that was claimed from a queue."""
    return f"{PREFIX}claimed:{queue}"


def file_key(file_id: str) -> str:
    """The hash that is the record of one file."""
    return f"{PREFIX}file:{file_id}"


def files_key(owner: str, purpose: str) -> str:
    """The sorted set of an owner's files of a purpose, or of ``all``, the newest last."""
    return f"{PREFIX}files:{owner}:{purpose}"


def batch_key(batch_id: str) -> str:
    """The hash that is the record of one batch; its other keys begin with it."""
    return f"{PREFIX}batch:{batch_id}"


def endpoint_key(endpoint_id: str) -> str:
    """The hash that is the record of one webhook endpoint."""
    return f"{PREFIX}webhook-endpoint:{endpoint_id}"


def endpoints_key(owner: str) -> str:
    """The sorted set of an owner's webhook endpoints, the newest last."""
    return f"{PREFIX}webhook-endpoints:{owner}"


def owner_secret_key(owner: str) -> str:
    """The hash that holds the secret for the webhook URLs that an owner's jobs name themselves."""
    return f"{PREFIX}webhook-secret:{owner}"


def delivery_key(delivery_id: str) -> str:
    """The hash that is the record of one webhook delivery."""
    return f"{PREFIX}delivery:{delivery_id}"


def celery_queue(queue: str) -> str:
    """The Celery queue, which is a Redis list of the same name."""
    return f"promptq.{queue}"


def stream_key(job_id: str) -> str:
    """The Redis stream of a job's events that stay, and the channel that wakes those who follow it."""
    return f"{PREFIX}stream:{job_id}"


def deltas_key(job_id: str) -> str:
    """The Redis stream of a job's events that are pieces of text."""
    return f"{PREFIX}stream-deltas:{job_id}"
