"""What Prometheus reads from workers and schedulers.

Labels are queues, endpoints, error codes and steps: bounded sets, never an id, a model, a host or a prompt.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jobs.errors import Unavailable
from jobs.model import Claim, Endpoint
from jobs.queue_control import QueueControl
from jobs.settings import Settings

#: Prompts take seconds to minutes.
_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
_WAIT_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
_WEBHOOK_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 15)
#: Where an LLM says how many tokens it read and wrote: the Responses API in the first, all others in the second.
_INPUT_TOKENS: Final = ("input_tokens", "prompt_tokens")
_OUTPUT_TOKENS: Final = ("output_tokens", "completion_tokens")
OK: Final = "ok"


class WorkerMetrics:
    """One worker process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._waited = Histogram(
            "promptq_job_wait_seconds",
            "Time from a job's submission to its first claim.",
            ["queue"],
            buckets=_WAIT_SECONDS,
            registry=registry,
        )
        self._calls = Histogram(
            "promptq_llm_call_duration_seconds",
            "LLM calls, by what came of them: ok, or an error's code.",
            ["endpoint", "outcome"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "promptq_llm_tokens", "Tokens that the LLM says it read and wrote.", ["endpoint", "kind"], registry=registry
        )
        self._retries = Counter(
            "promptq_job_retries", "Attempts after which another was planned, by error.", ["code"], registry=registry
        )
        self._handed_back = Counter(
            "promptq_jobs_handed_back", "Running jobs that were given back at a shutdown.", registry=registry
        )
        self._discarded = Counter(
            "promptq_results_discarded",
            "Results that came too late: their jobs had ended, were gone, or were another claim's.",
            ["reason"],
            registry=registry,
        )
        # From the start: what happens once must be seen to have risen.
        for reason in ("fenced", "ended", "gone"):
            self._discarded.labels(reason)
        self._webhooks = Histogram(
            "promptq_webhook_try_duration_seconds",
            "Tries to deliver a webhook, by what came of them: ok, or an error's code.",
            ["outcome"],
            buckets=_WEBHOOK_SECONDS,
            registry=registry,
        )
        self._slots = Gauge("promptq_worker_slots", "LLM calls that this worker may have in flight.", registry=registry)
        self._running = Gauge("promptq_worker_jobs_running", "Jobs that this worker runs.", registry=registry)
        self._sending = Gauge("promptq_worker_webhooks_sending", "Webhooks that it sends.", registry=registry)

    def watch(self, *, slots: int, running: Callable[[], int], sending: Callable[[], int]) -> None:
        """Export how full the worker is, as these tell whenever they are asked."""
        self._slots.set(slots)
        self._running.set_function(running)
        self._sending.set_function(sending)

    def claimed(self, claim: Claim) -> None:
        """Count a claimed job."""
        if claim.first and claim.job.started_at is not None:
            self._waited.labels(claim.job.queue).observe(max(0.0, claim.job.started_at - claim.job.created_at))

    def called(self, endpoint: Endpoint, outcome: str, seconds: float) -> None:
        """Count an LLM call; ``outcome`` is ``OK``, ``aborted`` or an error's code."""
        self._calls.labels(endpoint, outcome).observe(max(0.0, seconds))

    def used(self, endpoint: Endpoint, usage: Mapping[str, Any] | None) -> None:
        """Count the tokens of an answer, as far as it tells."""
        for kind, names in (("input", _INPUT_TOKENS), ("output", _OUTPUT_TOKENS)):
            tokens = next((usage[name] for name in names if name in usage), None) if usage else None
            if isinstance(tokens, int) and tokens > 0:
                self._tokens.labels(endpoint, kind).inc(tokens)

    def retried(self, code: str) -> None:
        """Count a failed attempt that is not the last."""
        self._retries.labels(code).inc()

    def handed_back(self) -> None:
        """Count a job that was given back."""
        self._handed_back.inc()

    def discarded(self, reason: str) -> None:
        """Count a result that nobody wanted."""
        self._discarded.labels(reason).inc()

    def sent(self, outcome: str, seconds: float) -> None:
        """Count a try to deliver a webhook; ``outcome`` is ``OK`` or an error's code."""
        self._webhooks.labels(outcome).observe(max(0.0, seconds))


class SchedulerMetrics:
    """One scheduler process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._ticks = Counter("promptq_scheduler_ticks", "Ticks, by what came of them.", ["outcome"], registry=registry)
        self._steps = Counter(
            "promptq_scheduler_jobs", "Jobs and deliveries that were seen to, by step.", ["step"], registry=registry
        )
        self._ticked = Gauge(
            "promptq_scheduler_last_tick_timestamp_seconds", "When the last good tick ended.", registry=registry
        )

    def watch(self, control: QueueControl) -> None:
        """Export the queues, too, as they are in Redis at each scrape: any number of schedulers tell the same."""
        self.registry.register(_Queues(control))

    def did(self, counts: Mapping[str, int]) -> None:
        """Count what a good tick has done."""
        for step, count in counts.items():
            self._steps.labels(step).inc(count)

    def ticked(self, outcome: str) -> None:
        """Count a tick; ``outcome`` is ``OK``, ``unavailable`` or ``crashed``."""
        self._ticks.labels(outcome).inc()
        if outcome == OK:
            self._ticked.set_to_current_time()


class _Queues(Collector):
    """The queues at the moment of a scrape; while Redis is away only ``promptq_redis_up``, so that nothing is stale."""

    def __init__(self, control: QueueControl) -> None:
        self._control = control

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering it asks nobody."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All metrics."""
        try:
            states, totals = self._control.states(), self._control.totals()
        except Unavailable:
            yield GaugeMetricFamily("promptq_redis_up", "Whether Redis answers.", value=0)
            return
        yield GaugeMetricFamily("promptq_redis_up", "Whether Redis answers.", value=1)
        waiting = GaugeMetricFamily("promptq_queue_waiting_jobs", "Jobs that wait.", labels=["queue"])
        running = GaugeMetricFamily("promptq_queue_running_jobs", "Jobs that run.", labels=["queue"])
        paused = GaugeMetricFamily("promptq_queue_paused", "Whether the queue is paused.", labels=["queue"])
        oldest = GaugeMetricFamily(
            "promptq_queue_oldest_waiting_age_seconds",
            "How long the job that is next has been something to do; 0 while none waits.",
            labels=["queue"],
        )
        for state in states:
            waiting.add_metric([state.name], state.waiting)
            running.add_metric([state.name], state.running)
            paused.add_metric([state.name], state.paused)
            since = totals.now if state.next_waits_since is None else state.next_waits_since
            oldest.add_metric([state.name], max(0.0, totals.now - since))
        yield from (waiting, running, paused, oldest)
        backlog = GaugeMetricFamily(
            "promptq_backlog", "Length of a backlog, which KEDA scales on: what waits or runs.", labels=["queue"]
        )
        for name, length in totals.backlogs.items():
            backlog.add_metric([name], length)
        yield backlog
        yield GaugeMetricFamily("promptq_jobs_in_flight", "Jobs under a lease.", value=totals.in_flight)
        yield GaugeMetricFamily("promptq_jobs_scheduled", "Jobs whose retry is not due yet.", value=totals.scheduled)
        yield GaugeMetricFamily(
            "promptq_webhooks_scheduled", "Webhooks whose next try is not due yet.", value=totals.webhooks_scheduled
        )
        yield GaugeMetricFamily(
            "promptq_dead_letters", "Jobs that failed for good and were not retried.", value=totals.dead_letters
        )
        yield GaugeMetricFamily("promptq_redis_memory_bytes", "Memory that Redis uses.", value=totals.memory)
        yield GaugeMetricFamily(
            "promptq_redis_memory_limit_bytes", "Memory that Redis may use; 0: no limit.", value=totals.memory_limit
        )
        ended = CounterMetricFamily("promptq_jobs_ended", "Jobs that have ended, by state.", labels=["status"])
        for status, count in totals.ended.items():
            ended.add_metric([status], count)
        yield ended


def serve_or_exit(registry: CollectorRegistry, settings: Settings, process: str) -> None:
    """Answer Prometheus in the background, if a port is set; exit code 2, with the reason, where it cannot be bound."""
    if settings.metrics_port is None:
        return
    try:
        start_http_server(settings.metrics_port, settings.metrics_host, registry)
    except OSError as error:
        place = f"{settings.metrics_host}:{settings.metrics_port}"
        print(f"promptq {process}: PROMPTQ_METRICS_PORT: {place}: {error.strerror}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
