"""What the first process of a container has to see to."""

from __future__ import annotations

import os
import signal


def end_on_sigterm() -> None:
    """Let SIGTERM end this process while it starts, until it has a handler of its own.

    Linux drops a signal that process 1 does not handle (``man 2 kill``): a container that is stopped as it starts would
    go on and take work until it is killed.
    """
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
