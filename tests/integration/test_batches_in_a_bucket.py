"""Batches whose files are in a bucket: fed by ranged reads, gathered in parts, and joined in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import processes
from tests.integration.batching import check_books, ended, line, read, start
from tests.integration.conftest import QUICK_RETRIES, own_database
from tests.integration.driving import unique
from tests.processes import Stack, eventually

#: Many portions and parts.
WINDOW = 20


@dataclass(frozen=True)
class Bucket:
    """A stack whose files are in a bucket, and what the bucket was asked for."""

    stack: Stack
    log: Path

    def asked(self, method: str, batch_id: str) -> set[str]:
        """The parts of a batch that have been written (PUT) or read (GET)."""
        pattern = rf"{method} /promptq/some/prefix/(batches/{batch_id}/[^ ?]+)"
        return set(re.findall(pattern, self.log.read_text()))


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """One for this module."""
    folder = tmp_path_factory.mktemp("s3")
    settings = {"PROMPTQ_BATCH_WINDOW": str(WINDOW), **QUICK_RETRIES, **own_database(6)}
    with (
        processes.s3_server(folder) as s3,
        processes.stack(tmp_path_factory.mktemp("batches-on-s3"), "--no-flower", **s3, **settings) as stack,
    ):
        yield Bucket(stack, folder / "s3.log")


@pytest.mark.timeout(240)
def test_two_batches_at_once_from_a_bucket_to_a_bucket(bucket: Bucket) -> None:
    """Each line of both stands once in their files, bad ones too; one of them has results of more than one request."""
    large = [line(f"large-{number}", unique() + "x" * 100_000) for number in range(100)]
    small = [line(f"small-{number}", unique()) for number in range(150)]
    small += [b"", b'{"custom_id": "broken"', line("refused", unique(), model="sim-400")]
    with bucket.stack.client() as client:
        made = [start(client, lines)["id"] for lines in (large, small)]
        batches = [ended(client, batch_id, within=150) for batch_id in made]
        assert [batch["status"] for batch in batches] == ["completed", "completed"]
        done, failed = check_books(client, batches[0], [f"large-{number}" for number in range(100)])
        assert failed == []
        assert sum(len(one["response"]["body"]["choices"][0]["message"]["content"]) for one in done) > 10_000_000
        names = [f"small-{number}" for number in range(150)]
        _, failed = check_books(client, batches[1], [*names, "broken", "refused"])
        assert {one["custom_id"] for one in failed} == {"broken", "refused"}
    for batch_id in made:
        parts = bucket.asked("PUT", batch_id)
        assert len(parts) >= 100 // WINDOW
        assert bucket.asked("GET", batch_id) == parts, "each is read to be joined"


@pytest.mark.timeout(120)
def test_a_batch_from_a_bucket_that_is_cancelled(bucket: Bucket) -> None:
    """What was never fed is told of from there, too."""
    lines = [line(f"quick-{number}", unique()) for number in range(10)]
    lines += [line(f"hang-{number}", unique(), model="sim-hang") for number in range(100)]
    with bucket.stack.client() as client:
        batch_id = start(client, lines)["id"]
        eventually(lambda: read(client, batch_id)["request_counts"]["completed"] == 10, within=30)
        client.post(f"/v1/batches/{batch_id}/cancel").raise_for_status()
        batch = ended(client, batch_id)
        assert batch["status"] == "cancelled"
        done, failed = check_books(client, batch, [one["custom_id"] for one in lines])  # type: ignore[index]
    assert len(done) == 10
    assert {one["error"]["code"] for one in failed} == {"batch_cancelled"}
