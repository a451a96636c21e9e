"""How much of a batch may be fed, for what there is of it and of the others."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from jobs.batch_load import PORTION, Load, Room

MB = 1024 * 1024


def load(**changes: Any) -> Load:
    counts = {"window": 5000, "ended": 0, "alive": 0, "answered": 0, "told": 0, "batches": 1}
    sizes = {"ended_bytes": 0, "alive_bytes": 0, "told_bytes": 0, "all_bytes": 0, "max_bytes": 256 * MB}
    return Load(**(counts | sizes | changes))


def test_a_batch_has_a_quarter_of_the_bytes_at_most() -> None:
    """And less where there are more than four."""
    assert load().room == Room(5000, 64 * MB)
    assert load(batches=4).room == Room(5000, 64 * MB)
    assert load(batches=16).room == Room(5000, 16 * MB)


def test_it_is_fed_when_there_is_enough_room_to_be_worth_while() -> None:
    """Half of its window, and a quarter of its bytes; else each line that ends would have the file read again."""
    assert load(alive=2501).room is None
    assert load(alive=2500).room == Room(2500, 64 * MB)
    assert load(alive=1, alive_bytes=49 * MB).room is None
    assert load(alive=1, alive_bytes=47 * MB).room == Room(4999, 17 * MB)
    assert load(alive=1, alive_bytes=40 * MB, ended=1, ended_bytes=10 * MB).room is None


def test_results_that_are_to_be_expected_take_room() -> None:
    """As much as those before them brought."""
    known = {"answered": 9, "told": 10, "told_bytes": 10 * MB}
    assert load(**known).room == Room(5000, 64 * MB, MB)
    assert load(alive=40, **known).room == Room(4960, 24 * MB, MB)
    assert load(alive=60, **known).room is None


def test_the_first_of_embeddings_are_few() -> None:
    """Until one has been answered."""
    assert load(unforeseen=True).room == Room(PORTION, 64 * MB)
    assert load(unforeseen=True, alive=PORTION).room is None
    assert load(unforeseen=True, alive=20, answered=1, told=1, told_bytes=1000).room is not None


def test_others_leave_it_little_but_not_nothing() -> None:
    """All batches together keep to the limit, but for a portion of each that has nothing."""
    assert load(all_bytes=226 * MB).room == Room(5000, 30 * MB)
    assert not load(all_bytes=226 * MB).crowded
    full = load(all_bytes=300 * MB)
    assert (full.room, full.crowded) == (Room(PORTION, MB), True)
    assert load(all_bytes=300 * MB, alive=1).room is None


def test_what_is_worth_a_part() -> None:
    """500 lines, or a quarter of the bytes it may have."""
    assert not load(ended=499).worth_a_part(500)
    assert load(ended=500).worth_a_part(500)
    assert load(ended=1, ended_bytes=16 * MB).worth_a_part(500)
    assert load(ended=2, window=4).worth_a_part(500)
    assert not load().worth_a_part(500)


numbers = st.integers(0, 10_000)
sizes = st.integers(0, 300 * MB)


@given(
    *(numbers, numbers, sizes, sizes, numbers, numbers, sizes),
    sizes,
    st.integers(MB, 300 * MB),
    st.integers(0, 10_000),
    st.integers(2, 10_000),
    st.booleans(),
)
def test_no_batch_is_stuck(
    ended: int,
    alive: int,
    ended_bytes: int,
    alive_bytes: int,
    answered: int,
    failed: int,
    told_bytes: int,
    others: int,
    max_bytes: int,
    batches: int,
    window: int,
    unforeseen: bool,
) -> None:
    """Where nothing of it runs, whose end would wake it, it can be fed, or has results to write."""
    one = load(
        window=window,
        ended=ended,
        alive=alive,
        ended_bytes=ended_bytes if ended else 0,
        alive_bytes=alive_bytes if alive else 0,
        answered=answered,
        told=answered + failed,
        told_bytes=told_bytes,
        all_bytes=others,
        max_bytes=max_bytes,
        batches=batches,
        unforeseen=unforeseen,
    )
    room = one.room
    assert alive or ended or room is not None
    assert room is None or (room.lines > 0 and room.bytes > 0)
    assert room is None or room.lines + alive <= window
