"""What follows from a try to deliver."""

from __future__ import annotations

import pytest

from worker.webhooks.policy import RetrySchedule
from worker.webhooks.sender import Answer
from worker.webhooks.slots import Slots

SCHEDULE = RetrySchedule((5, 300, 1800))
DAY = 24 * 3600.0


def failed(status: int | None = 500, *, retry_after: float | None = None) -> Answer:
    """A try that did not go well."""
    return Answer(status, "http_status" if status else "timeout", retry_after=retry_after)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
@pytest.mark.parametrize("before", [0, 2, 3, 100])
def test_a_2xx_is_success(status: int, before: int) -> None:
    """A good answer ends a delivery, at the first try and at any later one."""
    assert SCHEDULE.after(Answer(status, None), before) == ("succeeded", 0.0)


@pytest.mark.parametrize("before", [0, 2, 3, 100])
def test_a_410_is_for_good(before: int) -> None:
    """A receiver that is gone is not asked again, whatever it says of later."""
    assert SCHEDULE.after(failed(410, retry_after=60), before) == ("gone", 0.0)


@pytest.mark.parametrize("status", [None, 301, 400, 401, 404, 408, 429, 500, 503])
def test_all_else_is_retried_as_long_as_there_are_delays(status: int | None) -> None:
    """There is one try more than there are delays; each delay is a fifth more or less at most, at random."""
    for before, base in enumerate(SCHEDULE.delays):
        tries = [SCHEDULE.after(failed(status), before) for _ in range(200)]
        assert {verdict for verdict, _ in tries} == {"retry"}
        delays = [delay for _, delay in tries]
        assert 0.8 * base <= min(delays) < 0.95 * base
        assert 1.05 * base < max(delays) <= 1.2 * base
    assert SCHEDULE.after(failed(status), 3) == ("failed", 0.0)
    assert SCHEDULE.after(failed(status), 4) == ("failed", 0.0)


def test_without_delays_there_is_one_try() -> None:
    """An empty schedule is no retry."""
    assert RetrySchedule(()).after(failed(), 0) == ("failed", 0.0)


@pytest.mark.parametrize(("asked", "least", "most"), [(60, 60, 60), (0, 4, 6), (3, 4, 6), (10 * DAY, DAY, DAY)])
def test_the_receiver_may_ask_for_more_time(asked: float, least: float, most: float) -> None:
    """Retry-After is honoured where it is later than our own delay, up to a day."""
    verdict, delay = SCHEDULE.after(failed(429, retry_after=asked), 0)
    assert verdict == "retry"
    assert least <= delay <= most


def test_the_receiver_cannot_ask_for_more_tries() -> None:
    """Retry-After at the last try brings no other."""
    assert SCHEDULE.after(failed(503, retry_after=60), 3) == ("failed", 0.0)


def test_slots_are_counted_apart() -> None:
    """Slow deliveries take none of the other slots, and one that turns out slow moves as long as there is room."""
    slots = Slots(2, 1)
    assert slots.free == (2, 1)
    slots.take(slow=False)
    slots.take(slow=False)
    assert slots.free == (0, 1)
    assert slots.turn_slow()
    assert slots.free == (1, 0)
    assert not slots.turn_slow()
    assert slots.free == (1, 0)
    slots.leave(slow=True)
    slots.leave(slow=False)
    assert slots.free == (2, 1)
