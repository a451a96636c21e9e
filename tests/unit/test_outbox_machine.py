"""The outbox against a model: whatever is done in whatever order, its books are right after it, and all is sent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from jobs import queues
from jobs.broker import MessageMaker
from jobs.errors import NotDeliverable, NotFound
from jobs.outbox import Verdict
from jobs.store import JobStore
from jobs.webhook_urls import Allowed, parse
from jobs.webhooks import DeliveryStatus, Leased
from tests.unit.making import FIVE_DAYS, check_outbox, create, deliveries, delivery, endpoint, settle, webhook_store

PER_HOST = 2
VERDICTS: tuple[Verdict, ...] = ("succeeded", "retry", "failed", "gone", "release")
HOSTS = ("a.example", "b.example", "c.example:8443")
ENDED = (b"succeeded", b"failed")


@pytest.fixture
def store(redis_client: redis.Redis, redis_url: str, messages: MessageMaker) -> Iterator[JobStore]:
    """A store that can keep webhook secrets, on an empty database."""
    with webhook_store(redis_url, messages) as made:
        yield made


def machine(store: JobStore, client: redis.Redis) -> type[RuleBasedStateMachine]:
    """A machine on this store, which it empties at each start."""

    class Machine(RuleBasedStateMachine):
        endpoints: Bundle[str] = Bundle("endpoints")
        sent: Bundle[str] = Bundle("sent")
        leases: Bundle[Leased] = Bundle("leases")

        def __init__(self) -> None:
            super().__init__()
            client.flushdb()
            #: Of each delivery: whose word on it counts, how it ended, how many tries it has had, what is sent.
            self.holder: dict[str, str] = {}
            self.ended: dict[str, bytes] = {}
            self.tries: dict[str, int] = {}
            self.bodies: dict[str, bytes] = {}

        @initialize(target=endpoints)
        def first_endpoint(self) -> str:
            return endpoint(store, f"https://{HOSTS[0]}/").id

        @rule(target=endpoints, host=st.sampled_from(HOSTS))
        def make_endpoint(self, host: str) -> str:
            return endpoint(store, f"https://{host}/").id

        @rule(endpoint_id=endpoints, host=st.sampled_from(HOSTS), enabled=st.sampled_from([None, True, False]))
        def change_endpoint(self, endpoint_id: str, host: str, enabled: bool | None) -> None:
            url = f"https://{host}/"
            with contextlib.suppress(NotFound):
                store.webhooks.update(endpoint_id, "ann", url=url, target=parse(url, Allowed()), enabled=enabled)

        @rule(endpoint_id=endpoints)
        def delete_endpoint(self, endpoint_id: str) -> None:
            with contextlib.suppress(NotFound):
                store.webhooks.delete(endpoint_id, "ann")

        @rule(target=sent, own=st.sampled_from([None, *HOSTS]), count=st.integers(1, 3))
        def end_jobs(self, own: str | None, count: int) -> Any:
            before = {one.id for one in deliveries(store)}
            for _ in range(count):
                url = {"webhook_url": f"https://{own}/", "webhook_host": own} if own else {}
                store.cancel(create(store, **url), "ann")
            enabled = [one for one in store.webhooks.list("ann") if one.disabled_at is None]
            new = {one.id for one in deliveries(store)} - before
            assert len(new) == count * (len(enabled) + (own is not None))
            return multiple(*sorted(new))

        @rule(target=sent, endpoint_id=endpoints)
        def test_endpoint(self, endpoint_id: str) -> Any:
            try:
                return store.outbox.post_test(endpoint_id, "ann", "response.completed")
            except NotFound:
                return multiple()

        @rule(target=leases, fast=st.integers(0, 4), slow=st.integers(0, 4))
        def lease(self, fast: int, slow: int) -> Any:
            taken = store.outbox.lease(fast=fast, slow=slow, per_host=PER_HOST, lease_seconds=30)
            assert sum(not one.slow for one in taken) <= fast
            assert sum(one.slow for one in taken) <= slow
            for leased in taken:
                assert self.bodies.setdefault(leased.id, leased.body) == leased.body
                assert len(leased.tries) == self.tries.get(leased.id, 0)
                self.holder[leased.id] = leased.claim_id
            return multiple(*taken)

        @rule(
            leased=leases,
            verdict=st.sampled_from(VERDICTS),
            slow=st.booleans(),
            disable_after=st.sampled_from([0, FIVE_DAYS, FIVE_DAYS]),
        )
        def settle(self, leased: Leased, verdict: Any, slow: bool, disable_after: float) -> None:
            ours = self.holder.get(leased.id) == leased.claim_id and leased.id not in self.ended
            answer = settle(store, leased, verdict, slow=slow, disable_after=disable_after)
            assert (answer == "done") is ours
            if ours:
                del self.holder[leased.id]
                self.tries[leased.id] = self.tries.get(leased.id, 0) + (verdict != "release")
                if verdict not in ("retry", "release"):
                    self.ended[leased.id] = b"succeeded" if verdict == "succeeded" else b"failed"

        @rule(leased=leases, deleted=st.booleans(), verdict=st.sampled_from([None, *VERDICTS]))
        def lose_worker(self, leased: Leased, deleted: bool, verdict: Any) -> None:
            """Its lease runs out, maybe after its endpoint was deleted, and maybe it speaks after all."""
            lost = client.zadd(queues.WEBHOOK_LEASES, {leased.id: 1}, xx=True, ch=True)
            about = delivery(store, leased.id).endpoint_id
            if deleted and about is not None:
                self.delete_endpoint(about)
            assert store.outbox.move_due() == (0, lost)
            self.the_books_are_right()
            if verdict is not None:
                self.settle(leased, verdict, slow=False, disable_after=FIVE_DAYS)

        @rule(count=st.integers(1, 3))
        def time_passes(self, count: int) -> None:
            due = client.zrange(queues.WEBHOOK_SCHEDULED, 0, count - 1)
            client.zadd(queues.WEBHOOK_SCHEDULED, dict.fromkeys(due, 1)) if due else None
            assert store.outbox.move_due() == (len(due), 0)

        @rule(host=st.sampled_from(HOSTS))
        def turn_slow(self, host: str) -> None:
            store.outbox.note_slow(host)

        @rule(host=st.sampled_from(HOSTS))
        def slowness_passes(self, host: str) -> None:
            client.zadd(queues.WEBHOOK_SLOW, {host: 1}, xx=True)

        @rule(delivery_id=sent)
        def redeliver(self, delivery_id: str) -> None:
            try:
                store.outbox.redeliver(delivery_id, "ann")
            except NotDeliverable:
                return
            if self.ended.pop(delivery_id, None) is not None:
                self.holder.pop(delivery_id, None)

        @invariant()
        def the_books_are_right(self) -> None:
            records = check_outbox(client, PER_HOST)
            for delivery_id, record in records.items():
                state = record[b"state"]
                assert (delivery_id in self.ended) <= (state == self.ended.get(delivery_id)), "an end is final"
                if state in ENDED:
                    # Without a try, since its endpoint is gone; its last worker has no say any more.
                    assert delivery_id in self.ended or b"error" in record
                    self.ended[delivery_id] = state
                    self.holder.pop(delivery_id, None)
            assert all(int(count) <= PER_HOST for count in client.hvals(queues.WEBHOOK_RUNNING))

        def teardown(self) -> None:
            """Whatever has happened, everything comes to its end as soon as somebody sends it."""
            for key in (queues.WEBHOOK_LEASES, queues.WEBHOOK_SCHEDULED):
                client.zadd(key, dict.fromkeys(client.zrange(key, 0, -1), 1)) if client.exists(key) else None
            store.outbox.move_due()
            while taken := store.outbox.lease(fast=1, slow=1, per_host=PER_HOST, lease_seconds=30):
                for leased in taken:
                    settle(store, leased)
            check_outbox(client, PER_HOST)
            left = [one.id for one in deliveries(store, statuses=[DeliveryStatus.PENDING])]
            assert left == [], [delivery(store, one) for one in left]
            assert client.exists(queues.WEBHOOK_TURNS_FAST, queues.WEBHOOK_TURNS_SLOW, queues.WEBHOOK_RUNNING) == 0

    return Machine


def test_any_order_of_steps_keeps_the_books_right(store: JobStore, redis_client: redis.Redis) -> None:
    """Every set equal to what the records say at each step, ends that are final, hosts within their limit, no word of a
    worker that has been replaced, and nothing that is left unsent."""
    run_state_machine_as_test(
        machine(store, redis_client),
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],  # shrinking would take minutes
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
