"""When a failed attempt is repeated."""

from __future__ import annotations

import random
from dataclasses import dataclass

from jobs.errors import LLMError
from jobs.settings import Settings


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter; the LLM's ``Retry-After`` goes before it. All durations in seconds."""

    max_attempts: int
    base: float
    longest: float
    retry_after_longest: float
    #: A delay up to this is waited out in the slot.
    in_slot: float

    @classmethod
    def from_settings(cls, settings: Settings) -> RetryPolicy:
        """The policy that the settings describe."""
        return cls(
            settings.max_attempts,
            settings.retry_base,
            settings.retry_max,
            settings.retry_after_max,
            settings.retry_in_slot,
        )

    def delay(self, attempt: int, error: LLMError) -> float | None:
        """Seconds until the attempt after ``attempt`` (counted from 1); None if there shall be none."""
        if not error.retryable or attempt >= self.max_attempts:
            return None
        # A power beyond this is longer than any limit, and would overflow at last.
        backoff = random.uniform(0, min(self.longest, self.base * 2 ** min(attempt - 1, 32)))
        if error.retry_after is None:
            return backoff
        # The jitter on top keeps those who were told the same time from coming back together.
        return min(error.retry_after, self.retry_after_longest) + min(backoff, self.base)
