"""Traces, as a collector gets them from a real stack."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests import processes
from tests.integration.driving import ended, submit, unique
from tests.processes import Stack, eventually, free_port

KEY = "a-key-of-ann-that-nobody-guesses"
SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5


@dataclass(frozen=True)
class Span:
    """One span as it came."""

    service: str
    name: str
    kind: int
    trace: bytes
    span: bytes
    parent: bytes
    links: tuple[bytes, ...]
    attributes: dict[str, Any]
    #: 2: an error.
    status: int


class Collector:
    """An OTLP endpoint that keeps what comes."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        kept = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                kept.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def end(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def spans(self) -> list[Span]:
        """All that have come."""
        return [
            Span(
                service=next(one.value.string_value for one in group.resource.attributes if one.key == "service.name"),
                name=span.name,
                kind=span.kind,
                trace=span.trace_id,
                span=span.span_id,
                parent=span.parent_span_id,
                links=tuple(link.trace_id for link in span.links),
                attributes={one.key: _value(one.value) for one in span.attributes},
                status=span.status.code,
            )
            for body in list(self.bodies)
            for group in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]

    def of_job(self, job_id: str, *, calls: int) -> list[Span]:
        """The trace of a job, once the spans of so many LLM calls are there, and all that they hang on."""

        def trace() -> list[Span]:
            found = self.spans()
            made = [one for one in found if one.attributes.get("messaging.message.id") == job_id]
            return [one for one in found if made and one.trace == made[0].trace]

        def whole(found: list[Span]) -> bool:
            known = {one.span for one in found} | {b""}
            made = [one for one in found if one.attributes.get("promptq.job_id") == job_id]
            return len(made) == calls and all(one.parent in known for one in found)

        return eventually(trace, whole, within=30)


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """A collector on loopback."""
    running = Collector()
    yield running
    running.end()


@pytest.fixture(scope="module")
def stack(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that sends its traces there."""
    settings = {
        "PROMPTQ_API_KEYS": f"ann:{KEY}",
        "PROMPTQ_TRACING": "true",
        "PROMPTQ_LOG_FORMAT": "json",
        "PROMPTQ_REDIS_URL": "",
        "PROMPTQ_RETRY_IN_SLOT": "0",
        "PROMPTQ_RETRY_BASE": "0.2",
        "PROMPTQ_RETRY_MAX": "0.5",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    with processes.stack(tmp_path_factory.mktemp("stack"), "--no-flower", **settings) as running:
        yield running


def chain(found: list[Span]) -> list[Span]:
    """From the root to a leaf, where each has one child."""
    (root,) = [one for one in found if not one.parent]
    line = [root]
    while children := [one for one in found if one.parent == line[-1].span]:
        (child,) = children
        line.append(child)
    return line


def test_one_trace_has_all_spans_of_a_job(stack: Stack, collector: Collector) -> None:
    """The request, its way into the queue, the task, the call and the call's HTTP request, each the parent of the next;
    the logs of both processes name the trace."""
    with stack.client() as client:
        job = ended(client, submit(client, prompt=unique(), model="sim")["id"])
    line = chain(collector.of_job(job["id"], calls=1))
    assert [(one.service, one.name, one.kind) for one in line] == [
        ("promptq-api", "POST /v1/jobs", SERVER),
        ("promptq-api", "send promptq.default", PRODUCER),
        ("promptq-worker", "run/promptq.run_job", CONSUMER),
        ("promptq-worker", "chat sim", CLIENT),
        ("promptq-worker", "POST", CLIENT),
    ]
    call, sent = line[3].attributes, line[4].attributes
    assert call["gen_ai.operation.name"] == "chat"
    assert call["gen_ai.request.model"] == "sim"
    assert (call["promptq.job_id"], call["promptq.attempt"]) == (job["id"], 1)
    assert call["gen_ai.usage.output_tokens"] == job["usage"]["completion_tokens"]
    assert {sent.get("http.status_code"), sent.get("http.response.status_code")} >= {200}
    lines = [json.loads(one) for one in stack.logs().splitlines() if job["id"] in one]
    traced = {one["event"] for one in lines if one.get("trace_id") == line[0].trace.hex()}
    assert {"http.request", "job.attempt_started", "job.ended"} <= traced


def test_a_retry_that_the_scheduler_sends_stays_in_the_trace(stack: Stack, collector: Collector) -> None:
    """Both calls are in the trace of the submit; the second links to the task that the scheduler's message began."""
    with stack.client() as client:
        job = ended(client, submit(client, prompt=unique(), model="sim-flaky-1")["id"])
    assert len(job["attempts"]) == 1
    found = collector.of_job(job["id"], calls=2)
    first, second = sorted(
        (one for one in found if "promptq.attempt" in one.attributes), key=lambda one: one.attributes["promptq.attempt"]
    )
    assert first.attributes["error.type"] == job["attempts"][0]["error_code"]
    assert (first.status, second.status) == (2, 0)
    assert first.links == ()
    (linked,) = second.links
    assert linked != second.trace

    def other() -> list[str]:
        return [one.name for one in collector.spans() if one.trace == linked]

    assert eventually(other, within=30) == ["run/promptq.run_job"]


def test_a_job_that_is_submitted_again_has_a_trace_of_its_own(stack: Stack, collector: Collector) -> None:
    """``retry`` of a failed job is a submit of its own."""
    with stack.client() as client:
        failed = ended(client, submit(client, prompt=unique(), model="sim-400")["id"])
        again = client.post(f"/v1/jobs/{failed['id']}/retry").raise_for_status().json()
        ended(client, again["id"])

    def calls() -> list[Span]:
        return [one for one in collector.spans() if one.attributes.get("promptq.job_id") == again["id"]]

    (call,) = eventually(calls)
    assert call.trace != collector.of_job(failed["id"], calls=1)[0].trace

    def root() -> list[str]:
        return [one.name for one in collector.spans() if one.trace == call.trace and not one.parent]

    assert eventually(root) == ["POST /v1/jobs/<job_id>/retry"]


def test_no_span_holds_a_prompt_an_answer_or_a_key(stack: Stack, collector: Collector) -> None:
    """What is exported does not hold them, of jobs that end well and of jobs that do not."""
    said = [f"word{unique()}" for _ in range(3)]
    with stack.client() as client:
        for word, model in zip(said, ("sim-echo", "sim-400", "sim-flaky-1"), strict=True):
            job = ended(client, submit(client, prompt=word, model=model)["id"])
            collector.of_job(job["id"], calls=2 if model == "sim-flaky-1" else 1)
        refused = client.post("/v1/jobs", json={"prompt": said[0], "model": 3, "metadata": {"note": said[1]}})
        assert refused.status_code == 400

    def codes() -> set[int]:
        return {one.attributes.get("http.status_code", 0) for one in collector.spans()}

    eventually(codes, lambda found: 400 in found, within=30)
    everything = b"".join(collector.bodies)
    for secret in (*said, KEY):
        assert secret.encode() not in everything


def test_a_caller_without_a_key_is_traced_as_all_others(stack: Stack, collector: Collector) -> None:
    """What is refused has a span with its status, and the instrumentation finds nothing amiss."""
    with stack.client(headers={"Authorization": "Bearer wrong"}) as client:
        assert client.get("/v1/jobs").status_code == 401

    def codes() -> set[int]:
        return {one.attributes.get("http.status_code", 0) for one in collector.spans()}

    eventually(codes, lambda found: 401 in found, within=30)
    assert "OpenTelemetry span missing" not in stack.logs()


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "never answers"])
def test_a_collector_that_is_away_holds_up_nothing(tmp_path: Path, listens: bool) -> None:
    """Jobs run, and each process ends as soon as without traces, but for two seconds for its last spans."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) if listens else contextlib.nullcontext() as silent:
        port = silent.getsockname()[1] if silent else free_port()
        settings = {
            "PROMPTQ_TRACING": "true",
            "PROMPTQ_REDIS_URL": "",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        with processes.stack(tmp_path, "--no-flower", **settings) as running:
            with running.client() as client:
                assert ended(client, submit(client, prompt=unique(), model="sim")["id"])["status"] == "completed"
            for name in ("worker-1", "api"):
                pid, began = running.processes[name], time.monotonic()
                os.kill(pid, signal.SIGTERM)
                eventually(lambda pid=pid: not psutil.pid_exists(pid), within=30)  # type: ignore[misc]
                assert time.monotonic() - began < 9, name
