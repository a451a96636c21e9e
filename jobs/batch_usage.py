"""What the lines of a batch have cost, in tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any, Final

#: What an LLM tells beyond this is nonsense, and a batch of such counts would overflow Redis's integers.
_MAX_COUNT: Final = 10**12


@dataclass(frozen=True, slots=True)
class BatchUsage:
    """Token counts, as OpenAI's Batch has them (openai ``types/batch_usage.py``)."""

    input_tokens: int = 0
    #: Those of the input that came from a cache.
    cached_tokens: int = 0
    output_tokens: int = 0
    #: Those of the output that were thoughts.
    reasoning_tokens: int = 0
    total_tokens: int = 0

    @classmethod
    def of(cls, told: Mapping[str, Any] | None) -> BatchUsage:
        """What an LLM has told of one call, in the words of responses or of the other endpoints; 0 where it has not."""
        read, written = (
            _count(told, "input_tokens", "prompt_tokens"),
            _count(told, "output_tokens", "completion_tokens"),
        )
        return cls(
            input_tokens=read,
            cached_tokens=_detail(told, "cached_tokens", "input_tokens_details", "prompt_tokens_details"),
            output_tokens=written,
            reasoning_tokens=_detail(told, "reasoning_tokens", "output_tokens_details", "completion_tokens_details"),
            total_tokens=_count(told, "total_tokens") or read + written,
        )

    def __add__(self, other: BatchUsage) -> BatchUsage:
        return BatchUsage(*map(sum, zip(astuple(self), astuple(other), strict=True)))


NO_USAGE: Final = BatchUsage()


def _detail(told: Mapping[str, Any] | None, name: str, *groups: str) -> int:
    return next((count for group in groups if (count := _count(told and told.get(group), name))), 0)


def _count(told: Any, *names: str) -> int:
    """The first of these that is a count."""
    found = [told.get(name) for name in names] if isinstance(told, dict) else []
    return next((value for value in found if type(value) is int and 0 < value <= _MAX_COUNT), 0)
