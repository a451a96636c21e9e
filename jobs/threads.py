"""Work that blocks a thread, kept from the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from gevent.threadpool import ThreadPool

T = TypeVar("T")
_THREADS: Final = 10


class OffTheLoop:
    """Runs work that may block for long (a disk) in threads of its own, and gives its result.

    gevent's own threads look up hosts: with those all waiting for a disk, Redis and the LLM could not be found.
    """

    def __init__(self) -> None:
        self._pool: ThreadPool | None = None

    def __call__(self, work: Callable[[], T], /) -> T:
        """Wait for the work, without holding up others."""
        if self._pool is None:  # threads belong to the loop of the process that uses them
            self._pool = ThreadPool(_THREADS)
        result: T = self._pool.apply(work)
        return result
