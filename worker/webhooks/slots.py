"""How many webhooks are on their way at once, with room of its own for those to slow hosts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Slots:
    """``size`` slots, and ``slow_size`` more for slow hosts, all of them together."""

    size: int
    slow_size: int
    fast: int = 0
    slow: int = 0

    @property
    def free(self) -> tuple[int, int]:
        """Free slots: for any host, and for slow ones."""
        return max(0, self.size - self.fast), max(0, self.slow_size - self.slow)

    def take(self, *, slow: bool) -> None:
        """Use a slot."""
        self.slow += slow
        self.fast += not slow

    def leave(self, *, slow: bool) -> None:
        """Give a slot back."""
        self.slow -= slow
        self.fast -= not slow

    def turn_slow(self) -> bool:
        """Move one that turned out slow to the slow ones, so that it holds up no other; False if there is no room."""
        if self.slow >= self.slow_size:
            return False
        self.fast -= 1
        self.slow += 1
        return True
