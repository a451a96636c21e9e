"""Traces by OpenTelemetry, off by default: all spans of a job, from its submit to its last LLM call, are one trace.

Where spans go to and how many are kept is set by OpenTelemetry's own variables (``OTEL_EXPORTER_OTLP_ENDPOINT``,
``OTEL_TRACES_SAMPLER`` …), which its SDK reads itself. No span has anything of a prompt or a result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from jobs import __version__, queues
from jobs.model import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RESPONSES, Job
from jobs.settings import Settings

if TYPE_CHECKING:  # an extra: nothing of it is loaded while tracing is off
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

#: OpenTelemetry, semantic conventions for generative AI, ``gen_ai.operation.name``.
_OPERATIONS: Final[Mapping[str, str]] = {
    RESPONSES: "chat",
    CHAT_COMPLETIONS: "chat",
    COMPLETIONS: "text_completion",
    EMBEDDINGS: "embeddings",
}
#: The names of token counts in the answers of responses and of all others.
_TOKENS: Final = {
    "gen_ai.usage.input_tokens": ("input_tokens", "prompt_tokens"),
    "gen_ai.usage.output_tokens": ("output_tokens", "completion_tokens"),
}


class CallSpan:
    """The span of one LLM call; one that is None is of a process that does not trace."""

    def __init__(self, span: Span | None = None) -> None:
        self._span = span

    def failed(self, code: str) -> None:
        """Note that the call brought no answer, by the code of the error."""
        if self._span is not None:
            from opentelemetry.trace import StatusCode

            self._span.set_attribute("error.type", code)
            self._span.set_status(StatusCode.ERROR)

    def used(self, usage: Mapping[str, Any] | None) -> None:
        """Note the token counts, where the LLM gave them."""
        if self._span is None or usage is None:
            return
        for attribute, names in _TOKENS.items():
            for name in names:
                if isinstance(usage.get(name), int):
                    self._span.set_attribute(attribute, usage[name])


class Tracing:
    """The spans that one process makes itself; none without a provider."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self.provider = provider

    @contextlib.contextmanager
    def enqueue(self, job_id: str, queue: str) -> Iterator[str | None]:
        """A span of a job's way into its queue, the parent of what becomes of the job; answers the ``traceparent`` to
        keep on it (W3C Trace Context), None where nothing is traced."""
        if self.provider is None:
            yield None
            return
        from opentelemetry.trace import SpanKind

        destination = queues.celery_queue(queue)
        attributes = {
            "messaging.system": "redis",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": destination,
            "messaging.message.id": job_id,
        }
        with self._start(f"send {destination}", kind=SpanKind.PRODUCER, attributes=attributes):
            yield _traceparent()

    def traceparent(self) -> str | None:
        """The current span as a ``traceparent``; None where nothing is traced."""
        return None if self.provider is None else _traceparent()

    @contextlib.contextmanager
    def llm_call(self, job: Job, attempt: int) -> Iterator[CallSpan]:
        """A span of one LLM call, in the trace of the job's submit, whoever has sent us the job."""
        if self.provider is None:
            yield CallSpan()
            return
        from opentelemetry.trace import Link, SpanKind, get_current_span
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        parent, links = None, []
        if job.trace is not None:
            submitted = TraceContextTextMapPropagator().extract({"traceparent": job.trace})
            here = get_current_span().get_span_context()
            if here.trace_id != get_current_span(submitted).get_span_context().trace_id:
                # A message of the scheduler: after a retry, a recovery or a repair.
                parent = submitted
                links = [Link(here)] if here.is_valid else []
        operation = _OPERATIONS[job.endpoint]
        # One lone surrogate, and protobuf would refuse all spans of the batch.
        model = job.model.encode("utf-8", "replace").decode()
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.request.model": model,
            "promptq.job_id": job.id,
            "promptq.queue": job.queue,
            "promptq.attempt": attempt,
        }
        with self._start(
            f"{operation} {model}", context=parent, links=links, kind=SpanKind.CLIENT, attributes=attributes
        ) as span:
            yield CallSpan(span)

    def _start(self, name: str, **about: Any) -> Any:
        assert self.provider is not None
        tracer = self.provider.get_tracer("promptq", __version__)
        # An exception's message could quote a prompt: what went wrong is told by its code.
        return tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False, **about)


def _traceparent() -> str | None:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def start(settings: Settings, process: str) -> Tracing:
    """Begin to export spans, as ``promptq-<process>`` unless ``OTEL_SERVICE_NAME`` says otherwise; nothing where the
    settings do not ask for it. Raises ``ValueError`` where OpenTelemetry is not installed."""
    if not settings.tracing:
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as missing:
        raise ValueError(f"PROMPTQ_TRACING: {missing}; pip install 'promptq[tracing]'") from missing
    named = Resource({SERVICE_NAME: f"promptq-{process}", SERVICE_VERSION: __version__})
    provider = TracerProvider(resource=Resource.create().merge(named).merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)
