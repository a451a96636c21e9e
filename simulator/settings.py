"""The behaviour that holds for every call, set at the start and changed by ``POST /control``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any


@dataclass(slots=True)
class Settings:
    """How every call behaves; raises ValueError when a value makes no sense.

    latency: seconds before an answer starts, failures included.
    tokens_per_second: speed of the output after the latency; None means at once.
    error_rate: the probability (0 to 1) that a call answers 500.
    down: every call under ``/v1`` answers 503 at once.
    arrivals: the time of each call's arrival is kept, for ``GET /arrivals``.
    chat_alone: ``/v1/responses`` answers 404, as an LLM does that has no Responses API.
    """

    latency: float = 0.0
    tokens_per_second: float | None = None
    error_rate: float = 0.0
    down: bool = False
    arrivals: bool = False
    chat_alone: bool = False

    def __post_init__(self) -> None:
        if not (_is_number(self.latency) and self.latency >= 0):
            raise ValueError("latency must be a number of seconds, 0 or more")
        if self.tokens_per_second is not None and not (
            _is_number(self.tokens_per_second) and self.tokens_per_second > 0
        ):
            raise ValueError("tokens_per_second must be a number above 0, or null for no limit")
        if not (_is_number(self.error_rate) and 0 <= self.error_rate <= 1):
            raise ValueError("error_rate must be a number from 0 to 1")
        if not isinstance(self.down, bool):
            raise ValueError("down must be true or false")
        if not isinstance(self.arrivals, bool):
            raise ValueError("arrivals must be true or false")
        if not isinstance(self.chat_alone, bool):
            raise ValueError("chat_alone must be true or false")

    def update(self, changes: Mapping[str, Any]) -> None:
        """Apply all of the named changes, or none and raise ValueError when one of them is unknown or wrong."""
        current = asdict(self)
        if unknown := changes.keys() - current.keys():
            raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}; known: {', '.join(current)}")
        for name, value in asdict(Settings(**{**current, **changes})).items():
            setattr(self, name, value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
