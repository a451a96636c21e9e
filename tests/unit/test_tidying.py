"""Workers keep the storage tidy, whatever goes wrong meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from jobs.errors import StorageUnavailable
from worker.tidying import tidy


class Over(Exception):
    """What a test ends the loop by."""


@dataclass
class FakeFiles:
    """Tells what was asked of it, and has trouble as it is told to."""

    trouble: list[Exception | None]
    asked: list[str] = field(default_factory=list)

    @property
    def storage(self) -> FakeFiles:
        """The storage."""
        return self

    def purge_expired(self) -> int:
        """Purge."""
        self.asked.append("purge")
        error = self.trouble.pop(0) if self.trouble else None
        if error is not None:
            raise error
        return 0

    def sweep(self) -> int:
        """Sweep."""
        self.asked.append("sweep")
        return 1


def loops(files: Any, rounds: int) -> list[float]:
    """Let it go round so often; answer how long it slept each time."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) > rounds:
            raise Over

    with pytest.raises(Over):
        tidy(files, sleep)
    return slept


def test_it_looks_every_minute_and_sweeps_every_hour() -> None:
    """Contents are deleted in each round, not at the same time everywhere; what dead writers left, now and then."""
    files = FakeFiles([])
    slept = loops(files, 3)
    assert files.asked == ["purge", "sweep", "purge", "purge"]
    assert 0 <= slept[0] <= 60
    assert all(54 <= seconds <= 66 for seconds in slept[1:])


def test_trouble_ends_nothing() -> None:
    """A storage that is away, and even a fault of ours, is logged, and the next round goes on."""
    files = FakeFiles([StorageUnavailable("away"), KeyError("a fault"), None])
    loops(files, 3)
    assert files.asked == ["purge", "purge", "purge", "sweep"]
