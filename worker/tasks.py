"""The Celery task: thin, and named so that Flower shows it by name and job id."""

from __future__ import annotations

import structlog
from celery import Celery
from celery.exceptions import Reject

from jobs.errors import PromptQError
from jobs.model import JobStatus
from jobs.queues import RUN_JOB
from worker.runner import Runner

_log = structlog.get_logger("promptq.worker")


class JobFailed(Exception):
    """Raised for Flower alone, which then shows a failed task; its only argument is the code of the job's error."""


def register(app: Celery, runner: Runner) -> None:
    """Give the app the one task that it has."""

    # `throws`: Celery shall not log what the runner has logged.
    @app.task(name=RUN_JOB, throws=(JobFailed,))
    def run_job(job_id: str) -> str:
        try:
            ran = runner.run(job_id)
        except Exception:  # noqa: BLE001  # Celery would log and publish the message, which could quote anything
            _log.exception("task.crashed", job_id=job_id)
            raise JobFailed(PromptQError.code) from None
        if ran is None:
            raise Reject("the worker stops", requeue=True)
        if ran.how == JobStatus.FAILED:
            raise JobFailed(ran.code)
        return ran.how
