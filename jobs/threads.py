"""Work that blocks a thread, kept from the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar, cast

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

        def outcome() -> tuple[T | None, Exception | None]:
            # gevent would print the traceback of what is raised in a thread, whoever handles it.
            try:
                return work(), None
            except Exception as error:  # noqa: BLE001  # it is raised again, where the work is waited for
                return None, error

        result, error = self._pool.apply(outcome)
        if error is not None:
            raise error
        return cast("T", result)
