"""Those who follow streams are woken, and share one connection."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import redis

from api.wakeups import Wakeups
from jobs.queues import stream_key
from jobs.redis_clients import listener_client
from jobs.settings import Settings
from tests.processes import eventually


@pytest.fixture(scope="module")
def wakeups(redis_url: str) -> Wakeups:
    # Its listener runs until the process ends, so the module shares one.
    return Wakeups(listener_client(Settings(redis_url=redis_url)))


@pytest.fixture
def quiet(wakeups: Wakeups) -> Iterator[Wakeups]:
    """Nobody is left when a test has ended."""
    yield wakeups
    assert len(wakeups) == 0


def channels(client: redis.Redis) -> int:
    """Channels of all subscribers, the anchor not counted."""
    return len([name for name in client.pubsub_channels(stream_key("*")) if name.decode() != stream_key("")])


def test_a_follower_is_woken_and_no_other(quiet: Wakeups, redis_client: redis.Redis) -> None:
    """Each job has its channel, which is left with its last follower."""
    one, two, other = threading.Event(), threading.Event(), threading.Event()
    with quiet.watch("job_a", one), quiet.watch("job_b", other):
        with quiet.watch("job_a", two):
            for event in (one, two, other):
                event.clear()
            assert redis_client.publish(stream_key("job_a"), "") == 1, "one connection for both"
            assert one.wait(5)
            assert two.wait(5)
            assert not other.is_set()
        assert redis_client.publish(stream_key("job_a"), "") == 1
    eventually(lambda: channels(redis_client), lambda count: count == 0)


def test_what_comes_after_watch_began_is_not_missed(quiet: Wakeups, redis_client: redis.Redis) -> None:
    """Within the block the channel is held, so that reading first thing misses nothing."""
    for number in range(20):
        event = threading.Event()
        with quiet.watch(f"job_{number}", event):
            event.clear()
            redis_client.publish(stream_key(f"job_{number}"), "")
            assert event.wait(5)


def test_a_lost_connection_is_made_again(quiet: Wakeups, redis_client: redis.Redis) -> None:
    """All who follow are woken, since something may have been missed, and their channels are asked for again."""
    event = threading.Event()
    with quiet.watch("job_a", event):
        event.clear()
        redis_client.client_kill_filter(_type="pubsub")
        assert event.wait(5)
        eventually(lambda: redis_client.publish(stream_key("job_a"), ""))
        event.clear()
        redis_client.publish(stream_key("job_a"), "")
        assert event.wait(5)


def test_all_can_be_woken(quiet: Wakeups) -> None:
    """As when the process stops."""
    event = threading.Event()
    with quiet.watch("job_a", event):
        event.clear()
        quiet.wake_all()
        assert event.is_set()
