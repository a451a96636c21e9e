"""The store against a model: whatever is done in whatever order, its invariants hold after each step."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from jobs import queues
from jobs.errors import NotFound, NotRetryable
from jobs.model import TRANSITIONS, Claim, JobStatus, Outcome
from jobs.store import JobStore
from jobs.streams import Entry
from tests.unit.making import DONE, FAILED, check_invariants, new_job


def machine(store: JobStore, client: redis.Redis) -> type[RuleBasedStateMachine]:
    """A machine on this store, which it empties at each start."""

    class Machine(RuleBasedStateMachine):
        jobs: Bundle[str] = Bundle("jobs")
        claims: Bundle[Claim] = Bundle("claims")

        def __init__(self) -> None:
            super().__init__()
            client.flushdb()
            self.seen: dict[str, JobStatus] = {}
            self.holder: dict[str, str] = {}
            self.deleted: set[str] = set()
            self.number = 0
            self.paused: set[str] = set()
            self.queue_of: dict[str, str] = {}
            self.retried: dict[str, str] = {}
            #: The highest number in each stream.
            self.told: dict[str, int] = {}

        @rule(
            target=jobs,
            queue=st.sampled_from(queues.QUEUES[:2]),
            deadline=st.sampled_from([None, 60.0]),
            stream=st.booleans(),
        )
        def create(self, queue: Any, deadline: float | None, stream: bool) -> str:
            accepted = store.create(new_job(queue=queue, deadline_seconds=deadline, stream=stream))
            assert accepted.made is not None
            self.queue_of[accepted.job_id] = queue
            return accepted.job_id

        @rule(target=jobs, job_id=jobs)
        def resubmit(self, job_id: str) -> Any:
            status = self.seen.get(job_id)
            if status not in (JobStatus.FAILED, JobStatus.CANCELLED):
                with pytest.raises(NotFound if status is None else NotRetryable):
                    store.resubmit(job_id, "ann")
                return multiple()
            accepted = store.resubmit(job_id, "ann")
            known = self.retried.get(job_id)
            if known is not None and known not in self.deleted:
                assert (accepted.job_id, accepted.made) == (known, None)
                return multiple()
            assert accepted.made is not None
            assert accepted.made == store.get(accepted.job_id, "ann", fields=())
            self.retried[job_id] = accepted.job_id
            self.queue_of[accepted.job_id] = self.queue_of[job_id]
            return accepted.job_id

        @rule(queue=st.sampled_from(queues.QUEUES[:2]))
        def pause(self, queue: Any) -> None:
            store.queues.pause(queue)
            self.paused.add(queue)

        @rule(queue=st.sampled_from(queues.QUEUES[:2]))
        def resume(self, queue: Any) -> None:
            store.queues.resume(queue)
            self.paused.discard(queue)

        @rule(target=claims, job_id=jobs)
        def claim(self, job_id: str) -> Any:
            self.number += 1
            claimed = store.claim(job_id, f"c{self.number}", lease_seconds=30, worker="w")
            if not isinstance(claimed, Claim):
                return multiple()
            assert self.queue_of[job_id] not in self.paused
            assert self.seen[job_id] is JobStatus.QUEUED
            self.holder[job_id] = claimed.claim_id
            return claimed

        @rule(claim=claims)
        def renew(self, claim: Claim) -> None:
            lost = store.renew({claim.job.id: claim.claim_id}, lease_seconds=30)
            status = self.seen.get(claim.job.id)
            ours = self.holder.get(claim.job.id) == claim.claim_id and status in (
                JobStatus.QUEUED,
                JobStatus.IN_PROGRESS,
            )
            assert lost == ([] if ours else [claim.job.id])

        @rule(claim=claims, outcome=st.sampled_from([DONE, FAILED]))
        def complete(self, claim: Claim, outcome: Outcome) -> None:
            before = self.seen.get(claim.job.id)
            verdict = store.complete(claim, outcome)
            if before is None:
                assert verdict == "gone"
            elif not before.terminal:
                assert verdict == ("done" if self.holder.get(claim.job.id) == claim.claim_id else "fenced")

        @rule(claim=claims, delta=st.booleans())
        def say(self, claim: Claim, delta: bool) -> None:
            if not claim.job.stream:
                return
            numbers = store.streams.begin(claim)
            before = self.seen.get(claim.job.id)
            ours = before is not None and not before.terminal and self.holder.get(claim.job.id) == claim.claim_id
            assert isinstance(numbers, tuple) is ours, numbers
            if isinstance(numbers, tuple):
                first, number = numbers
                assert first > self.told.get(claim.job.id, -1), "numbers were given twice"
                assert store.streams.append(claim, first, [Entry(number, "t", b"{}", delta)]) == "done"
                self.told[claim.job.id] = number

        @rule(claim=claims, keep=st.booleans())
        def retry(self, claim: Claim, keep: bool) -> None:
            ours = self.holder.get(claim.job.id) == claim.claim_id
            running = self.seen.get(claim.job.id) is JobStatus.IN_PROGRESS
            store.retry(claim, attempt=claim.job.attempt, attempts=[{}], delay=60, keep_slot=keep)
            if ours and running and not keep:
                del self.holder[claim.job.id]

        @rule(claim=claims)
        def hand_back(self, claim: Claim) -> None:
            before = self.seen.get(claim.job.id)
            ours = before is JobStatus.IN_PROGRESS and self.holder.get(claim.job.id) == claim.claim_id
            assert (store.hand_back(claim) == "done") is ours
            if ours:
                # It has let go: neither a renewal nor a late result of it counts any more.
                del self.holder[claim.job.id]

        @rule()
        def recover(self) -> None:
            leases = client.zrange(queues.LEASES, 0, 0)
            client.zadd(queues.LEASES, dict.fromkeys(leases, 1)) if leases else None
            assert store.upkeep.recover_lost() == len(leases)

        @rule()
        def promote(self) -> None:
            later = client.zrange(queues.SCHEDULED, 0, 0)
            client.zadd(queues.SCHEDULED, dict.fromkeys(later, 1)) if later else None
            assert store.upkeep.promote_due() == len(later)

        @rule()
        def expire(self) -> None:
            due = client.zrange(queues.DEADLINES, 0, 0)
            client.zadd(queues.DEADLINES, dict.fromkeys(due, 1)) if due else None
            assert store.upkeep.expire_due() == len(due)

        @rule(job_id=jobs)
        def cancel(self, job_id: str) -> None:
            if job_id in self.seen:
                assert store.cancel(job_id, "ann") is not self.seen[job_id].terminal

        @rule(job_id=consumes(jobs))
        def delete(self, job_id: str) -> None:
            store.delete(job_id, "ann")
            self.deleted.add(job_id)

        @invariant()
        def all_is_consistent(self) -> None:
            records = check_invariants(client)
            assert not self.deleted & set(records), "a deleted job was made again"
            statuses = {job_id: JobStatus(record[b"status"].decode()) for job_id, record in records.items()}
            for job_id, before in self.seen.items():
                now = statuses.get(job_id)
                assert now is before or now in TRANSITIONS[before] or job_id in self.deleted, (before, now)
            assert all(int(record[name]) >= 0 for record in records.values() for name in (b"attempt", b"strikes"))
            self.seen = statuses

    return Machine


def test_any_order_of_steps_keeps_the_invariants(store: JobStore, redis_client: redis.Redis) -> None:
    """One terminal state per job, legal transitions only, and every set equal to what the records say, at each step."""
    run_state_machine_as_test(
        machine(store, redis_client),
        settings=settings(
            max_examples=100,
            stateful_step_count=30,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
