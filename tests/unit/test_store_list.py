"""Listings: newest first, in pages, the owner's own, at a cost that does not grow."""

from __future__ import annotations

import random

import redis

from jobs import queues
from jobs.model import RESPONSES, JobStatus
from jobs.store import JobStore
from tests.unit.making import DONE, claim, create, forget_expired, running


def pages(store: JobStore, **filters: object) -> list[list[str]]:
    """All pages of a listing, to its end."""
    found: list[list[str]] = []
    after = None
    while True:
        page = store.list("ann", after=after, **filters)  # type: ignore[arg-type]
        found.append([job.id for job in page.jobs])
        if not page.has_more:
            return found
        after = page.jobs[-1].id


def test_newest_first_across_everything(store: JobStore) -> None:
    """A listing merges all kinds, statuses and queues, newest first, and holds nobody else's jobs."""
    ids = []
    for number in range(30):
        changes = {"queue": queues.QUEUES[number % 3]} | ({"endpoint": RESPONSES} if number % 2 else {})
        ids.append(create(store, **changes))
        create(store, owner="bob")
        if number % 4 == 0:
            store.cancel(ids[-1], "ann")
        if number % 4 == 1:
            claim(store, ids[-1])
    found = pages(store, limit=7)
    assert [len(page) for page in found] == [7, 7, 7, 7, 2]
    assert [job_id for page in found for job_id in page] == ids[::-1]


def test_filters(store: JobStore) -> None:
    """A listing may be of some statuses, queues or kinds only."""
    waiting, bulk, response = create(store), create(store, queue="bulk"), create(store, endpoint=RESPONSES)
    held = running(store)
    store.complete(held, DONE)
    assert pages(store, statuses=["completed"]) == [[held.job.id]]
    assert pages(store, queue_names=["bulk"]) == [[bulk]]
    assert pages(store, kinds=["resp"]) == [[response]]
    assert pages(store, kinds=["job"], statuses=["queued"], queue_names=["default"]) == [[waiting]]
    assert pages(store, statuses=["failed"]) == [[]]


def test_large_fields_come_on_request(store: JobStore) -> None:
    """A listing carries the requests and results only where they are asked for."""
    store.complete(running(store), DONE)
    (short,) = store.list("ann").jobs
    (full,) = store.list("ann", fields=["request", "result"]).jobs
    assert (short.request, short.result) == (b"", None)
    assert full.request
    assert full.result == DONE.result


def test_pages_hold_while_jobs_move(store: JobStore) -> None:
    """Paging misses no job and shows none twice, though jobs are made, claimed and ended in between."""
    chance = random.Random(7)
    ids = [create(store, queue=chance.choice(queues.QUEUES)) for _ in range(60)]
    found: list[str] = []
    after = None
    while True:
        page = store.list("ann", limit=9, after=after)
        found += [job.id for job in page.jobs]
        for job_id in chance.sample(ids, 10):
            if store.claim(job_id, "c", lease_seconds=30, worker="w") == "held":
                store.cancel(job_id, "ann")
        create(store)
        if not page.has_more:
            break
        after = found[-1]
    assert found == ids[::-1]


def test_expired_jobs_hide_no_others(store: JobStore, redis_client: redis.Redis) -> None:
    """Records that expired and are not purged yet are passed over, however many, and what lies behind them is shown."""
    kept = create(store)
    store.cancel(kept, "ann")
    expired = [create(store) for _ in range(60)]
    for job_id in expired:
        store.cancel(job_id, "ann")
    forget_expired(redis_client, *expired)
    page = store.list("ann", limit=5)
    assert [job.id for job in page.jobs] == [kept]
    assert not page.has_more


def test_the_cost_does_not_grow(store: JobStore, redis_client: redis.Redis) -> None:
    """A page out of 2,000 jobs takes as many commands as one out of 50."""

    def cost(after: str) -> int:
        # Whoever else uses the server (make test-system) is counted as well, now and then.
        return min(once(after) for _ in range(5))

    def once(after: str) -> int:
        redis_client.config_resetstat()
        assert len(store.list("ann", limit=20, after=after).jobs) == 20
        stats = redis_client.info("commandstats")
        return sum(stats[name]["calls"] for name in stats if name in ("cmdstat_hmget", "cmdstat_zrevrangebyscore"))

    ids = [create(store) for _ in range(50)]
    few = cost(ids[40])
    ids += [create(store) for _ in range(1950)]
    assert cost(ids[40]) == cost(ids[1900]) == few
    assert len(store.list("ann", limit=100, statuses=[JobStatus.QUEUED]).jobs) == 100
