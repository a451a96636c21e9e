"""Queues as an operator sees them: how long they are, and whether they are paused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from redis import Redis

from jobs import queues
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
        with redis_errors(), self._client.pipeline(transaction=True) as pipe:
            pipe.sismember(queues.PAUSED, name)
            pipe.zcard(queues.waiting_key(name))
            pipe.zcard(queues.backlog_key(name))
            pipe.zcard(queues.held_key(name))
            pipe.zrange(queues.waiting_key(name), 0, 0)
            paused, waiting, backlog, held, first = pipe.execute()
            created = self._client.hget(queues.job_key(first[0].decode()), "created") if first else None
        return QueueState(
            name=name,
            paused=bool(paused),
            waiting=waiting,
            running=backlog + held - waiting,
            next_created_at=None if created is None else int(created) / 1000,
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
