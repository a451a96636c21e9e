"""What Prometheus reads from the API; correct under several gunicorn processes."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector


class Metrics:
    """The API's metrics. Labels are routes, methods and statuses: bounded sets, never ids or prompts."""

    def __init__(self) -> None:
        # Under several processes prometheus_client keeps the values in files of this directory (gunicorn_conf).
        self._multiprocess = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "promptq_http_requests", "HTTP requests answered.", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "promptq_http_request_duration_seconds",
            "Time to answer an HTTP request.",
            ["method", "route"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            registry=self._registry,
        )
        self._jobs = Counter("promptq_jobs_submitted", "Jobs accepted.", ["endpoint", "queue"], registry=self._registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def submitted(self, endpoint: str, queue: str) -> None:
        """Count one accepted job."""
        self._jobs.labels(endpoint, queue).inc()

    def expose(self) -> bytes:
        """All values in Prometheus' text format, of all processes together."""
        if not self._multiprocess:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)
