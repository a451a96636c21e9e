"""The signals that ask ``promptq up`` to stop."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequests:
    """Counts requests to stop (Ctrl-C, SIGTERM, a closed terminal) for as long as the ``with`` lasts."""

    def __init__(self) -> None:
        self._count = 0
        self._before: dict[signal.Signals, object] = {}

    @property
    def stop(self) -> bool:
        """Whether somebody has asked to stop."""
        return self._count > 0

    @property
    def hurry(self) -> bool:
        """Whether somebody has asked again: then nothing is waited for."""
        return self._count > 1

    def __enter__(self) -> StopRequests:
        self._before = {number: signal.signal(number, self._asked) for number in _ASKING}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned, it takes again

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
