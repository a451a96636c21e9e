"""``python -m worker``: one worker process."""

# ruff: noqa: E402  # everything that opens a socket must be imported after gevent's patch
from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import os
import sys
from typing import Any

import gevent
from celery.signals import setup_logging, worker_ready, worker_shutting_down

from jobs import logs, open_files
from jobs.queues import celery_queue
from worker import deliveries, shutdown
from worker.alone_runs import Alone
from worker.calls import Calls
from worker.celery_app import app, settings
from worker.tasks import register
from worker.wiring import wire


def main() -> int:
    """Serve until SIGTERM; running calls then have the grace period, and what is left is handed back."""
    calls, alone = Calls(), Alone()
    logs.configure(settings.log_level, settings.log_format)
    open_files.raise_limit()
    deliveries.install()

    @setup_logging.connect(weak=False)
    def keep_our_logging(**_: Any) -> None:
        """Celery configures no logging where this signal has a receiver."""

    @worker_ready.connect(weak=False)
    def tell_ready(**_: Any) -> None:
        if settings.worker_ready_file:
            settings.worker_ready_file.write_text(str(os.getpid()))

    @worker_shutting_down.connect(weak=False)
    def begin_to_stop(**_: Any) -> None:
        alone.stop()
        shutdown.begin(settings.grace_seconds, calls, also=alone)

    try:
        runner, beside = wire(app, settings, calls, alone=alone.run)
    except ValueError as error:
        print(f"promptq worker: {error}", file=sys.stderr)
        return 2
    register(app, runner)
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
