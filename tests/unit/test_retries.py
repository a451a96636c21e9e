"""When a failed attempt is repeated."""

from __future__ import annotations

import pytest

from jobs.errors import LLMRateLimited, LLMRejected, LLMUnavailable
from jobs.settings import Settings
from worker.retries import RetryPolicy

POLICY = RetryPolicy(max_attempts=1000, base=1, longest=60, retry_after_longest=600, in_slot=2)


def test_the_backoff_grows_to_its_limit() -> None:
    """The delay is drawn from a range that doubles with each attempt, up to the limit, however many there were."""
    for attempt, bound in ((1, 1), (2, 2), (4, 8), (7, 60), (999, 60)):
        delays = [POLICY.delay(attempt, LLMUnavailable("x")) for _ in range(200)]
        assert all(delay is not None and 0 <= delay <= bound for delay in delays)
        assert max(delay or 0 for delay in delays) > bound / 2


def test_what_the_llm_asks_for_comes_first() -> None:
    """A Retry-After is waited out in full, with a little jitter on top, up to a limit."""
    for asked, waited in ((30, 30), (0, 0), (10_000, 600)):
        delay = POLICY.delay(3, LLMRateLimited("x", retry_after=asked))
        assert delay is not None
        assert waited <= delay <= waited + 1


def test_some_failures_are_final() -> None:
    """The last attempt and a final error have no next one."""
    assert POLICY.delay(1000, LLMUnavailable("x")) is None
    assert POLICY.delay(1, LLMRejected("x")) is None


def test_the_settings_describe_the_policy() -> None:
    """The policy has the limits of the settings."""
    policy = RetryPolicy.from_settings(Settings(max_attempts=7, retry_base=0.5))
    assert (policy.max_attempts, policy.base) == (7, pytest.approx(0.5))
