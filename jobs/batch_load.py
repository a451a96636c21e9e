"""How much of a batch is in Redis, and how much more of it may be fed.

Pure: the numbers come from ``BatchStore.load``. Bounded are lines, and bytes: of requests that wait, of results that
stand in no part yet, and of results that are to be expected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Lines that become jobs in one step: it holds Redis up for some ten milliseconds.
PORTION: Final = 50
#: Bytes of requests in one step.
PORTION_BYTES: Final = 1024 * 1024
#: A batch has at most this share of the bytes that all have together, so that one does not keep the others waiting.
SHARE: Final = 1 / 4
#: Of its own share: with so much of it in results they are written into a part, and with so much free it is fed.
WORTH: Final = 1 / 4


@dataclass(frozen=True, slots=True)
class Room:
    """How much may be fed now; the line that takes the last byte may be longer than that."""

    lines: int
    bytes: int
    #: What a line takes besides its request: the result that is to be expected of it.
    line_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What there is of a batch in Redis at one moment, and of all batches."""

    #: How many of its jobs there may be at once.
    window: int
    #: Lines that have ended and stand in no part yet, and jobs that have not ended.
    ended: int
    alive: int
    #: Bytes of what the former have brought, and of what the latter ask.
    ended_bytes: int
    alive_bytes: int
    #: How many lines have been answered, how many have ended, and the bytes of what all of these have brought.
    answered: int
    told: int
    told_bytes: int
    #: Bytes of all batches together, what they may be at most, and how many batches there are.
    all_bytes: int
    max_bytes: int
    batches: int
    #: Whether the results are of any size: a line of embeddings may bring a thousand times what it asks.
    unforeseen: bool = False

    @property
    def share(self) -> int:
        """What this batch may take of the bytes: as much as any other one."""
        return round(self.max_bytes * min(SHARE, 1 / max(1, self.batches)))

    @property
    def room(self) -> Room | None:
        """How much may be fed; None if that is too little to be worth while.

        A batch that has nothing in Redis may always be fed a little, so that none waits for good.
        """
        expected = self.told_bytes // self.told if self.told else 0
        lines = self.window - self.alive - max(0, self.ended - self.window)
        if self.unforeseen and not self.answered:
            lines = min(lines, PORTION - self.alive)
        left = min(self._own_left(expected), self.max_bytes - self.all_bytes)
        worth = self.share * WORTH
        if not self.alive and not self.ended and left < worth:
            return Room(min(lines, PORTION), min(round(worth), PORTION_BYTES), expected)
        if lines <= 0 or left <= 0 or (self.alive and (2 * self.alive > self.window or left < worth)):
            return None
        return Room(lines, left, expected)

    @property
    def crowded(self) -> bool:
        """Whether it is the other batches that leave it no room."""
        return self.max_bytes - self.all_bytes < self.share * WORTH

    def worth_a_part(self, lines: int) -> bool:
        """Whether so much has ended that it shall go into a part before more is fed: so many lines, or many bytes."""
        return self.ended >= min(lines, max(1, self.window // 2)) or (
            self.ended > 0 and self.ended_bytes >= self.share * WORTH
        )

    def _own_left(self, expected: int) -> int:
        return self.share - self.alive_bytes - self.ended_bytes - self.alive * expected
