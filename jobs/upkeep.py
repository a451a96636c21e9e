"""What keeps the jobs' books in order: due retries, lost leases, deadlines, lost messages, and what is stale.

Any number of schedulers may do this at once: each step looks again, in one atomic script, before it acts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, cast

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ResponseError

from jobs import queues
from jobs.broker import MessageMaker
from jobs.moments import read_at_once
from jobs.redis_errors import redis_errors
from jobs.scripts import Scripts

#: Stale messages that a queue's list may hold besides as many as live ones, before it is compacted.
_TOLERATED_STALE: Final = 1000


class Upkeep:
    """The scheduler's side of the store. Every method raises ``StoreUnavailable`` when Redis does not answer."""

    def __init__(self, client: Redis, scripts: Scripts, messages: MessageMaker, *, ttl_ms: int) -> None:
        self._client = client
        self._scripts = scripts
        self._messages = messages
        self._ttl_ms = ttl_ms

    def tick(self, *, idle: float, lease_seconds: float) -> tuple[float, bool]:
        """Note that a scheduler is at work; answer how long Redis, or all schedulers, were away (seconds), and whether
        lost leases may be recovered now: after an outage, not for one lease.

        ``idle`` is how long the caller itself has slept since its last good tick, 0 if that is not known.
        """
        with redis_errors():
            gap, may_recover = self._scripts.tick(args=[round(idle * 1000), round(lease_seconds * 1000)])
        return int(gap) / 1000, bool(may_recover)

    def promote_due(self, limit: int = 1000) -> int:
        """Enqueue jobs whose retry is due; answer how many."""
        return self._each(
            self._with_queue(self._due(queues.SCHEDULED, limit)),
            lambda job_id, queue: self._scripts.promote(args=[job_id, self._messages.message(job_id, queue)]) == 1,
        )

    def recover_lost(self, limit: int = 1000) -> int:
        """Return jobs whose lease ran out to their queues, or end them at the third time; answer how many."""
        return self._each(
            self._with_queue(self._due(queues.LEASES, limit)),
            lambda job_id, queue: self._recover(job_id, queue) in (b"done", b"crashed"),
        )

    def expire_due(self, limit: int = 1000) -> int:
        """End jobs whose deadline has passed; answer how many."""
        return self._each(
            ((job_id, "") for job_id in self._due(queues.DEADLINES, limit)),
            lambda job_id, _: self._scripts.expire(args=[job_id, self._ttl_ms]) == 1,
        )

    def compact(self, queue: str) -> int:
        """Take stale messages out of a queue's list if they are most of it; answer how many."""
        waiting, messages, _ = self.queue_state(queue)
        if messages <= 2 * waiting + _TOLERATED_STALE:
            return 0
        with redis_errors():
            return int(self._scripts.compact(args=[queue]))

    def _recover(self, job_id: str, queue: str) -> Any:
        return self._scripts.release(args=["recover", job_id, "", self._messages.message(job_id, queue), self._ttl_ms])

    @staticmethod
    def _each(job_ids: Iterable[tuple[str, str]], step: Callable[[str, str], bool]) -> int:
        """Do the step for each job; one that Redis refuses does not keep the others from theirs, and is raised."""
        done, refused = 0, None
        for job_id, queue in job_ids:
            try:
                with redis_errors():
                    done += step(job_id, queue)
            except ResponseError as error:
                refused = error
        if refused is not None:
            raise refused
        return done

    def purge_expired(self, limit: int = 1000) -> int:
        """Take index entries of expired records away; answer how many."""
        with redis_errors():
            return int(self._scripts.purge(args=[limit]))

    def orphans(self, queue: str, behind: int | None, limit: int = 1000) -> Sequence[tuple[str, int]]:
        """Waiting jobs that seem to have no message, with their enqueueing numbers.

        These are the ones numbered below ``behind``, or all where it is None.
        """
        # Those that jumped to the head of the queue stand below all others, whatever their number.
        upper = "+inf" if behind is None else f"({behind}"
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            found = self._client.zrangebyscore(queues.waiting_key(queue), "-inf", upper, start=0, num=limit)
            job_ids = [job_id.decode() for job_id in cast("list[bytes]", found)]
            for job_id in job_ids:
                pipe.hget(queues.job_key(job_id), "eseq")
            numbers = [int(number or 0) for number in pipe.execute()]
        numbered = zip(job_ids, numbers, strict=True)
        return [(job_id, number) for job_id, number in numbered if number and (behind is None or number < behind)]

    def queue_state(self, queue: str) -> tuple[int, int, int]:
        """Of a queue: how many jobs wait, how many messages tell of them, the highest number claimed."""

        def ask(pipe: Pipeline) -> None:
            pipe.zcard(queues.waiting_key(queue))
            pipe.llen(queues.celery_queue(queue))
            pipe.llen(queues.held_messages_key(queue))
            pipe.get(queues.claimed_key(queue))

        waiting, messages, held, claimed = read_at_once(self._client, ask)
        return int(waiting), int(messages) + int(held), int(claimed or 0)

    def repair(self, job_id: str, queue: str, seen: int) -> bool:
        """Send a waiting job's message again, unless it was enqueued or claimed since its number was seen."""
        with redis_errors():
            return bool(self._scripts.repair(args=[job_id, seen, self._messages.message(job_id, queue)]))

    def _due(self, key: str, limit: int) -> Sequence[str]:
        with redis_errors():
            seconds, micros = self._client.time()
            now = seconds * 1000 + micros // 1000
            found = cast("list[bytes]", self._client.zrangebyscore(key, "-inf", now, start=0, num=limit))
        return [job_id.decode() for job_id in found]

    def _with_queue(self, job_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        if not job_ids:
            return
        with redis_errors(), self._client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hget(queues.job_key(job_id), "queue")
            found = pipe.execute()
        for job_id, queue in zip(job_ids, found, strict=True):
            # A record that is gone still goes through its step, which takes the stale entry away.
            yield job_id, (queue or queues.DEFAULT.encode()).decode()
