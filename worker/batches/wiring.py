"""What a worker that sees to batches is made of, besides."""

from __future__ import annotations

import gevent

from jobs.settings import Settings
from jobs.storage import open_storage
from jobs.store import JobStore
from worker.batches.tender import Tender


def make_tender(store: JobStore, settings: Settings) -> Tender:
    """A tender on these settings. Raises ``ValueError`` where the storage needs what is not installed."""
    return Tender(
        batches=store.batches,
        files=store.files(open_storage(settings, offload=gevent.get_hub().threadpool.apply)),
        max_line_bytes=settings.max_body_bytes,
        max_prompt_bytes=settings.max_prompt_bytes,
        sleep=gevent.sleep,
        breathe=gevent.sleep,
    )
