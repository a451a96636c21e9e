"""The Celery task: thin, and named so that Flower shows it by name and job id."""

from __future__ import annotations

from celery import Celery
from celery.exceptions import Reject

from jobs.queues import RUN_JOB
from worker.runner import Runner


def register(app: Celery, runner: Runner) -> None:
    """Give the app the one task that it has."""

    @app.task(name=RUN_JOB)
    def run_job(job_id: str) -> None:
        if not runner.run(job_id):
            raise Reject("the worker stops", requeue=True)
