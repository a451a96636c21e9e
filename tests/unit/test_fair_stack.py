"""The pool of connections under more callers than it has connections for."""

from __future__ import annotations

import contextlib
import threading
from queue import Empty, Full

import gevent
import pytest
import redis

from jobs.fair_stack import FairStack
from jobs.redis_clients import NotSent, api_client
from jobs.settings import Settings
from tests.processes import eventually


def test_the_last_in_is_the_first_out() -> None:
    """So that as few connections as possible are in use; and there is a bound."""
    stack = FairStack(2)
    stack.put_nowait("old")
    stack.put_nowait("new")
    with pytest.raises(Full):
        stack.put_nowait("third")
    assert [stack.get(), stack.get()] == ["new", "old"]
    with pytest.raises(Empty):
        stack.get(block=False)
    with pytest.raises(Empty):
        stack.get(timeout=0.01)


def test_who_has_waited_longest_is_served_first() -> None:
    """What comes back is handed to the first that waits, and cannot be taken by one that asks just then."""
    stack, served = FairStack(1), []

    def wait(name: str) -> None:
        served.append((name, stack.get(timeout=10)))

    waiting = [threading.Thread(target=wait, args=(name,)) for name in ("first", "second")]
    for number, thread in enumerate(waiting):
        thread.start()
        eventually(lambda number=number: len(stack._waiting) == number + 1, within=10)
    stack.put_nowait(1)
    with pytest.raises(Empty):
        stack.get(block=False)
    waiting[0].join(10)
    stack.put_nowait(2)
    waiting[1].join(10)
    assert served == [("first", 1), ("second", 2)]


def test_who_gives_up_leaves_what_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose deadline ran out in the moment when it was served does not take a connection along."""

    class Deadline(FairStack):
        def _forget(self, waiter: object) -> bool:
            self.put_nowait("one")
            return super()._forget(waiter)  # type: ignore[arg-type]

    stack = Deadline(1)
    monkeypatch.setattr("jobs.fair_stack.threading.Event", _Interrupted)
    with pytest.raises(gevent.Timeout):
        stack.get(timeout=10)
    assert stack.get(block=False) == "one"


class _Interrupted:
    """An event whose waiter is interrupted, served or not."""

    def __init__(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        raise gevent.Timeout

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set


def test_more_callers_than_connections_all_have_their_turn(redis_url: str) -> None:
    """Two hundred threads that never stop asking share four connections, and none waits for a second."""
    settings = Settings(redis_url=redis_url, redis_max_connections=4)
    failed: list[Exception] = []
    with contextlib.closing(api_client(settings)) as client:

        def ask() -> None:
            try:
                for _ in range(20):
                    client.ping()
            except redis.RedisError as error:
                failed.append(error)

        threads = [threading.Thread(target=ask) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert failed == []


def test_no_free_connection_means_that_nothing_was_sent(redis_url: str) -> None:
    """The caller may then tell for sure that its job was not made."""
    with contextlib.closing(api_client(Settings(redis_url=redis_url, redis_max_connections=4))) as client:
        pool = client.connection_pool
        taken = [pool.get_connection() for _ in range(4)]
        with pytest.raises(NotSent):
            client.ping()
        pool.release(taken[0])
        assert client.ping()


def test_a_connection_that_was_closed_while_it_was_idle_is_not_used(redis_url: str) -> None:
    """Redis closes what is idle for too long, or restarts: the next command goes over a new connection."""
    with (
        contextlib.closing(api_client(Settings(redis_url=redis_url))) as client,
        redis.Redis.from_url(redis_url) as other,
    ):
        number = client.client_id()
        (connection,) = client.connection_pool._connections
        other.client_kill_filter(_id=str(number))
        # As if its last answer were long ago.
        connection.next_health_check -= 1
        assert client.client_id() != number
