"""What a worker that sees to batches is made of, besides."""

from __future__ import annotations

import gevent

from jobs.batch_store import BatchStore
from jobs.files import FileStore
from jobs.settings import Settings
from worker.batches.tender import Tender


def make_tender(batches: BatchStore, files: FileStore, settings: Settings) -> Tender:
    """A tender on these settings."""
    return Tender(
        batches=batches,
        files=files,
        max_line_bytes=settings.max_body_bytes,
        max_prompt_bytes=settings.max_prompt_bytes,
        sleep=gevent.sleep,
        breathe=gevent.sleep,
    )
