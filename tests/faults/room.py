"""What one test works with: the cluster in order, a client, a history; and how it concludes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import redis

from jobs import queues
from tests.faults.cluster import Cluster
from tests.faults.history import History, records_of
from tests.faults.submitting import Order, Submitter
from tests.integration.driving import calls_of, messages, read
from tests.processes import eventually
from tests.unit.making import check_invariants


@dataclass(frozen=True)
class Room:
    """A cluster without workers and without jobs."""

    cluster: Cluster
    client: httpx2.Client
    store: redis.Redis
    history: History
    submitter: Submitter

    def calls(self, orders: Sequence[Order]) -> list[int]:
        """How many LLM calls each order had."""
        return [calls_of(self.cluster, messages(order.prompt)) for order in orders]  # type: ignore[arg-type]

    def in_flight(self, count: int, *, within: float = 20.0) -> None:
        """Return once the LLM has so many calls."""
        eventually(lambda: self.cluster.stats()["in_flight"], lambda now: now == count, within=within)

    def record(self, job_id: str) -> dict[str, str]:
        """The job's record in Redis."""
        return {name.decode(): value.decode() for name, value in self.store.hgetall(queues.job_key(job_id)).items()}

    def numbers(self, job_ids: Sequence[str], name: str) -> list[int]:
        """A number in the records of these jobs: ``attempt``, ``strikes`` or ``hand_backs``."""
        return [int(self.record(job_id).get(name, 0)) for job_id in job_ids]

    def states(self, job_ids: Sequence[str]) -> list[str]:
        """The states of these jobs as the API shows them."""
        return [read(self.client, job_id)["status"] for job_id in job_ids]

    def error_codes(self, job_ids: Sequence[str]) -> list[Any]:
        """The codes of the errors of these jobs."""
        return [(read(self.client, job_id)["error"] or {}).get("code") for job_id in job_ids]

    def refused_claims(self, job_id: str) -> int:
        """How often a worker was told of the job and did not get it."""
        lines = self.cluster.logs().splitlines()
        return sum("job.not_claimed" in line and job_id in line for line in lines)

    def conclude(self, *, within: float = 40.0) -> None:
        """Wait for all ends; then nothing was lost, done twice or paid for too often, and the books fit."""
        self.submitter.see_the_end(within=within)
        self.cluster.wait_until_idle(within=within)
        self.submitter.see_the_end(within=within)
        check_invariants(self.store)
        stats = self.cluster.stats()
        # A worker that is killed between the head of a request and its body leaves a call that no LLM would have begun.
        begun = stats["calls"] - stats["incomplete"]
        assert begun == sum(stats["by_prompt"].values()), f"a call had a body that is no job's: {stats}"
        report = self.history.check(calls=stats["by_prompt"], records=records_of(self.store))
        assert report.clean, str(report)
