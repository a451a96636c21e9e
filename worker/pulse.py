"""The file that tells a probe that the process lives."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

#: Seconds between two touches.
INTERVAL: Final = 5.0


def begin(heartbeat: Path | None, ready: Path | None) -> None:
    """Forget what an earlier process has left in these files: one that starts lives, and is not ready."""
    if heartbeat is not None:
        heartbeat.touch()
    if ready is not None:
        ready.unlink(missing_ok=True)


def beat(file: Path, sleep: Callable[[float], None] = time.sleep) -> None:
    """Touch the file for ever. In a worker it is the event loop that is seen to live by it: Redis may be away, and
    running calls are no reason to end a process that waits for it."""
    while True:
        file.touch()
        sleep(INTERVAL)
