"""The Celery app as ``celery -A worker.celery_app`` finds it; Flower uses it, and the worker adds its task to it."""

from __future__ import annotations

from jobs.broker import make_celery
from jobs.settings import load_or_exit

settings = load_or_exit("worker")
app = make_celery(settings)
