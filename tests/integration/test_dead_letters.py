"""Jobs that failed for good: listed, retried, deleted."""

from __future__ import annotations

import httpx2

from tests.integration.driving import calls_of, ended, messages, submit, unique
from tests.processes import Stack


def dead_ids(client: httpx2.Client, **params: str | int) -> list[str]:
    """Ids of the newest dead letters."""
    answer = client.get("/v1/dead_letters", params={"limit": 100, **params})
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["data"]]


def test_a_job_that_used_up_its_attempts_is_a_dead_letter(client: httpx2.Client, stack: Stack) -> None:
    """Three calls, then failed, then listed with each of its attempts; a refusal that is final is listed after one."""
    prompt = unique()
    spent = ended(client, submit(client, prompt=prompt, model="sim-500", queue="bulk")["id"])
    refused = ended(client, submit(client, prompt=unique(), model="sim-400")["id"])
    assert (spent["status"], spent["error"]["code"], calls_of(stack, messages(prompt))) == (
        "failed",
        "llm_unavailable",
        3,
    )
    assert [attempt["attempt"] for attempt in spent["attempts"]] == [1, 2, 3]
    for attempt in spent["attempts"]:
        assert (attempt["error_code"], attempt["upstream_status"]) == ("llm_unavailable", 500)
        assert attempt["started_at"] <= attempt["ended_at"]
        assert attempt["upstream_request_id"].startswith("req_")
    assert {spent["id"], refused["id"]} <= set(dead_ids(client))
    assert spent["id"] in dead_ids(client, queue="bulk")
    assert refused["id"] not in dead_ids(client, queue="bulk")


def test_a_retry_is_a_new_job_and_takes_the_old_one_from_the_list(client: httpx2.Client, stack: Stack) -> None:
    """The new job names the old one and may succeed; repeating the retry gives the same new job, for no new call."""
    prompt = unique()
    dead = ended(client, submit(client, prompt=prompt, model="sim-flaky-3", metadata={"order": "7"})["id"])
    assert dead["status"] == "failed"
    answer = client.post(f"/v1/jobs/{dead['id']}/retry")
    new = answer.json()
    assert (answer.status_code, answer.headers["Location"]) == (202, f"/v1/jobs/{new['id']}")
    assert (new["status"], new["retried_from"], new["metadata"]) == ("queued", dead["id"], {"order": "7"})
    assert dead["id"] not in dead_ids(client)
    assert ended(client, new["id"])["status"] == "completed"
    again = client.post(f"/v1/jobs/{dead['id']}/retry")
    assert (again.status_code, again.json()["id"]) == (202, new["id"])
    assert client.get(f"/v1/jobs/{dead['id']}").json()["retried_as"] == new["id"]
    assert calls_of(stack, messages(prompt)) == 4


def test_a_response_is_retried_as_a_response(client: httpx2.Client) -> None:
    """The new job has an id that the SDK knows as a response's."""
    dead = client.post("/v1/responses", json={"model": "sim-500", "input": unique(), "background": True}).json()
    ended(client, dead["id"])
    new = client.post(f"/v1/jobs/{dead['id']}/retry").json()["id"]
    assert new.startswith("resp_")
    assert client.get(f"/v1/responses/{new}").json()["background"] is True


def test_what_cannot_be_retried_is_a_409_that_the_sdk_does_not_repeat(client: httpx2.Client) -> None:
    """A completed job is not paid for again by mistake; an id that nobody has is a 404."""
    done = ended(client, submit(client, prompt=unique())["id"])
    answer = client.post(f"/v1/jobs/{done['id']}/retry")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_retryable")
    assert answer.headers["x-should-retry"] == "false"
    assert client.post(f"/v1/jobs/job_{'0' * 32}/retry").status_code == 404
    assert client.post("/v1/jobs/nothing/retry").status_code == 404


def test_dead_letters_belong_to_their_owner(alice: httpx2.Client, bob: httpx2.Client) -> None:
    """Bob sees none of alice's, and can retry none of them."""
    dead = ended(alice, submit(alice, prompt=unique(), model="sim-400")["id"])
    assert dead["id"] in dead_ids(alice)
    assert dead["id"] not in dead_ids(bob)
    assert bob.post(f"/v1/jobs/{dead['id']}/retry").status_code == 404
