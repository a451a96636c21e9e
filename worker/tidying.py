"""The storage kept tidy: what no file needs any more is deleted from it. Workers do it, since they have the storage."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

import structlog

from jobs.errors import Unavailable
from jobs.files import FileStore

#: Seconds between two looks for contents to delete, and at what writers that died have left.
_EVERY: Final = 60.0
_SWEEP_EVERY: Final = 3600.0
_log = structlog.get_logger("promptq.worker")


def tidy(files: FileStore, sleep: Callable[[float], None] = time.sleep) -> None:
    """Delete what is due, for ever. Any number of workers may do so; they look at different times."""
    sleep(random.uniform(0, _EVERY))
    swept_at = float("-inf")
    while True:
        try:
            deleted = files.purge_expired()
            swept = 0
            if time.monotonic() - swept_at >= _SWEEP_EVERY:
                swept = files.storage.sweep()
                swept_at = time.monotonic()
            if deleted or swept:
                _log.info("files.tidied", deleted=deleted, swept=swept)
        except Unavailable as error:
            _log.warning("files.not_tidied", error=error.code)
        except Exception:  # noqa: BLE001  # the next look may go well, and nobody else does this; the log has it
            _log.exception("files.tidying_crashed")
        sleep(_EVERY * random.uniform(0.9, 1.1))
