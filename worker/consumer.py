"""A Celery consumer for gevent: freed slots are refilled at once, and events and commands cost little.

Under gevent, Celery's own loop waits up to two seconds in ``drain_events`` once the worker is full: no BRPOP is
outstanding then, so nothing wakes it when a task ends (celery 5.7, ``celery/worker/loops.py``, ``synloop``). Here the
loop waits for an acknowledgement instead. docs/celery-refill.md has the details for a report upstream.

Celery gathers task events and sends them together where it has an event loop of its own; gevent "should actually
buffer" too, says a comment in ``celery/worker/consumer/events.py``. Here it does.

And it begins although Redis is full, which refuses what kombu notes and counts at the start.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gevent
import structlog
from celery import bootsteps
from celery.worker import loops, state
from celery.worker.consumer import Consumer
from celery.worker.consumer.events import Events
from celery.worker.consumer.heart import Heart
from gevent.event import Event
from kombu.transport.redis import Channel
from redis.exceptions import OutOfMemoryError

from jobs.queues import BULK, celery_queue

_log = structlog.get_logger("promptq.worker")

#: How long (seconds) an event may wait for others to go with it.
_GATHER = 0.5
#: Celery setting of ours: how many messages of bulk the worker takes at most; None where it serves bulk alone.
BULK_LIMIT = "promptq_bulk_limit"
_BULK = celery_queue(BULK)
#: How long (seconds) a worker that is full of bulk waits for other queues before it looks again whether it still is.
_SOON = 0.05


def _when_full(step: Callable[..., Any], otherwise: Any) -> Callable[..., Any]:
    """The step of kombu's, which does not keep a worker from starting where Redis is full."""

    @functools.wraps(step)
    def step_or_not(channel: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return step(channel, *args, **kwargs)
        except OutOfMemoryError:
            _log.warning("worker.redis_full", step=step.__name__)
            return otherwise

    return step_or_not


# A full Redis refuses SADD, also of a member that is there, and an old one refuses to count within MULTI. Celery would
# connect anew, and be refused anew, for as long as it is full, and what waits would wait. The table of bindings is for
# messages that are put back; one that gets lost is found and sent again (ADR 13). The length is told to nobody.
Channel._queue_bind = _when_full(Channel._queue_bind, None)  # type: ignore[method-assign]
Channel._size = _when_full(Channel._size, 0)  # type: ignore[method-assign]


class GatheredEvents(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """Makes the dispatcher that Celery has just started keep task events until some can be sent together."""

    # Started after the heart, and so stopped before it: it says that the worker is offline.
    requires = (Events, Heart)

    def start(self, consumer: Any) -> None:
        """Begin to gather; again after each new connection, which has a dispatcher of its own."""
        dispatcher = consumer.event_dispatcher
        dispatcher.buffer_group = frozenset({"task"})
        due: list[object] = []

        def flush() -> None:
            due.clear()
            dispatcher.flush()

        def flush_soon() -> None:
            if not due:
                due.append(gevent.spawn_later(_GATHER, flush))

        dispatcher.on_send_buffered = flush_soon

    def stop(self, consumer: Any) -> None:
        """Send what is left."""
        if consumer.event_dispatcher:
            consumer.event_dispatcher.flush()


class RefillingConsumer(Consumer):  # type: ignore[misc]  # celery has no types
    """Celery's consumer with an event loop that refills freed slots at once; set as ``worker_consumer``."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """Celery's own steps, and ours."""

        default_steps = (*Consumer.Blueprint.default_steps, GatheredEvents)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.hub is None:
            self.loop = refilling_loop


def refilling_loop(consumer: Any, connection: Any, task_consumer: Any, *args: Any, **kwargs: Any) -> None:
    """Run Celery's blocking loop on a connection that knows when waiting for messages is no use."""
    refilling = _RefillingConnection(connection, task_consumer.channel, consumer.app.conf.get(BULK_LIMIT))
    loops.synloop(consumer, refilling, task_consumer, *args, **kwargs)


class _RefillingConnection:
    """The broker connection, but for waiting: while no message may be taken, wait for a slot instead of the socket."""

    def __init__(self, connection: Any, channel: Any, bulk_limit: int | None) -> None:
        self._connection = connection
        self._channel = channel
        self._freed = Event()
        self._share = None if bulk_limit is None else _BulkShare(channel, bulk_limit)
        # kombu would put back, one after the other, all messages in hand when a connection is lost, though their jobs
        # run on; and write them to a file where it cannot. The scheduler finds the jobs that no message tells of.
        channel.do_restore = False
        channel.basic_ack = self._then_wake(channel.basic_ack)
        channel.basic_reject = self._then_wake(channel.basic_reject)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def drain_events(self, timeout: float) -> None:
        if state.should_stop is not None:
            # Celery's loop drains once more on its way out, which would take another message.
            return
        if self._channel.qos.can_consume():
            self._connection.drain_events(timeout=timeout)
            return
        self._freed.wait(timeout)
        self._freed.clear()

    def _then_wake(self, settle: Any) -> Any:
        def settle_and_wake(tag: Any, *args: Any, **kwargs: Any) -> Any:
            if self._share is not None:
                self._share.settled(tag)
            try:
                return settle(tag, *args, **kwargs)
            finally:
                self._freed.set()

        return settle_and_wake


#: Tags of the messages of bulk that this process has. Their tasks run on when the connection is lost that brought them.
_bulk_running: set[Any] = set()


class _BulkShare:
    """Keeps some slots free of bulk: at its limit, the worker does not ask for more of it.

    Stands in for the cycle in which kombu asks for queues.
    """

    def __init__(self, channel: Any, limit: int) -> None:
        self._limit = limit
        self._running = _bulk_running
        self._cycle = channel._queue_cycle
        self._ask, self._take = channel._brpop_start, channel.qos.append
        channel._queue_cycle, channel._brpop_start, channel.qos.append = self, self._ask_in_time, self._note

    def settled(self, tag: Any) -> None:
        """A message is done with."""
        self._running.discard(tag)

    def consume(self, number: int) -> Any:
        """The queues to ask for, as kombu's cycle has it."""
        queues = self._cycle.consume(number)
        return [name for name in queues if name != _BULK] if self._full else queues

    def update(self, queues: Any) -> None:
        """As kombu's cycle."""
        self._cycle.update(queues)

    def rotate(self, last_used: Any) -> Any:
        """As kombu's cycle."""
        return self._cycle.rotate(last_used)

    @property
    def _full(self) -> bool:
        return len(self._running) >= self._limit

    def _ask_in_time(self, timeout: float | None = None) -> Any:
        # A slot for bulk may be free soon; kombu cannot ask for more while it waits for an answer.
        return self._ask(_SOON if self._full else timeout)

    def _note(self, message: Any, tag: Any) -> Any:
        if message.delivery_info.get("routing_key") == _BULK:
            self._running.add(tag)
        return self._take(message, tag)
