"""Token counts of a batch's lines."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.batch_usage import NO_USAGE, BatchUsage

RESPONSE = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 30,
}
CHAT = {
    "prompt_tokens": 10,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens": 20,
    "completion_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 30,
}


@pytest.mark.parametrize(
    ("told", "counted"),
    [
        (RESPONSE, BatchUsage(10, 4, 20, 5, 30)),
        (CHAT, BatchUsage(10, 4, 20, 5, 30)),
        ({"prompt_tokens": 7, "total_tokens": 7}, BatchUsage(7, 0, 0, 0, 7)),
        ({"prompt_tokens": 7, "completion_tokens": 2}, BatchUsage(7, 0, 2, 0, 9)),
        (CHAT | {"prompt_tokens_details": None}, BatchUsage(10, 0, 20, 5, 30)),
        (None, NO_USAGE),
        ({}, NO_USAGE),
        ({"prompt_tokens": "7", "completion_tokens": 2.5, "prompt_tokens_details": [1]}, NO_USAGE),
        ({"prompt_tokens": -7, "completion_tokens": True, "total_tokens": 10**18}, NO_USAGE),
    ],
)
def test_what_the_llm_told_is_counted_under_the_names_of_a_batch(told: Any, counted: BatchUsage) -> None:
    """Each endpoint has its own words for it; what is no count counts as nothing."""
    assert BatchUsage.of(told) == counted


def test_counts_add_up() -> None:
    """Each by itself."""
    assert BatchUsage(1, 2, 3, 4, 5) + NO_USAGE + BatchUsage(10, 20, 30, 40, 50) == BatchUsage(11, 22, 33, 44, 55)
