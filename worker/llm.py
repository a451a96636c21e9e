"""The LLM's client: the only place that knows the openai SDK."""

from __future__ import annotations

import contextlib
import json
import urllib.request
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import gevent
import httpx2
import openai
from openai._exceptions import SubjectTokenProviderError  # exported nowhere else

from jobs import strict_json
from jobs.errors import (
    LLMBadAnswer,
    LLMError,
    LLMRateLimited,
    LLMRejected,
    LLMTimeout,
    LLMUnavailable,
    LLMUnreachable,
)
from jobs.model import CHAT_COMPLETIONS, COMPLETIONS, EMBEDDINGS, RESPONSES, Endpoint, JobStatus
from jobs.settings import Settings
from jobs.translation import chat_body
from worker import sse
from worker.streaming import FINAL, Event, reading_of, streamed
from worker.translation import ResponseStream, response_of
from worker.transport import StackedTransport

#: Each exception class of the SDK and what it is to us; a class not named here is what its nearest base is. A test
#: enumerates the installed SDK's classes and fails if one is not covered.
ERRORS: Final[Mapping[type[Exception], type[LLMError]]] = {
    openai.APITimeoutError: LLMTimeout,
    # The root of what the API says; it comes by itself only where an answer breaks off in an error.
    openai.APIError: LLMUnavailable,
    openai.APIConnectionError: LLMUnreachable,
    openai.APIResponseValidationError: LLMBadAnswer,
    openai.RateLimitError: LLMRateLimited,
    openai.InternalServerError: LLMUnavailable,
    openai.ConflictError: LLMUnavailable,
    openai.BadRequestError: LLMRejected,
    openai.AuthenticationError: LLMRejected,
    openai.OAuthError: LLMRejected,
    SubjectTokenProviderError: LLMRejected,
    openai.PermissionDeniedError: LLMRejected,
    openai.NotFoundError: LLMRejected,
    openai.UnprocessableEntityError: LLMRejected,
    openai.APIStatusError: LLMRejected,
    openai.LengthFinishReasonError: LLMRejected,
    openai.ContentFilterFinishReasonError: LLMRejected,
    openai.WebSocketConnectionClosedError: LLMUnreachable,
    openai.WebSocketQueueFullError: LLMUnreachable,
    # What the SDK raises by itself before it sends anything: its configuration is at fault.
    openai.OpenAIError: LLMRejected,
}

#: The member that makes an answer what its endpoint promises.
_PROMISED: Final[Mapping[str, str]] = {
    RESPONSES: "output",
    CHAT_COMPLETIONS: "choices",
    COMPLETIONS: "choices",
    EMBEDDINGS: "data",
}
_STATUS: Final = {
    "completed": JobStatus.COMPLETED,
    "incomplete": JobStatus.INCOMPLETE,
    "failed": JobStatus.FAILED,
    "cancelled": JobStatus.CANCELLED,
}
_REQUEST_TIMEOUT: Final = 408
#: How long (seconds) the end of a stream is waited for whose answer is complete: its connection can be used again then.
_END_OF_STREAM: Final = 1.0
#: A 429 that no waiting mends.
_NO_QUOTA: Final = "insufficient_quota"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the LLM answered: its JSON, byte for byte, and what we read in it."""

    body: bytes
    status: JobStatus
    usage: Mapping[str, Any] | None
    #: The error object of a response that failed on the LLM's side, else None.
    error: Mapping[str, Any] | None
    request_id: str | None


class LLMClient:
    """Calls any OpenAI-compatible LLM once per ``call``; retries are the queue's."""

    def __init__(self, client: openai.OpenAI, *, chat_alone: bool = False) -> None:
        """``chat_alone``: the LLM has no Responses API, so that responses are asked for as chat completions."""
        self._client = client
        self._chat_alone = chat_alone

    @classmethod
    def from_settings(cls, settings: Settings, watch: Callable[[httpx2.Client], None] | None = None) -> LLMClient:
        """A client with a connection per slot. Raises ``ValueError`` where neither a key nor an address is set.

        ``watch`` gets the HTTP client that it is made with.
        """
        if settings.openai_api_key is None and settings.openai_base_url is None:
            raise ValueError("set OPENAI_API_KEY, or OPENAI_BASE_URL for an LLM of your own")
        # Many self-hosted LLMs want no key, but the SDK does.
        key = settings.openai_api_key.get_secret_value() if settings.openai_api_key else "none"
        timeout = httpx2.Timeout(settings.call_timeout, connect=settings.connect_timeout)
        http_client = _http_client(settings.concurrency, timeout)
        if watch is not None:
            watch(http_client)
        return cls(
            openai.OpenAI(
                api_key=key,
                # Never None: the SDK would take an empty OPENAI_BASE_URL for an address.
                base_url=settings.llm_url,
                max_retries=0,
                timeout=timeout,
                http_client=http_client,
            ),
            chat_alone=settings.llm_api == "chat",
        )

    def call(self, endpoint: Endpoint, body: bytes) -> Answer:
        """Send the body as it is and answer what came. Raises the ``LLMError`` that fits.

        Where the LLM speaks chat completions alone, a response is asked for and answered in translation.
        """
        if endpoint == RESPONSES and self._chat_alone:
            asked = json.loads(body)
            chat = json.dumps(chat_body(asked), separators=(",", ":")).encode("ascii")
            answer = self._call(CHAT_COMPLETIONS, chat)
            return _as_response(response_of(asked, json.loads(answer.body), number=uuid.uuid4().hex), answer)
        return self._call(endpoint, body)

    def _call(self, endpoint: Endpoint, body: bytes) -> Answer:
        try:
            response = self._client.post(
                endpoint.removeprefix("/v1"),
                cast_to=httpx2.Response,
                content=body,
                options={"headers": {"Content-Type": "application/json"}},
            )
        except openai.OpenAIError as error:
            _raise_ours(error)
        return _read(endpoint, response)

    def stream(self, endpoint: Endpoint, body: bytes, tell: Callable[[Event], None]) -> Answer:
        """Send the body and ask for a stream; tell each event as it comes, and answer what they add up to.

        Raises the ``LLMError`` that fits. An LLM that answers as a whole all the same tells nothing.
        In translation as with ``call``.
        """
        if endpoint == RESPONSES and self._chat_alone:
            return self._stream_in_translation(json.loads(body), tell)
        return self._stream(endpoint, body, tell)

    def _stream_in_translation(self, asked: Mapping[str, Any], tell: Callable[[Event], None]) -> Answer:
        # What the answer has cost comes in a chunk of its own, which the translation needs.
        chat = {**chat_body(asked), "stream_options": {"include_usage": True}}
        translation = ResponseStream(asked, uuid.uuid4().hex)
        ended: dict[str, Any] | None = None

        def tell_all(events: Iterable[Mapping[str, Any]]) -> None:
            nonlocal ended
            for event in events:
                kind = str(event["type"])
                if kind in FINAL:
                    ended = event["response"]
                else:
                    data = json.dumps(event, separators=(",", ":")).encode("ascii")
                    tell(Event(data, event, kind, delta=kind.endswith(".delta")))

        body = json.dumps(chat, separators=(",", ":")).encode("ascii")
        answer = self._stream(CHAT_COMPLETIONS, body, lambda chunk: tell_all(translation.take(chunk.value)))
        if not translation.begun:
            return _as_response(response_of(asked, json.loads(answer.body), number=uuid.uuid4().hex), answer)
        tell_all(translation.end(whole=True))
        assert ended is not None
        return _as_response(ended, answer)

    def _stream(self, endpoint: Endpoint, body: bytes, tell: Callable[[Event], None]) -> Answer:
        parsed = json.loads(body)
        reading = reading_of(endpoint, parsed)
        try:
            # The SDK reads the body of an error by itself, and lets what goes wrong with that pass.
            with _broken_off(None):
                response = self._client.post(
                    endpoint.removeprefix("/v1"),
                    cast_to=httpx2.Response,
                    content=streamed(endpoint, body, parsed),
                    options={"headers": {"Content-Type": "application/json"}},
                    stream=True,
                    stream_cls=openai.Stream[Any],
                )
        except openai.OpenAIError as error:
            _raise_ours(error)
        assert isinstance(response, httpx2.Response)
        request_id = response.headers.get("x-request-id")
        # Also when the call is ended from outside: an LLM goes on for whoever is still connected.
        with contextlib.ExitStack() as ending, _broken_off(request_id):
            ending.enter_context(contextlib.closing(response))
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                response.read()
                return _read(endpoint, response)
            payloads = sse.payloads(response.iter_bytes())
            for data in payloads:
                event = reading.take(data)
                if event is not None:
                    tell(event)
                if reading.complete:
                    break
            answer = reading.answer()
            # Beside us: the answer is there, and nothing that ends the call now shall cost it.
            gevent.spawn(_read_to_the_end, payloads, ending.pop_all())
        content = json.dumps(answer, separators=(",", ":")).encode("ascii")
        return _understand(endpoint, answer, content, response.status_code, request_id)


def _read_to_the_end(payloads: Iterator[bytes], ending: contextlib.ExitStack) -> None:
    """So that the connection can be used again."""
    with ending, contextlib.suppress(httpx2.HTTPError, httpx2.StreamError):
        gevent.with_timeout(_END_OF_STREAM, deque, payloads, 0, timeout_value=None)


@contextlib.contextmanager
def _broken_off(request_id: str | None) -> Iterator[None]:
    """What goes wrong in a stream, as ours, with the LLM's request id: the SDK is out of the way by then."""
    try:
        yield
    except LLMError as error:
        error.upstream_request_id = error.upstream_request_id or request_id
        raise
    except httpx2.TimeoutException as error:
        raise LLMTimeout(_MESSAGES[LLMTimeout], upstream_request_id=request_id) from error
    except (httpx2.HTTPError, httpx2.StreamError) as error:
        raise LLMUnreachable("The LLM's stream broke off.", upstream_request_id=request_id) from error


def _http_client(connections: int, timeout: httpx2.Timeout) -> httpx2.Client:
    """The SDK's own client, but for the connections below it."""
    if any(urllib.request.getproxies().get(scheme) for scheme in ("http", "https", "all")):
        # Through a proxy its own pool must go; it knows how, and costs more.
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        return openai.DefaultHttpxClient(limits=limits, timeout=timeout)
    transport = StackedTransport(connections=connections, verify=httpx2.create_ssl_context())
    return openai.DefaultHttpxClient(transport=transport, timeout=timeout)


def error_class(error: type[Exception]) -> type[LLMError]:
    """Our class for one of the SDK's, by its nearest base that ``ERRORS`` names."""
    return next(ERRORS[base] for base in error.__mro__ if base in ERRORS)


def _raise_ours(error: openai.OpenAIError) -> NoReturn:
    ours = error_class(type(error))
    if not isinstance(error, openai.APIStatusError):
        raise ours(_MESSAGES.get(ours, "The LLM's call failed.")) from error
    if error.status_code == _REQUEST_TIMEOUT or error.status_code >= 500:
        ours = LLMUnavailable
    body = error.body if isinstance(error.body, dict) else None
    if body and body.get("code") == _NO_QUOTA:
        ours = LLMRejected
    raise ours(
        str(body.get("message")) if body and body.get("message") else f"The LLM answered {error.status_code}.",
        upstream_status=error.status_code,
        upstream_error=body,
        upstream_request_id=error.request_id,
        retry_after=_retry_after(error.response.headers),
    ) from error


_MESSAGES: Final[Mapping[type[LLMError], str]] = {
    LLMTimeout: "The LLM gave no answer in time.",
    LLMUnreachable: "The LLM could not be reached, or the connection to it was cut.",
    LLMBadAnswer: "The LLM's answer is not what its API promises.",
}


def _retry_after(headers: httpx2.Headers) -> float | None:
    """Seconds that the LLM asks us to wait (``retry-after-ms`` or ``Retry-After`` in seconds), None if it does not."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):  # absent, or an HTTP date, which no LLM is known to send
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None


def _as_response(response: Mapping[str, Any], answer: Answer) -> Answer:
    return Answer(
        body=json.dumps(response, separators=(",", ":")).encode("ascii"),
        status=_STATUS[response["status"]],
        usage=response["usage"],
        error=None,
        request_id=answer.request_id,
    )


def _read(endpoint: str, response: httpx2.Response) -> Answer:
    request_id = response.headers.get("x-request-id")
    try:
        answer = strict_json.loads(response.content)
    except ValueError as error:
        raise LLMBadAnswer(
            "The LLM's answer is not JSON.", upstream_status=response.status_code, upstream_request_id=request_id
        ) from error
    return _understand(endpoint, answer, response.content, response.status_code, request_id)


def _understand(endpoint: str, answer: Any, body: bytes, http_status: int, request_id: str | None) -> Answer:
    """What an answer says. Raises ``LLMBadAnswer`` unless it is what its endpoint promises."""
    promised = _PROMISED[endpoint]
    # Only a response has a status of its own; elsewhere the member, if there is one, is none of ours.
    ended = "completed" if endpoint != RESPONSES else None
    said = (ended or answer.get("status", "completed")) if isinstance(answer, dict) else None
    status = _STATUS.get(said) if isinstance(said, str) else None
    if status is None or not isinstance(answer.get(promised), list):
        raise LLMBadAnswer(
            f"The LLM's answer is not an object with '{promised}' that has ended.",
            upstream_status=http_status,
            upstream_request_id=request_id,
        )
    usage, failure = answer.get("usage"), answer.get("error")
    return Answer(
        body=body,
        status=status,
        usage=usage if isinstance(usage, dict) else None,
        error=failure if isinstance(failure, dict) else None,
        request_id=request_id,
    )
