"""What the tests of the outbox share: names, and steps in the life of a delivery."""

from __future__ import annotations

import redis

from jobs import queues
from jobs.store import JobStore
from jobs.webhooks import Delivery, DeliveryStatus, Endpoint, Leased
from tests.unit.making import (
    deliveries,
    event,
    make_due,
)

PENDING, SUCCEEDED, FAILED_STATUS = DeliveryStatus
COUNTERS = {"promptq:webhook-seq", "promptq:webhook-turn"}
BACKLOG = queues.backlog_key(queues.WEBHOOKS)
OTHER_URL = "https://other.example:8443/new"


def only(store: JobStore) -> Delivery:
    """The one delivery that there is."""
    (found,) = deliveries(store)
    return found


def to_hosts(store: JobStore, *hosts: str) -> dict[str, str]:
    """One due delivery to each of the hosts, in this order; their ids by host."""
    for host in hosts:
        event(store, webhook_url=f"https://{host}/in", webhook_host=host)
    found = [one.id for one in deliveries(store)][::-1]
    return dict(zip(hosts, found, strict=True))


def taken(leased: list[Leased]) -> list[str]:
    """The hosts of what was leased."""
    return [one.host for one in leased]


def retry_due(store: JobStore, client: redis.Redis, *delivery_ids: str) -> None:
    """Let scheduled deliveries become due."""
    make_due(client, queues.WEBHOOK_SCHEDULED, *delivery_ids)
    assert store.outbox.move_due() == (len(delivery_ids), 0)


def lose(store: JobStore, client: redis.Redis, *delivery_ids: str) -> None:
    """Let the worker of these deliveries be gone."""
    make_due(client, queues.WEBHOOK_LEASES, *delivery_ids)
    assert store.outbox.move_due() == (0, len(delivery_ids))


def failing_for(client: redis.Redis, hook: Endpoint, seconds: float) -> None:
    """Let an endpoint have failed for so long."""
    since = round((client.time()[0] - seconds) * 1000)
    client.hset(queues.endpoint_key(hook.id), "failing_since", since)
