"""What a process that runs jobs is made of."""

from __future__ import annotations

import functools
from collections.abc import Callable

import gevent
import httpx2
from celery import Celery

from jobs.batch_store import BatchRules
from jobs.broker import MessageMaker
from jobs.files import FileStore
from jobs.redis_clients import listener_client, worker_client
from jobs.scripts import Scripts
from jobs.settings import Settings
from jobs.storage import open_storage
from jobs.store import JobStore
from jobs.threads import OffTheLoop
from jobs.tracing import Tracing
from jobs.tracing import start as start_tracing
from worker.calls import Calls
from worker.heartbeat import Heartbeat, listen_for_aborts
from worker.llm import LLMClient
from worker.metrics import WorkerMetrics
from worker.retries import RetryPolicy
from worker.runner import Ran, Runner

_INSTRUMENTATIONS = ("opentelemetry.instrumentation.celery", "opentelemetry.instrumentation.httpx")


def make_store(app: Celery, settings: Settings) -> JobStore:
    """The store as a worker uses it."""
    return JobStore(
        worker_client(settings),
        MessageMaker(app),
        result_ttl=settings.result_ttl,
        batch_rules=BatchRules.from_settings(settings),
    )


def make_files(settings: Settings) -> FileStore:
    """Files as a worker uses them. Raises ``ValueError`` where boto3 is needed and not installed."""
    client = worker_client(settings)
    return FileStore(client, Scripts(client), open_storage(settings, offload=OffTheLoop()))


def wire(
    store: JobStore,
    settings: Settings,
    calls: Calls,
    metrics: WorkerMetrics,
    *,
    alone: Callable[[str], Ran | None] | None,
) -> tuple[Runner, list[gevent.Greenlet[..., None]]]:
    """A runner on these settings, and the greenlets that keep its jobs its own.

    ``alone`` runs a job in a process of its own; None where this is that process. Raises ``ValueError`` where no LLM is
    configured, or traces are asked for and OpenTelemetry is not installed.
    """
    tracing = start_tracing(settings, "worker", needs=_INSTRUMENTATIONS)
    if tracing.provider is not None:
        from opentelemetry.instrumentation.celery import CeleryInstrumentor  # an extra

        CeleryInstrumentor().instrument(tracer_provider=tracing.provider)  # type: ignore[no-untyped-call]
    runner = Runner(
        store=store,
        llm=LLMClient.from_settings(settings, functools.partial(_trace_requests, tracing)),
        calls=calls,
        retries=RetryPolicy.from_settings(settings),
        worker=settings.worker_name,
        lease_seconds=settings.lease_seconds,
        call_timeout=settings.call_timeout,
        stream_max_bytes=settings.stream_max_bytes,
        alone=alone,
        metrics=metrics,
        tracing=tracing,
    )
    heartbeat = Heartbeat(store, calls, lease_seconds=settings.lease_seconds)
    return runner, [gevent.spawn(heartbeat.run), gevent.spawn(listen_for_aborts, listener_client(settings), calls)]


def _trace_requests(tracing: Tracing, client: httpx2.Client) -> None:
    if tracing.provider is not None:
        from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor  # an extra

        HTTPX2ClientInstrumentor.instrument_client(client, tracer_provider=tracing.provider)  # type: ignore[arg-type]
