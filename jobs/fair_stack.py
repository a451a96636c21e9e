"""Where idle connections are kept: redis-py's pool takes any class that has a queue's methods."""

from __future__ import annotations

import threading
from collections import deque
from queue import Empty, Full
from typing import Any


class FairStack:
    """What came last goes out first, and who has waited longest is served first.

    ``queue.LifoQueue`` lets whoever asks next take what those who wait were woken for; under load some of them never
    get anything.
    """

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._lock = threading.Lock()
        self._waiting: deque[_Waiter] = deque()
        #: What nobody has, as redis-py looks at it.
        self.queue: list[Any] = []

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the last that was put in, or wait for one. Raises ``queue.Empty`` after ``timeout`` seconds."""
        with self._lock:
            if self.queue:
                return self.queue.pop()
            if not block:
                raise Empty
            waiter = _Waiter()
            self._waiting.append(waiter)
        try:
            waiter.served.wait(timeout)
        except BaseException:
            # A deadline that ran out, or the greenlet's end: it may have been served just before.
            if not self._forget(waiter):
                self.put_nowait(waiter.item)
            raise
        if self._forget(waiter):
            raise Empty
        return waiter.item

    def put_nowait(self, item: Any) -> None:
        """Give it to whoever waits longest, or keep it. Raises ``queue.Full``."""
        with self._lock:
            if self._waiting:
                waiter = self._waiting.popleft()
                waiter.item = item
                waiter.served.set()
                return
            if len(self.queue) >= self._maxsize:
                raise Full
            self.queue.append(item)

    def _forget(self, waiter: _Waiter) -> bool:
        """Whether it was still waiting."""
        with self._lock:
            if waiter.served.is_set():
                return False
            self._waiting.remove(waiter)
            return True


class _Waiter:
    __slots__ = ("item", "served")

    def __init__(self) -> None:
        self.served = threading.Event()
        self.item: Any = None
