"""Where tracing is off, or cannot be had; the traces themselves: tests/integration/test_tracing.py."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from jobs import tracing
from jobs.model import CHAT_COMPLETIONS, Job, JobStatus
from jobs.settings import Settings
from jobs.tracing import Tracing

JOB = Job("job_1", "local", CHAT_COMPLETIONS, "default", JobStatus.IN_PROGRESS, "sim", 1, 0.0)


def test_by_default_nothing_is_traced_or_loaded() -> None:
    """A process of the default settings makes no span and loads nothing that makes or exports one. (redis imports the
    SDK by itself, where it is installed.)"""
    program = (
        "import sys; from api.app import create_app; import worker.wiring; from jobs import tracing; "
        "from jobs.settings import Settings; off = tracing.start(Settings(), 'api', needs=['x']); create_app(); "
        "assert off.provider is None and off.traceparent() is None; "
        "sys.exit(any(name.startswith(('opentelemetry.exp', 'opentelemetry.ins')) for name in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr


def test_without_a_provider_the_work_is_done_all_the_same() -> None:
    """The contexts do nothing, and let errors pass."""
    off = Tracing()
    with off.enqueue("bulk") as enqueueing:
        assert enqueueing.traceparent is None
        enqueueing.found("job_1")
    with off.llm_call(JOB, 1) as span:
        span.failed("llm_timeout")
        span.used({"prompt_tokens": 1})
    with pytest.raises(LookupError), off.llm_call(JOB, 1):
        raise LookupError


@pytest.mark.parametrize(
    "module", ["opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.instrumentation.celery"]
)
def test_opentelemetry_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """Whoever asks for traces without the extra is told how to get it."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=r"PROMPTQ_TRACING.*\.\[tracing\]"):
        tracing.start(Settings(tracing=True), "worker", needs=["opentelemetry.instrumentation.celery"])


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input_tokens": 3, "output_tokens": 5}, (3, 5)),
        ({"prompt_tokens": 3, "completion_tokens": 5}, (3, 5)),
        ({"prompt_tokens": 3}, (3, None)),
        ({"prompt_tokens": "many", "completion_tokens": True}, (None, None)),
        ({"prompt_tokens": 2**63, "completion_tokens": 2**63 - 1}, (None, 2**63 - 1)),
        (None, (None, None)),
    ],
)
def test_tokens_are_told_where_the_llm_told_them(
    usage: dict[str, object] | None, expected: tuple[int | None, int | None]
) -> None:
    """By whichever name they have; a model's name is one that can be sent, whatever it was."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    odd = Job("job_1", "local", CHAT_COMPLETIONS, "default", JobStatus.IN_PROGRESS, "sim\ud800", 1, 0.0)
    with Tracing(provider).llm_call(odd, 2) as span:
        span.used(usage)
    (told,) = exporter.get_finished_spans()
    attributes = told.attributes or {}
    assert (attributes.get("gen_ai.usage.input_tokens"), attributes.get("gen_ai.usage.output_tokens")) == expected
    assert (told.name, attributes["promptq.attempt"]) == ("chat sim?", 2)


def test_a_job_that_could_not_be_enqueued_is_an_error_without_a_message() -> None:
    """The span says that it failed, and nothing of what the exception says."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.raises(LookupError), Tracing(provider).enqueue("bulk"):
        raise LookupError("the prompt")
    (told,) = exporter.get_finished_spans()
    assert told.status.status_code is StatusCode.ERROR
    assert "the prompt" not in told.to_json()
