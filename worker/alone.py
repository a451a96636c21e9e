"""``python -m worker.alone JOB_ID``: run one job in a process that nothing else runs in, and tell how it went.

For a job whose worker has died under it: if it is what kills them, it takes nobody with it. The last line of standard
output is ``{"how": …, "code": …}``, or ``null`` if it was not begun.
"""

# ruff: noqa: E402  # everything that opens a socket must be imported after gevent's patch
from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import dataclasses
import json
import signal
import sys

import gevent

from jobs import logs
from worker import shutdown
from worker.calls import Calls
from worker.celery_app import app, settings
from worker.metrics import WorkerMetrics
from worker.wiring import make_store, wire


def main(job_id: str) -> int:
    """Run the job; SIGTERM gives it the grace period, and then hands it back."""
    logs.configure(settings.log_level, settings.log_format, trace_ids=settings.tracing)
    calls = Calls()
    gevent.signal_handler(signal.SIGTERM, shutdown.begin, settings.grace_seconds, calls)
    runner, _ = wire(make_store(app, settings), settings, calls, WorkerMetrics(), alone=None)
    ran = runner.run(job_id)
    print(json.dumps(ran and dataclasses.asdict(ran)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
