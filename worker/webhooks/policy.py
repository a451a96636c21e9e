"""What follows from a try: whether there is another, and when."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from jobs.outbox import Verdict
from worker.webhooks.sender import Answer

_GONE: Final = 410
#: How far a delay may be off, either way, so that what failed together does not come back together.
_JITTER: Final = 0.2
#: Longest ``Retry-After`` that is honoured, in seconds.
_LONGEST: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """``delays``: seconds from each failed try to the next; after as many there is none."""

    delays: Sequence[float]

    @property
    def longest_gap(self) -> float:
        """Seconds that can lie between two tries of one delivery."""
        return _LONGEST + max(self.delays, default=0.0) * (1 + _JITTER)

    def after(self, answer: Answer, tries_before: int) -> tuple[Verdict, float]:
        """The verdict on a try, and the seconds until the next where there is one."""
        if answer.error is None:
            return "succeeded", 0.0
        if answer.status_code == _GONE:
            return "gone", 0.0
        if tries_before >= len(self.delays):
            return "failed", 0.0
        delay = self.delays[tries_before] * random.uniform(1 - _JITTER, 1 + _JITTER)
        return "retry", max(delay, min(answer.retry_after or 0.0, _LONGEST))
