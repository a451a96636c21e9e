"""How an answer leaves: whole, as a stream at the speed that is set, or broken on purpose."""

import asyncio
from typing import Never

from aiohttp import web

from simulator.behaviour import Fault
from simulator.errors import error_answer, server_error
from simulator.stats import Ticket
from simulator.streams import Stream, frame
from simulator.wire import encode, json_answer

# As a response's event and as a chunk: each client reads what it knows.
_MESSAGE = "The simulated stream failed."
_ERROR = frame(
    {
        "type": "error",
        "sequence_number": 99,
        "code": "server_error",
        "message": _MESSAGE,
        "param": None,
        "error": {"message": _MESSAGE, "type": "server_error", "param": None, "code": "server_error"},
    },
    event="error",
)


async def send_stream(request: web.Request, ticket: Ticket, stream: Stream, pause: float) -> web.StreamResponse:
    """Write a stream with that many seconds before each delta; without a pause it goes out in one write."""
    response = await _begin_stream(request)
    if pause:
        await response.write(stream.opening)
        for delta in stream.deltas:
            await asyncio.sleep(pause)
            await response.write(delta)
    # A client may hang up once it has read the last event, which is before this coroutine resumes.
    ticket.settled = True
    await response.write_eof(stream.closing if pause else _all_of(stream))
    return response


async def send_fault(
    request: web.Request, ticket: Ticket, fault: Fault, answer: object | Stream, seconds_of_output: float
) -> web.StreamResponse:
    """Break the promise of an HTTP answer in the way that the fault says.

    The answer is what it would have been. Half of a stream takes half of its time.
    """
    match fault:
        case Fault.STALL | Fault.STREAM_ERROR if isinstance(answer, Stream):
            response = await _begin_stream(request)
            await response.write(b"".join((answer.opening, *answer.deltas[: len(answer.deltas) // 2])))
            if fault is Fault.STALL:
                await _wait_for_the_end()
            ticket.settled = True
            await response.write_eof(_ERROR)
            return response
        case Fault.HANG | Fault.STALL:
            await _wait_for_the_end()
        case Fault.STREAM_ERROR:
            return error_answer(server_error())
        case Fault.GARBAGE:
            return web.Response(text="<html><body>Bad gateway {", content_type="text/html")
        case Fault.WRONG_SHAPE:
            return json_answer(["this", "is", "not", "what", "was", "promised"])
        case Fault.TRUNCATED if isinstance(answer, Stream):
            await _send_half(await _begin_stream(request), _all_of(answer))
            await asyncio.sleep(seconds_of_output / 2)
        case Fault.TRUNCATED:
            body = encode(answer)
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.content_length = len(body)
            await response.prepare(request)
            await _send_half(response, body)
        case Fault.CUT:
            pass
    ticket.settled = True
    if request.transport is not None:
        request.transport.close()
    await _wait_for_the_end()


async def _begin_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    return response


async def _send_half(response: web.StreamResponse, body: bytes) -> None:
    await response.write(body[: len(body) // 2])


async def _wait_for_the_end() -> Never:
    """Wait until the connection is lost, which cancels the handler."""
    while True:
        await asyncio.Event().wait()


def _all_of(stream: Stream) -> bytes:
    return b"".join((stream.opening, *stream.deltas, stream.closing))
