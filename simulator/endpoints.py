"""The four endpoints that take calls, and the course that each of their calls takes."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from aiohttp import web

from simulator import completions, embeddings, responses
from simulator.behaviour import Fault
from simulator.calls import Call, output_tokens, parse_call
from simulator.errors import INVALID, ApiError, error_answer, overloaded, server_error
from simulator.sending import send_fault, send_stream
from simulator.settings import Settings
from simulator.stats import Stats, Ticket
from simulator.streams import Stream
from simulator.wire import JsonObject, json_answer


@dataclass(frozen=True, slots=True)
class Shape:
    """How one endpoint answers.

    replies: checks the parameters (ApiError) and gives the texts to answer with. answer, stream: the answer that is
    made of these texts, whole or as events; an endpoint without streams ignores ``stream: true``.
    """

    path: str
    replies: Callable[[Call], list[str]]
    answer: Callable[[Call, list[str]], JsonObject]
    stream: Callable[[Call, list[str]], Stream] | None = None


SHAPES = (
    Shape("/v1/responses", responses.replies, responses.answer, responses.stream),
    Shape("/v1/chat/completions", completions.chat_replies, completions.chat_answer, completions.chat_stream),
    Shape("/v1/completions", completions.text_replies, completions.text_answer, completions.text_stream),
    Shape("/v1/embeddings", embeddings.replies, embeddings.answer),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Takes the calls of one endpoint; `chance` decides which of them the error rate hits."""

    shape: Shape
    settings: Settings
    stats: Stats
    chance: Random

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Count a call, then answer it as the settings and its model say; raises ApiError for an invalid one."""
        with self.stats.call() as ticket:
            if self.settings.chat_alone and self.shape.path == "/v1/responses":
                return error_answer(ApiError(404, "Not Found (POST /v1/responses)", type=INVALID))
            arrived = time.time() if self.settings.arrivals else None
            with self.stats.body():
                raw = await request.read()
            try:
                call = parse_call(raw)
                self.stats.identify(call.model, call.key)
                if arrived is not None:
                    self.stats.arrivals.setdefault(call.key, arrived)
                texts = self.shape.replies(call)
            except ApiError as error:
                return error_answer(overloaded() if self.settings.down else error)
            if self.settings.down:
                return error_answer(overloaded())
            return await self._serve(request, ticket, call, texts)

    async def _serve(self, request: web.Request, ticket: Ticket, call: Call, texts: list[str]) -> web.StreamResponse:
        behaviour, speed = call.behaviour, self.settings.tokens_per_second
        error = self._failure(call)
        await asyncio.sleep(self.settings.latency if behaviour.latency is None else behaviour.latency)
        if error:
            return error_answer(error)
        build: Callable[[Call, list[str]], JsonObject | Stream] = self.shape.answer
        if call.stream and self.shape.stream is not None:
            build = self.shape.stream
        answer = build(call, texts)
        fault = behaviour.fault
        if behaviour.breaks and self.stats.attempt(call.model, call.key) <= behaviour.breaks:
            fault = Fault.TRUNCATED
        seconds_of_output = output_tokens(texts) / speed if speed else 0.0
        if fault:
            return await send_fault(request, ticket, fault, answer, seconds_of_output)
        if isinstance(answer, Stream):
            return await send_stream(request, ticket, answer, seconds_of_output / max(1, len(answer.deltas)))
        if seconds_of_output:
            await asyncio.sleep(seconds_of_output)
        return json_answer(answer)

    def _failure(self, call: Call) -> ApiError | None:
        behaviour = call.behaviour
        if behaviour.failures and self.stats.attempt(call.model, call.key) <= behaviour.failures:
            return server_error()
        if self.settings.error_rate and self.chance.random() < self.settings.error_rate:
            return server_error()
        return behaviour.error
