"""What the simulator saw: the numbers behind ``GET /stats``."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from simulator.wire import JsonObject


@dataclass(slots=True)
class Ticket:
    """One call in flight; `settled` says that its end is decided, so that a lost connection is no abort any more."""

    settled: bool = False


@dataclass(slots=True)
class Stats:
    """Counts of the POST calls to the four endpoints since the start or the last reset.

    calls: every call, whatever its outcome. in_flight, peak: calls without an answer yet, now and at most.
    aborted: calls whose client closed the connection before the answer.
    incomplete: those of them whose body had not come whole yet, so that no LLM would have begun them.
    arrivals: when the first call for each prompt hash came (Unix seconds), where the settings ask for it.
    by_prompt, by_model: calls for each prompt hash and model name; a call with an invalid or incomplete
    body is in neither.
    """

    calls: int = 0
    in_flight: int = 0
    peak: int = 0
    aborted: int = 0
    incomplete: int = 0
    by_prompt: Counter[str] = field(default_factory=Counter)
    by_model: Counter[str] = field(default_factory=Counter)
    arrivals: dict[str, float] = field(default_factory=dict)
    _attempts: Counter[tuple[str, str]] = field(default_factory=Counter)

    @contextmanager
    def call(self) -> Iterator[Ticket]:
        """Count one call for as long as the context lasts, and an abort when its client goes away first."""
        ticket = Ticket()
        self.calls += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            yield ticket
        except (asyncio.CancelledError, ConnectionError):
            if not ticket.settled:
                self.aborted += 1
            raise
        finally:
            self.in_flight -= 1

    @contextmanager
    def body(self) -> Iterator[None]:
        """Count a call as incomplete if its client goes away while the context, which reads its body, lasts."""
        try:
            yield
        except (asyncio.CancelledError, ConnectionError):
            self.incomplete += 1
            raise

    def identify(self, model: str, key: str) -> None:
        """Add a call to the counts of its model and prompt hash, once its body is known."""
        self.by_model[model] += 1
        self.by_prompt[key] += 1

    def attempt(self, model: str, key: str) -> int:
        """Return which call this is, from 1, among those of a flaky model for one prompt hash."""
        self._attempts[model, key] += 1
        return self._attempts[model, key]

    def reset(self) -> None:
        """Forget everything but the calls that are in flight, from which the new peak starts."""
        self.calls = self.aborted = self.incomplete = 0
        self.peak = self.in_flight
        for counts in (self.by_prompt, self.by_model, self._attempts):
            counts.clear()
        self.arrivals.clear()

    def snapshot(self, *, detail: bool = True) -> JsonObject:
        """Return the body of ``GET /stats``; without detail the totals alone, which are cheap to ask for often."""
        totals: JsonObject = {
            "calls": self.calls,
            "in_flight": self.in_flight,
            "peak": self.peak,
            "aborted": self.aborted,
            "incomplete": self.incomplete,
        }
        return totals | {"by_prompt": self.by_prompt, "by_model": self.by_model} if detail else totals
