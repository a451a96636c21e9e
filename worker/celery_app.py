"""The Celery app as ``celery -A worker.celery_app`` finds it; Flower uses it, and the worker adds its task to it."""

from __future__ import annotations

from jobs.broker import make_celery
from jobs.settings import Settings

settings = Settings()
app = make_celery(settings)
