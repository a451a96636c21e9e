"""Faults at random, for as long as a soak lasts, and how long jobs take to recover from a killed worker."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import redis

from jobs import queues
from tests.faults.cluster import Cluster


@dataclass(slots=True)
class _Victim:
    """A job whose worker was killed."""

    job_id: str
    killed_ms: int


@dataclass(slots=True, kw_only=True)
class Chaos:
    """Does one fault after another until it is told to stop; whatever it breaks, it starts again.

    ``hard``: Redis is killed (-9) and writes to disk before each answer, else it is stopped with SIGTERM.
    """

    cluster: Cluster
    chance: random.Random
    lease: float
    hard: bool
    workers: list[str] = field(default_factory=list)
    #: Faults done, by name.
    done: Counter[str] = field(default_factory=Counter)
    #: Seconds from the kill of a worker to the next claim (or end) of a job that it ran.
    recoveries: list[float] = field(default_factory=list)
    _names: Iterator[int] = field(default_factory=lambda: count(1))
    _victims: list[_Victim] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def start_worker(self) -> None:
        """Start another worker, under a name that no other had: what a killed one left running is known by its own."""
        name = f"w{next(self._names)}"
        self.cluster.start_worker(name)
        self.workers.append(name)

    def run(self) -> None:
        """Break something every few seconds."""
        faults: list[tuple[Callable[[], None], int]] = [
            (self.kill_worker, 5),
            (self.kill_api, 2),
            (self.kill_scheduler, 2),
            (self.cut_connections, 3),
            (self.freeze_worker, 1),
            (self.restart_redis, 2),
            (self.freeze_redis, 1),
        ]
        steps, weights = zip(*faults, strict=True)
        while not self._stop.wait(self.chance.uniform(2, 8)):
            (fault,) = self.chance.choices(steps, weights)
            fault()
            self.done[fault.__name__] += 1

    def stop(self) -> None:
        """Do no further fault."""
        self._stop.set()

    def kill_worker(self) -> None:
        """kill -9 of a worker with calls in flight; another takes its place soon."""
        name = self.workers.pop(self.chance.randrange(len(self.workers)))
        with self.cluster.store() as store:
            running = _jobs_of(store, name)
            self.cluster.parts[name].kill()
            seconds, micros = store.time()
            self._victims += [_Victim(job_id, seconds * 1000 + micros // 1000) for job_id in running]
        time.sleep(self.chance.uniform(0, 2))
        self.start_worker()

    def kill_api(self) -> None:
        """kill -9 of the API, with all its processes."""
        self.cluster.parts["api"].kill_group()
        self.cluster.start_api()

    def kill_scheduler(self) -> None:
        """kill -9 of one of the schedulers."""
        name = self.chance.choice(["scheduler", "scheduler-2"])
        self.cluster.parts[name].kill()
        time.sleep(self.chance.uniform(0, 3))
        self.cluster.start_scheduler(name)

    def cut_connections(self) -> None:
        """Every connection to Redis is cut by the server."""
        with self.cluster.store() as store:
            store.client_kill_filter(_type="normal")
            store.client_kill_filter(_type="pubsub")

    def freeze_worker(self) -> None:
        """SIGSTOP of a worker for longer than its leases hold."""
        part = self.cluster.parts[self.chance.choice(self.workers)]
        part.freeze()
        time.sleep(1.5 * self.lease)
        part.thaw()

    def restart_redis(self) -> None:
        """Redis ends, and comes back with what it has on disk."""
        part = self.cluster.parts["redis"]
        if self.hard:
            part.kill()
        else:
            part.stop()
        time.sleep(self.chance.uniform(0, 2))
        self.cluster.start_redis(fsync=self.hard)

    def freeze_redis(self) -> None:
        """SIGSTOP of Redis, at times for longer than a lease."""
        part = self.cluster.parts["redis"]
        part.freeze()
        time.sleep(self.chance.uniform(0.5, 1.5) * self.lease)
        part.thaw()

    def watch_recoveries(self, over: threading.Event) -> None:
        """Look after the jobs of killed workers until all is over."""
        while not over.is_set():
            try:
                with self.cluster.store() as store:
                    self._look_after(store)
            except redis.RedisError:  # a fault of ours: look again
                time.sleep(0.2)
            time.sleep(0.1)

    def _look_after(self, store: redis.Redis) -> None:
        for victim in list(self._victims):
            claimed, finished = store.hmget(queues.job_key(victim.job_id), "claimed", "finished")
            later = [int(at) for at in (claimed, finished) if at is not None and int(at) > victim.killed_ms]
            if later:
                self.recoveries.append((min(later) - victim.killed_ms) / 1000)
            if later or finished is not None:  # it may have ended in the very moment before the kill
                self._victims.remove(victim)


def _jobs_of(store: redis.Redis, worker: str) -> list[str]:
    """The jobs that this worker runs."""
    leased = [job_id.decode() for job_id in store.zrange(queues.LEASES, 0, -1)]
    with store.pipeline(transaction=False) as pipe:
        for job_id in leased:
            pipe.hget(queues.job_key(job_id), "worker")
        workers = pipe.execute()
    return [job_id for job_id, name in zip(leased, workers, strict=True) if name == worker.encode()]
