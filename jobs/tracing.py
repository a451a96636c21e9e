"""Traces by OpenTelemetry, off by default: all spans of a job, from its submit to its last LLM call, are one trace.

Where spans go to and how many are kept is set by OpenTelemetry's own variables (``OTEL_EXPORTER_OTLP_ENDPOINT``,
``OTEL_TRACES_SAMPLER`` …), which its SDK reads itself. No span has anything of a prompt or a result.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import threading
from collections.abc import Iterator, Mapping, Sequence
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
#: More than fits into 64 bits cannot be exported.
_MAX_COUNT: Final = 2**63 - 1
#: Seconds that a process waits at its end for its last spans to be sent.
_LAST_WORDS: Final = 2.0


class Enqueueing:
    """A job on its way into its queue."""

    def __init__(self, span: Span | None = None, traceparent: str | None = None) -> None:
        self._span = span
        #: What to keep on the job for a worker to go on from (W3C Trace Context); None where nothing is traced.
        self.traceparent = traceparent

    def found(self, job_id: str) -> None:
        """Note which job it is: the one that was made, or that an Idempotency-Key had made before."""
        if self._span is not None:
            self._span.set_attribute("messaging.message.id", job_id)


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
                count = usage.get(name)
                if type(count) is int and 0 <= count <= _MAX_COUNT:
                    self._span.set_attribute(attribute, count)


class Tracing:
    """The spans that one process makes itself; none without a provider."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self.provider = provider

    @contextlib.contextmanager
    def enqueue(self, queue: str) -> Iterator[Enqueueing]:
        """A span of a job's way into its queue, the parent of what becomes of the job."""
        if self.provider is None:
            yield Enqueueing()
            return
        from opentelemetry.trace import SpanKind, StatusCode

        destination = queues.celery_queue(queue)
        attributes = {
            "messaging.system": "redis",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": destination,
        }
        with self._start(f"send {destination}", kind=SpanKind.PRODUCER, attributes=attributes) as span:
            try:
                yield Enqueueing(span, _traceparent())
            except BaseException:
                span.set_status(StatusCode.ERROR)
                raise

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


def start(settings: Settings, process: str, *, needs: Sequence[str]) -> Tracing:
    """Begin to export spans, as ``promptq-<process>`` unless ``OTEL_SERVICE_NAME`` says otherwise; nothing where the
    settings do not ask for it.

    ``needs``: the modules of the instrumentations that the process will use. Raises ``ValueError`` where one of
    OpenTelemetry's packages is not installed.
    """
    if not settings.tracing:
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        for module in needs:
            importlib.import_module(module)
    except ImportError as missing:
        raise ValueError(
            f"PROMPTQ_TRACING: {missing}; it takes pip install '.[tracing]' in PromptQ's repository"
        ) from missing
    named = Resource({SERVICE_NAME: f"promptq-{process}", SERVICE_VERSION: __version__})
    resource = Resource.create().merge(named).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    atexit.register(_end, provider)
    return Tracing(provider)


def _end(provider: TracerProvider) -> None:
    """Send what is left, if that can be done soon: the SDK by itself would wait for a silent collector for half a
    minute."""
    last = threading.Thread(target=provider.shutdown, daemon=True)
    last.start()
    last.join(_LAST_WORDS)
