"""Queues as an operator sees them: how long they are, and whether they are paused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redis import Redis
from redis.client import Pipeline

from jobs import queues
from jobs.moments import read_at_once
from jobs.queues import QueueName
from jobs.redis_errors import redis_errors
from jobs.scripts import Scripts


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue as it stands."""

    name: QueueName
    #: A paused queue takes jobs and starts none; those that run go on.
    paused: bool
    waiting: int
    running: int
    #: When the job that is next was made (Unix seconds); None while none waits.
    next_created_at: float | None
    #: Since when it counts as something to do: of those that wait nearly always the longest. None while none waits.
    next_waits_since: float | None


@dataclass(frozen=True, slots=True)
class Totals:
    """Everything there is to do, of all owners together, at one moment."""

    #: The server's clock, in Unix seconds.
    now: float
    #: The length of each backlog, the webhooks' included: what KEDA scales on.
    backlogs: Mapping[str, int]
    #: Jobs under a lease.
    in_flight: int
    #: Jobs that wait for their next attempt to be due.
    scheduled: int
    webhooks_scheduled: int
    dead_letters: int
    #: Jobs that have ever ended, by terminal state.
    ended: Mapping[str, int]
    #: Bytes that Redis uses, and may use (``maxmemory``; 0: no limit).
    memory: int
    memory_limit: int


class QueueControl:
    """Reads and pauses queues. Every method raises ``StoreUnavailable`` when Redis does not answer."""

    def __init__(self, client: Redis, scripts: Scripts) -> None:
        self._client = client
        self._scripts = scripts

    def states(self) -> Sequence[QueueState]:
        """Every queue, the preferred one first."""
        return [self.state(name) for name in queues.QUEUES]

    def state(self, name: QueueName) -> QueueState:
        """One queue."""

        def ask(pipe: Pipeline) -> None:
            pipe.sismember(queues.PAUSED, name)
            pipe.zcard(queues.waiting_key(name))
            pipe.zcard(queues.backlog_key(name))
            pipe.zcard(queues.held_key(name))
            pipe.zrange(queues.waiting_key(name), 0, 0)

        paused, waiting, backlog, held, first = read_at_once(self._client, ask)
        created = since = None
        if first:

            def ask_of_the_first(pipe: Pipeline) -> None:
                pipe.hget(queues.job_key(first[0].decode()), "created")
                pipe.zscore(queues.backlog_key(name), first[0])
                pipe.zscore(queues.held_key(name), first[0])

            created, counted, kept = read_at_once(self._client, ask_of_the_first)
            since = counted or kept
        return QueueState(
            name=name,
            paused=bool(paused),
            waiting=waiting,
            running=backlog + held - waiting,
            next_created_at=None if created is None else int(created) / 1000,
            next_waits_since=None if since is None else since / 1000,
        )

    def totals(self) -> Totals:
        """What waits, runs and is scheduled, and what has ended so far."""
        names = (*queues.QUEUES, queues.WEBHOOKS)

        def ask(pipe: Pipeline) -> None:
            pipe.time()
            pipe.hgetall(queues.ENDED)
            pipe.info("memory")
            for key in (queues.LEASES, queues.SCHEDULED, queues.WEBHOOK_SCHEDULED, queues.DEAD):
                pipe.zcard(key)
            for name in names:
                pipe.zcard(queues.backlog_key(name))
            pipe.llen(queues.backlog_key(queues.BATCHES))

        found = read_at_once(self._client, ask)
        (seconds, micros), ended, info, in_flight, scheduled, webhooks, dead, *lengths = found
        return Totals(
            now=seconds + micros / 1e6,
            backlogs=dict(zip((*names, queues.BATCHES), lengths, strict=True)),
            in_flight=in_flight,
            scheduled=scheduled,
            webhooks_scheduled=webhooks,
            dead_letters=dead,
            ended={status.decode(): int(count) for status, count in ended.items()},
            memory=int(info["used_memory"]),
            memory_limit=int(info["maxmemory"]),
        )

    def pause(self, name: QueueName) -> None:
        """Let no further job of the queue begin; nothing changes if it is paused already."""
        self._set(name, paused=True)

    def resume(self, name: QueueName) -> None:
        """Let the queue go on where it stood; nothing changes if it is not paused."""
        self._set(name, paused=False)

    def _set(self, name: QueueName, *, paused: bool) -> None:
        with redis_errors():
            self._scripts.pause(args=[name, int(paused)])
