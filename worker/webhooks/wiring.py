"""What a worker that sends webhooks is made of, besides."""

from __future__ import annotations

from jobs.outbox import Outbox
from jobs.sealing import Sealer
from jobs.settings import Settings
from worker.metrics import WorkerMetrics
from worker.webhooks.deliverer import Deliverer
from worker.webhooks.policy import RetrySchedule
from worker.webhooks.resolver import Resolver
from worker.webhooks.sender import Sender
from worker.webhooks.slots import Slots


def make_deliverer(outbox: Outbox, settings: Settings, metrics: WorkerMetrics) -> Deliverer:
    """A deliverer on these settings."""
    sender = Sender(
        Resolver(settings.webhook_allow), timeout=settings.webhook_timeout, per_host=settings.webhook_per_host
    )
    return Deliverer(
        outbox=outbox,
        sender=sender,
        sealer=Sealer.from_settings(settings),
        allowed=settings.webhook_allow,
        schedule=RetrySchedule(settings.webhook_retries),
        slots=Slots(settings.webhook_concurrency, settings.webhook_slow_concurrency),
        per_host=settings.webhook_per_host,
        timeout=settings.webhook_timeout,
        slow_after=settings.webhook_slow_after,
        disable_after=settings.webhook_disable_after,
        metrics=metrics,
    )
