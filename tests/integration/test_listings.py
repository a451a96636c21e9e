"""Listings: pages, filters, order."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.integration.driving import chat, ended, submit, unique
from tests.processes import Stack

FIELDS = {
    *("id", "object", "status", "endpoint", "model", "queue", "attempt", "created_at", "started_at", "finished_at"),
    *("deadline_at", "retry_at", "metadata", "error", "usage", "attempts"),
    *("attempt_timeout_seconds", "webhook_url", "retried_from", "retried_as"),
}


@pytest.fixture(scope="module")
def listed(small: Stack) -> list[str]:
    """Ids of alice's jobs on ``small``, newest first: 7 completed, 1 failed, 1 cancelled; two of them on bulk."""
    with small.client() as client:
        ids = [submit(client, prompt=unique(), model="sim")["id"] for _ in range(5)]
        ids += [submit(client, prompt=unique(), model="sim", queue="bulk")["id"] for _ in range(2)]
        ids.append(submit(client, endpoint="/v1/chat/completions", body=chat(unique(), "sim-400"))["id"])
        ids.append(submit(client, prompt=unique(), model="sim-hang")["id"])
        client.post(f"/v1/jobs/{ids[-1]}/cancel")
        for job_id in ids:
            ended(client, job_id)
    return ids[::-1]


def pages(client: httpx2.Client, **params: Any) -> list[dict[str, Any]]:
    """All jobs of a listing, page by page."""
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = client.get("/v1/jobs", params={**params, **after}).raise_for_status().json()
        assert page["object"] == "list"
        ids = [job["id"] for job in page["data"]] or [None]
        assert (page["first_id"], page["last_id"]) == (ids[0], ids[-1])
        found += page["data"]
        if not page["has_more"]:
            return found
        assert len(page["data"]) == params["limit"]
        after = {"after": page["last_id"]}


def test_pages_hold_every_job_once_newest_first(alice: httpx2.Client, listed: list[str]) -> None:
    """Following ``after`` over all pages finds every job once, newest first, without its result."""
    jobs = pages(alice, limit=4)
    ids = [job["id"] for job in jobs]
    assert len(ids) == len(set(ids))
    assert [job_id for job_id in ids if job_id in listed] == listed
    assert [job["created_at"] for job in jobs] == sorted((job["created_at"] for job in jobs), reverse=True)
    assert all(job.keys() == FIELDS for job in jobs)
    assert ids == [job["id"] for job in pages(alice, limit=100)]


def test_listings_filter_by_status_and_queue(alice: httpx2.Client, listed: list[str]) -> None:
    """``status`` and ``queue`` choose, alone and together."""
    failed = [job["id"] for job in pages(alice, limit=3, status="failed")]
    assert [job_id for job_id in failed if job_id in listed] == [listed[1]]
    cancelled = [job["id"] for job in pages(alice, limit=3, status="cancelled")]
    assert [job_id for job_id in cancelled if job_id in listed] == [listed[0]]
    bulk = pages(alice, limit=1, queue="bulk", status="completed")
    assert [job["id"] for job in bulk if job["id"] in listed] == listed[2:4]
    assert all((job["queue"], job["status"]) == ("bulk", "completed") for job in bulk)


def test_responses_are_listed_apart(client: httpx2.Client) -> None:
    """``GET /v1/responses`` lists responses alone, newest first, in the standard list shape."""
    body = {"model": "sim", "input": unique(), "background": True}
    ids = [client.post("/v1/responses", json=body).json()["id"] for _ in range(3)]
    submit(client, prompt=unique(), model="sim")
    page = client.get("/v1/responses", params={"limit": 2}).json()
    assert [response["id"] for response in page["data"]] == [ids[2], ids[1]]
    assert (page["has_more"], page["first_id"], page["last_id"]) == (True, ids[2], ids[1])
    assert page["data"][0]["object"] == "response"
    after = client.get("/v1/responses", params={"limit": 1, "after": ids[1]}).json()
    assert [response["id"] for response in after["data"]] == [ids[0]]
