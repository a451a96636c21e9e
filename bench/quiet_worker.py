"""``python -m bench.quiet_worker``: our worker, but that it sends no events."""

from __future__ import annotations

import sys

import worker.__main__ as process

if __name__ == "__main__":
    started = process.app.worker_main
    process.app.worker_main = lambda argv: started([word for word in argv if word != "--task-events"])
    process.app.conf.worker_send_task_events = False
    sys.exit(process.main())
