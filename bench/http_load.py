"""Requests over kept-alive connections, cheaply enough that the server is what is measured."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

_END: Final = b"\r\n\r\n"
_REFUSED: Final = 500


@dataclass
class Load:
    """What came of it. Latencies in seconds."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    #: Answers by status.
    statuses: dict[int, int] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        """The latency that this share of the requests did not exceed."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """One HTTP/1.1 request."""
    lines = (
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join(lines).encode() + _END + body


class Connection:
    """One connection, for one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect on loopback."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, sent: bytes) -> tuple[int, bytes]:
        """Send a request; answer the status and the body."""
        self._writer.write(sent)
        head = await self._reader.readuntil(_END)
        length = 0
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return int(head[9:12]), await self._reader.readexactly(length)

    def close(self) -> None:
        """Close it."""
        self._writer.close()


async def as_fast_as_it_goes(port: int, make: Callable[[int], bytes], *, connections: int, seconds: float) -> Load:
    """So many connections, each of which sends its next request when it has its answer."""
    load, number = Load(), iter(range(10**9))
    opened = [await Connection.open(port) for _ in range(connections)]
    began = time.perf_counter()
    deadline = began + seconds

    async def one(connection: Connection) -> None:
        while time.perf_counter() < deadline:
            await _timed(load, connection, make(next(number)))

    await asyncio.gather(*map(one, opened))
    load.seconds = time.perf_counter() - began
    for connection in opened:
        connection.close()
    return load


async def at_a_rate(port: int, make: Callable[[int], bytes], *, rate: float, seconds: float) -> Load:
    """So many requests a second, whether those before have been answered or not: a latency counts from when its
    request was due."""
    load, idle = Load(), [await Connection.open(port) for _ in range(8)]
    began = time.perf_counter()
    running: set[asyncio.Task[None]] = set()

    async def one(number: int, due: float) -> None:
        connection = idle.pop() if idle else await Connection.open(port)
        await _timed(load, connection, make(number), since=due)
        idle.append(connection)

    for number in range(int(rate * seconds)):
        due = began + number / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(number, due))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    load.seconds = time.perf_counter() - began
    for connection in idle:
        connection.close()
    return load


async def _timed(load: Load, connection: Connection, sent: bytes, since: float | None = None) -> None:
    since = time.perf_counter() if since is None else since
    status, _ = await connection.ask(sent)
    # One that was refused was never done.
    load.latencies.append(time.perf_counter() - since if status < _REFUSED else math.inf)
    load.statuses[status] = load.statuses.get(status, 0) + 1
