"""What Prometheus reads from the API; correct under several gunicorn processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE: Final = "text/plain; version=1.0.0; charset=utf-8"


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
        # Looking them up by their labels takes longer than counting.
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._jobs = Counter("promptq_jobs_submitted", "Jobs accepted.", ["endpoint", "queue"], registry=self._registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        known = self._known.get((method, route, status))
        if known is None:
            children = self._requests.labels(method, route, str(status)), self._seconds.labels(method, route)
            known = self._known[method, route, status] = children
        requests, durations = known
        requests.inc()
        durations.observe(seconds)

    def submitted(self, endpoint: str, queue: str) -> None:
        """Count one accepted job."""
        self._jobs.labels(endpoint, queue).inc()

    def wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer Prometheus at a port where there is nothing else (WSGI)."""
        found = environ["PATH_INFO"] == "/metrics"
        start_response("200 OK" if found else "404 Not Found", [("Content-Type", CONTENT_TYPE)])
        return [self.expose() if found else b"Metrics are at /metrics.\n"]

    def expose(self) -> bytes:
        """All values in Prometheus' text format, of all processes together."""
        if not self._multiprocess:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)
