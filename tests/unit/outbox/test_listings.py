"""Deliveries are listed in pages, to their owner alone."""

from __future__ import annotations

import pytest
import redis

from jobs.errors import NotFound
from jobs.store import JobStore
from jobs.webhooks import DeliveryStatus
from tests.unit.making import (
    OWN_URL,
    deliveries,
    delivery,
    endpoint,
    event,
    forget_deliveries,
    lease,
    settle,
)
from tests.unit.outbox.steps import FAILED_STATUS, PENDING, SUCCEEDED, only


def test_deliveries_are_listed(store: JobStore, redis_client: redis.Redis) -> None:
    """An owner's deliveries are listed newest first, by endpoint and status if asked, a page at a time."""
    first, second = endpoint(store), endpoint(store, "https://second.example/")
    for _ in range(3):
        event(store, **OWN_URL)
    event(store, owner="bob", **OWN_URL)
    everything = deliveries(store)
    assert len(everything) == 9
    created = [one.created_at for one in everything]
    assert created == sorted(created, reverse=True)
    by_first = deliveries(store, endpoint=first.id)
    assert by_first == [one for one in everything if one.endpoint_id == first.id]
    assert len(by_first) == 3
    assert deliveries(store, endpoint="job") == [one for one in everything if one.endpoint_id is None]
    for leased in lease(store):
        if leased.id in {one.id for one in deliveries(store, endpoint=second.id)}:
            settle(store, leased, "failed")
        elif leased.host == "hooks.example":
            settle(store, leased, "retry")
        elif leased.id in {one.id for one in everything}:
            settle(store, leased)
    counts = {status: len(deliveries(store, statuses=[status])) for status in DeliveryStatus}
    assert counts == {PENDING: 3, SUCCEEDED: 3, FAILED_STATUS: 3}
    assert len(deliveries(store, endpoint=second.id, statuses=[FAILED_STATUS, PENDING])) == 3
    assert deliveries(store, endpoint=second.id, statuses=[SUCCEEDED]) == []
    assert [one.id for one in deliveries(store)] == [one.id for one in everything]
    pages, after = [], None
    while True:
        page = store.outbox.list("ann", limit=4, after=after)
        pages.append([one.id for one in page.deliveries])
        if not page.has_more:
            break
        after = pages[-1][-1]
    assert [len(page) for page in pages] == [4, 4, 1]
    assert [one for page in pages for one in page] == [one.id for one in everything]
    assert store.outbox.list("ann", limit=9).has_more is False


def test_a_listing_after_what_is_not_there(store: JobStore) -> None:
    """A page after a delivery that the owner does not have is an error."""
    event(store, owner="bob", **OWN_URL)
    (bobs,) = deliveries(store, "bob")
    for after in (bobs.id, "whd_x"):
        with pytest.raises(NotFound):
            store.outbox.list("ann", after=after)
    assert deliveries(store, "bob", after=bobs.id) == []


def test_a_delivery_is_its_owners(store: JobStore) -> None:
    """Another owner's delivery does not exist."""
    event(store, **OWN_URL)
    assert delivery(store, only(store).id) == only(store)
    with pytest.raises(NotFound):
        store.outbox.get(only(store).id, "bob")


def test_what_has_expired_fills_no_page(store: JobStore, redis_client: redis.Redis) -> None:
    """A listing passes over what is gone and not purged yet."""
    for _ in range(4):
        event(store, **OWN_URL)
    old = lease(store, per_host=3)
    for leased in old:
        settle(store, leased)
    forget_deliveries(redis_client, *(one.id for one in old))
    page = store.outbox.list("ann", limit=1)
    assert len(page.deliveries) == 1
    assert page.has_more is False
    store.upkeep.purge_expired()
