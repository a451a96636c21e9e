"""Submitting jobs to a stack that may fail meanwhile, with every answer written into a history."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx2

from tests.faults.history import History
from tests.integration.driving import ended, messages, unique

#: Answers by which the API says that it has made nothing.
_NOTHING_MADE = frozenset({"store_unavailable", "store_full"})


@dataclass(frozen=True)
class Order:
    """One intention to have a prompt answered; its key makes it safe to repeat."""

    prompt: str
    model: str = "sim"
    queue: str = "default"
    key: str | None = None
    #: Whether it must complete.
    good: bool = True

    @property
    def body(self) -> dict[str, str]:
        """What is posted to ``/v1/jobs``."""
        return {"prompt": self.prompt, "model": self.model, "queue": self.queue}


def orders(
    count: int, *, keys: bool = False, good: bool = True, queue: str = "default", model: str = "sim"
) -> list[Order]:
    """So many orders of prompts that nobody else has."""
    return [Order(unique(), model, queue, uuid.uuid4().hex if keys else None, good) for _ in range(count)]


@dataclass(frozen=True)
class Submitter:
    """Submits orders with one client, from any number of threads."""

    client: httpx2.Client
    history: History

    def submit(self, order: Order) -> str | None:
        """Submit once; answer the job's id, None if it was refused or nobody knows."""
        prompt = messages(order.prompt)
        headers = {"Idempotency-Key": order.key} if order.key is not None else {}
        try:
            answer = self.client.post("/v1/jobs", json=order.body, headers=headers)
        except httpx2.ConnectError:
            self.history.refused(prompt, key=order.key, good=order.good)
            return None
        except httpx2.HTTPError:
            self.history.unknown(prompt, key=order.key, good=order.good)
            return None
        if answer.status_code == 202:
            job_id = str(answer.json()["id"])
            self.history.accepted(prompt, job_id, key=order.key, good=order.good)
            return job_id
        assert answer.status_code >= 500, f"an order is a good request: {answer.text}"
        if answer.status_code == 503 and answer.json()["error"]["code"] in _NOTHING_MADE:
            self.history.refused(prompt, key=order.key, good=order.good)
        else:
            self.history.unknown(prompt, key=order.key, good=order.good)
        return None

    def insist(self, order: Order, *, within: float = 40.0) -> str:
        """Repeat until the order is acknowledged, and answer the job's id."""
        assert order.key is not None, "without a key a repetition is another job"
        deadline = time.monotonic() + within
        while True:
            job_id = self.submit(order)
            if job_id is not None:
                return job_id
            assert time.monotonic() < deadline, f"not acknowledged within {within:g} s"
            time.sleep(0.1)

    def insist_on_all(self, wanted: Sequence[Order], *, threads: int = 8) -> list[str]:
        """Insist on each order, several at a time; answer the ids in the same order."""
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self.insist, wanted))

    def must(self, wanted: Sequence[Order]) -> list[str]:
        """Submit each order once, to a stack that has to accept it."""
        job_ids = [self.submit(order) for order in wanted]
        assert None not in job_ids, "an order was not accepted"
        return [job_id for job_id in job_ids if job_id is not None]

    def see_the_end(self, *, within: float = 40.0) -> None:
        """Wait for the end of each acknowledged job, and write down what the API shows of it."""
        deadline = time.monotonic() + within
        for job_id in self.history.job_ids():
            self.history.observe(ended(self.client, job_id, within=max(1.0, deadline - time.monotonic())))
