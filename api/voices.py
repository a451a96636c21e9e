"""How a job's stream sounds on the wire: a response's typed events, and the chunks of the other endpoints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from api.rendering import response_answer
from api.synchronous import error_of
from jobs.errors import PromptQError
from jobs.model import CHAT_COMPLETIONS, RESPONSES, Job, JobStatus
from jobs.streams import Entry

_DONE: Final = b"data: [DONE]\n\n"
#: What a response has none of before it has ended.
_NOT_YET: Final = {"usage": None, "error": None, "incomplete_details": None, "completed_at": None}
#: What says nothing, to callers and to whatever stands between.
KEEP_ALIVE: Final = b": keep-alive\n\n"


class Voice(Protocol):
    """Tells of one job's stream."""

    #: Whether what the job ends with repeats the pieces of text.
    repeats: bool

    def entry(self, entry: Entry) -> bytes:
        """One event of the LLM's."""

    def opening(self, job: Job) -> list[bytes]:
        """What is told of a job before its LLM is asked, numbered from 0."""

    def ending(self, job: Job, number: int) -> bytes:
        """What is told last of a job that has ended."""

    def whole(self, job: Job, number: int, *, opened: bool) -> Iterator[tuple[int, bytes]]:
        """All that can be told of a job that has ended without a stream, with its numbers, from this one on.

        ``opened``: whether the opening comes before it.
        """

    def error(self, code: str, message: str, number: int) -> bytes:
        """That the stream ends here, and not its job."""

    def where(self, job_id: str, number: int) -> str:
        """Where more is to be had after this number."""


def voice_of(endpoint: str) -> Voice:
    """The voice of an endpoint's streams."""
    return _Response() if endpoint == RESPONSES else _Chunks(chat=endpoint == CHAT_COMPLETIONS)


def _event(kind: str, number: int, **members: Any) -> bytes:
    return _framed(kind, _json({"type": kind, "sequence_number": number, **members}))


def _framed(kind: str, data: bytes) -> bytes:
    # A type is an LLM's word: a line end in it would be an event of its own.
    name = "".join(kind.split()).encode("utf-8", "replace")
    return b"event: %s\ndata: %s\n\n" % (name, data)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")


class _Response:
    repeats = True

    def entry(self, entry: Entry) -> bytes:
        return _framed(entry.type, entry.data)

    def opening(self, job: Job) -> list[bytes]:
        response = self._before(job, "queued")
        return [_event("response.created", 0, response=response), _event("response.queued", 1, response=response)]

    def ending(self, job: Job, number: int) -> bytes:
        # OpenAI has no event for a response that was cancelled, so the SDK has no type for one: the status tells.
        status = "failed" if job.status is JobStatus.CANCELLED else job.status.value
        return _event(f"response.{status}", number, response=response_answer(job))

    def whole(self, job: Job, number: int, *, opened: bool) -> Iterator[tuple[int, bytes]]:
        for kind, members in self._events(job, opened=opened):
            yield number, _event(kind, number, **members)
            number += 1
        yield number, self.ending(job, number)

    def error(self, code: str, message: str, number: int) -> bytes:
        return _event("error", number, code=code, message=message, param=None)

    def where(self, job_id: str, number: int) -> str:
        return f"GET /v1/responses/{job_id}?stream=true&starting_after={number}"

    def _events(self, job: Job, *, opened: bool) -> Iterator[tuple[str, dict[str, Any]]]:
        begun = self._before(job, "in_progress")
        if not opened:
            yield "response.created", {"response": begun}
        if job.started_at is not None:
            yield "response.in_progress", {"response": begun}
        for index, item in enumerate(response_answer(job)["output"]):
            if isinstance(item, dict):
                yield from _item_events(item, index)

    @staticmethod
    def _before(job: Job, status: str) -> dict[str, Any]:
        """The response as it was before its LLM answered."""
        response = response_answer(job)
        return {**response, "status": status, "output": [], **_NOT_YET}


def _item_events(item: Mapping[str, Any], index: int) -> Iterator[tuple[str, dict[str, Any]]]:
    content = item.get("content")
    parts = content if item.get("type") == "message" and isinstance(content, list) else []
    begun = {**item, "status": "in_progress", "content": []} if item.get("type") == "message" else dict(item)
    yield "response.output_item.added", {"output_index": index, "item": begun}
    for number, part in enumerate(parts):
        place = {"item_id": item.get("id"), "output_index": index, "content_index": number}
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "output_text" else None
        empty = {**part, "text": ""} if isinstance(text, str) else part
        yield "response.content_part.added", {**place, "part": empty}
        if isinstance(text, str):
            yield "response.output_text.done", {**place, "text": text, "logprobs": part.get("logprobs") or []}
        yield "response.content_part.done", {**place, "part": part}
    yield "response.output_item.done", {"output_index": index, "item": item}


class _Chunks:
    repeats = False

    def __init__(self, *, chat: bool) -> None:
        self._chat = chat

    def entry(self, entry: Entry) -> bytes:
        return b"data: %s\n\n" % entry.data

    def opening(self, job: Job) -> list[bytes]:
        return []

    def ending(self, job: Job, number: int) -> bytes:
        if job.result is not None and job.status is not JobStatus.CANCELLED:
            return _DONE
        body, _ = error_of(job)
        return self._error(body)

    def whole(self, job: Job, number: int, *, opened: bool) -> Iterator[tuple[int, bytes]]:
        for chunk in self._chunks(job):
            yield number, b"data: %s\n\n" % _json(chunk)
            number += 1
        yield number, self.ending(job, number)

    def error(self, code: str, message: str, number: int) -> bytes:
        return self._error({"message": message, "type": PromptQError.error_type, "param": None, "code": code})

    def where(self, job_id: str, number: int) -> str:
        return f"GET /v1/jobs/{job_id}"

    @staticmethod
    def _error(body: Mapping[str, Any]) -> bytes:
        return b"data: %s\n\n" % _json({"error": body})

    def _chunks(self, job: Job) -> Iterator[dict[str, Any]]:
        if job.result is None or job.status is JobStatus.CANCELLED:
            return
        answer = json.loads(job.result)
        usage, choices = answer.pop("usage", None), answer.pop("choices", [])
        options = json.loads(job.request).get("stream_options")
        with_usage = isinstance(options, dict) and options.get("include_usage") is True
        head = {**answer, "object": "chat.completion.chunk" if self._chat else "text_completion"}
        base = {**head, "usage": None} if with_usage else head
        for choice in choices:
            for piece in self._pieces(choice) if self._chat else [choice]:
                yield {**base, "choices": [piece]}
        if with_usage:
            yield {**head, "choices": [], "usage": usage}

    @staticmethod
    def _pieces(choice: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """A choice as two pieces: all that it says, and why it ends."""
        said = {name: value for name, value in (choice.get("message") or {}).items() if value is not None}
        if isinstance(said.get("tool_calls"), list):
            calls = enumerate(said["tool_calls"])
            said["tool_calls"] = [{"index": index, **call} for index, call in calls if isinstance(call, dict)]
        about = {name: value for name, value in choice.items() if name not in ("message", "finish_reason")}
        yield {**about, "delta": said, "finish_reason": None}
        yield {**about, "logprobs": None, "delta": {}, "finish_reason": choice.get("finish_reason")}
