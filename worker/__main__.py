"""``python -m worker``: one worker process."""

# ruff: noqa: E402  # everything that opens a socket must be imported after gevent's patch
from __future__ import annotations

from jobs.first_process import end_on_sigterm

end_on_sigterm()

from gevent import monkey

monkey.patch_all()

import os
import sys
from typing import Any

import gevent
import structlog
from celery.signals import setup_logging, worker_ready, worker_shutting_down

from jobs import garbage, logs, open_files
from jobs.queues import BULK, celery_queue
from jobs.redis_clients import listener_client
from jobs.storage import OFF
from worker import pulse, shutdown
from worker.alone_runs import Alone
from worker.batches.tender import Tender
from worker.batches.wiring import make_tender
from worker.calls import Calls
from worker.celery_app import app, settings
from worker.metrics import WorkerMetrics, serve_or_exit
from worker.tasks import register
from worker.tidying import tidy
from worker.webhooks.wiring import make_deliverer
from worker.wiring import make_files, make_store, wire

_log = structlog.get_logger("promptq.worker")


def main() -> int:
    """Serve until SIGTERM; running calls then have the grace period, and what is left is handed back."""
    pulse.begin(settings.heartbeat_file, settings.worker_ready_file)
    calls, alone, metrics = Calls(), Alone(), WorkerMetrics()
    logs.configure(settings.log_level, settings.log_format, trace_ids=settings.tracing)
    open_files.raise_limit()

    @setup_logging.connect(weak=False)
    def keep_our_logging(**_: Any) -> None:
        """Celery configures no logging where this signal has a receiver."""

    @worker_ready.connect(weak=False)
    def tell_ready(**_: Any) -> None:
        garbage.settle()
        if settings.worker_ready_file:
            settings.worker_ready_file.write_text(str(os.getpid()))

    @worker_shutting_down.connect(weak=False)
    def begin_to_stop(**_: Any) -> None:
        alone.stop()
        deliverer.close()
        if tender is not None:
            tender.close()
        shutdown.begin(settings.grace_seconds, calls, also=(alone, deliverer))

    store = make_store(app, settings)
    deliverer = make_deliverer(store.outbox, settings, metrics)
    tender: Tender | None = None
    try:
        runner, beside = wire(store, settings, calls, metrics, alone=alone.run)
        files = make_files(settings)
    except ValueError as error:
        print(f"promptq worker: {error}", file=sys.stderr)
        return 2
    metrics.watch(slots=settings.concurrency, running=lambda: len(calls) + len(alone), sending=lambda: len(deliverer))
    serve_or_exit(metrics.registry, settings, "worker")
    register(app, runner)
    if settings.heartbeat_file is not None:
        beside.append(gevent.spawn(pulse.beat, settings.heartbeat_file))
    if settings.storage != OFF:
        beside.append(gevent.spawn(tidy, files))
    if settings.webhook_concurrency:
        if deliverer.sealer is None:
            _log.warning("webhooks.no_key", setting="PROMPTQ_ENCRYPTION_KEYS")
        beside += [gevent.spawn(deliverer.run), gevent.spawn(deliverer.listen, listener_client(settings))]
    if BULK in settings.worker_queues and settings.storage != OFF:
        tender = make_tender(store.batches, files, settings)
        beside.append(gevent.spawn(tender.run))
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
        deliverer.finish(settings.grace_seconds)
        gevent.killall(beside)
    return 0


if __name__ == "__main__":
    sys.exit(main())
