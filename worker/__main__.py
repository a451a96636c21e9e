"""``python -m worker``: one worker process, wired here and nowhere else."""

# ruff: noqa: E402  # everything that opens a socket must be imported after gevent's patch
from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import os
import sys
from typing import Any

import gevent
from celery import Celery
from celery.signals import setup_logging, worker_ready, worker_shutting_down

from jobs import logs, open_files
from jobs.broker import MessageMaker
from jobs.queues import celery_queue
from jobs.redis_clients import listener_client, worker_client
from jobs.settings import Settings
from jobs.store import JobStore
from worker import shutdown
from worker.calls import Calls
from worker.celery_app import app, settings
from worker.heartbeat import Heartbeat, listen_for_aborts
from worker.llm import LLMClient
from worker.retries import RetryPolicy
from worker.runner import Runner
from worker.tasks import register


def wire(app: Celery, settings: Settings, calls: Calls) -> list[gevent.Greenlet[..., None]]:
    """Give the app its task and start what runs beside it."""
    store = JobStore(worker_client(settings), MessageMaker(app), result_ttl=settings.result_ttl)
    runner = Runner(
        store=store,
        llm=LLMClient.from_settings(settings),
        calls=calls,
        retries=RetryPolicy.from_settings(settings),
        worker=settings.worker_name,
        lease_seconds=settings.lease_seconds,
        call_timeout=settings.call_timeout,
    )
    register(app, runner)
    heartbeat = Heartbeat(store, calls, lease_seconds=settings.lease_seconds)
    return [gevent.spawn(heartbeat.run), gevent.spawn(listen_for_aborts, listener_client(settings), calls)]


def main() -> int:
    """Serve until SIGTERM; running calls then have the grace period, and what is left is handed back."""
    calls = Calls()
    logs.configure(settings.log_level, settings.log_format)
    open_files.raise_limit()

    @setup_logging.connect(weak=False)
    def keep_our_logging(**_: Any) -> None:
        """Celery configures no logging where this signal has a receiver."""

    @worker_ready.connect(weak=False)
    def tell_ready(**_: Any) -> None:
        if settings.worker_ready_file:
            settings.worker_ready_file.write_text(str(os.getpid()))

    @worker_shutting_down.connect(weak=False)
    def begin_to_stop(**_: Any) -> None:
        shutdown.begin(calls, settings.grace_seconds)

    try:
        beside = wire(app, settings, calls)
    except ValueError as error:
        print(f"promptq worker: {error}", file=sys.stderr)
        return 2
    queues = ",".join(celery_queue(name) for name in settings.worker_queues)
    try:
        app.worker_main(
            [
                "worker",
                "--pool=gevent",
                f"--concurrency={settings.concurrency}",
                f"--queues={queues}",
                f"--hostname={settings.worker_name}@%h",
                f"--loglevel={settings.log_level}",
                "--task-events",
                # Workers have nothing to tell each other: the record in Redis is the truth.
                "--without-gossip",
                "--without-mingle",
            ]
        )
    finally:
        gevent.killall(beside)
    return 0


if __name__ == "__main__":
    sys.exit(main())
