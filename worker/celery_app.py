"""The Celery app as ``celery -A worker.celery_app`` finds it; Flower uses it, and the worker adds its task to it."""

from __future__ import annotations

import math

from jobs.broker import make_celery
from jobs.queues import BULK
from jobs.settings import load_or_exit
from worker.consumer import BULK_LIMIT

settings = load_or_exit("worker")
app = make_celery(settings)
if set(settings.worker_queues) - {BULK}:
    app.conf[BULK_LIMIT] = max(1, math.floor(settings.bulk_share * settings.concurrency))
