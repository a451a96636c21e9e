"""``promptq dead-letters`` and ``promptq queues`` as an operator uses them, on a running stack."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import httpx2

from tests.integration.driving import calls_of, ended, messages, read, submit, unique
from tests.processes import Stack, eventually


def promptq(stack: Stack, *words: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the real ``promptq``, without a terminal."""
    environ = os.environ | {"PROMPTQ_URL": stack.api, "PROMPTQ_API_KEY": key or stack.api_key}
    command = [sys.executable, "-m", "cli", *words]
    return subprocess.run(
        command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


def outcome(stack: Stack, *words: str, key: str | None = None) -> list[dict[str, object]]:
    """What ``--json`` tells of each job, once all of it was done."""
    done = promptq(stack, *words, "--json", key=key)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def dead(
    client: httpx2.Client, count: int, *, prompt: str = "", model: str = "sim-400", queue: str = "bulk"
) -> list[str]:
    """Ids of new dead letters, the oldest first."""
    ids = [submit(client, prompt=prompt or unique(), model=model, queue=queue)["id"] for _ in range(count)]
    assert {ended(client, job_id)["status"] for job_id in ids} == {"failed"}
    return ids


def test_dead_letters_are_listed_and_retried_by_id(client: httpx2.Client, stack: Stack) -> None:
    """The table has the code; the new job brings the answer; again gives the same job; what is done is a 409."""
    prompt = unique()
    (job_id,) = dead(client, 1, prompt=prompt, model="sim-flaky-3")
    listed = promptq(stack, "dead-letters", "-q", "bulk", "--code", "llm_unavailable", "-n", "100").stdout
    (row,) = [line.split() for line in listed.splitlines() if job_id in line]
    assert row[:5] == [job_id, "llm_unavailable", "bulk", "sim-flaky-3", "3"]
    assert job_id not in promptq(stack, "dead-letters", "--code", "llm_timeout").stdout

    first = promptq(stack, "dead-letters", "retry", job_id)
    old, arrow, new = first.stdout.split()
    assert (first.returncode, old, arrow) == (0, job_id, "->")
    assert ended(client, new)["status"] == "completed"
    assert outcome(stack, "dead-letters", "retry", job_id) == [{"id": job_id, "retried_as": new}]
    assert calls_of(stack, messages(prompt)) == 4

    again = promptq(stack, "dead-letters", "retry", new, job_id)
    assert (again.returncode, again.stdout) == (1, f"{job_id} -> {new}\n")
    assert f"error: {new}: " in again.stderr


def test_all_of_a_queue_are_retried_and_purged(bob: httpx2.Client, small: Stack) -> None:
    """Only those meant, only the owner's own, over more than one page; none without an agreement."""
    try:
        others = dead(bob, 2, queue="default")
        spent = dead(bob, 1, model="sim-500")
        ids = dead(bob, 120)
        words = ("dead-letters", "retry", "--all", "-q", "bulk", "--code", "llm_rejected")
        refused = promptq(small, *words, key="k2")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "--yes" in refused.stderr

        done = outcome(small, *words, "--yes", key="k2")
        assert [one["id"] for one in done] == ids
        fresh = [str(one["retried_as"]) for one in done]
        assert read(bob, fresh[0])["retried_from"] == ids[0]
        for job_id in fresh:
            ended(bob, job_id)

        purged = promptq(small, "dead-letters", "purge", "-q", "bulk", "--code", "llm_rejected", "--yes", key="k2")
        assert (purged.returncode, purged.stdout) == (0, "120 deleted\n")
        assert {bob.get(f"/v1/jobs/{job_id}").status_code for job_id in fresh} == {404}
        assert bob.get(f"/v1/jobs/{ids[0]}").status_code == 200, "what was retried is no dead letter any more"
        left = json.loads(promptq(small, "dead-letters", "-n", "100", "--json", key="k2").stdout)["data"]
        assert {*others, *spent} <= {job["id"] for job in left}
        assert outcome(small, "dead-letters", "purge", "--older-than", "1", "--yes", key="k2") == []
    finally:
        promptq(small, "dead-letters", "purge", "--yes", key="k2")
    assert promptq(small, "dead-letters", key="k2").stderr == "no dead letters\n"


def test_a_queue_is_paused_and_resumed(client: httpx2.Client, stack: Stack) -> None:
    """Its jobs wait meanwhile, and the table says so."""
    try:
        paused = promptq(stack, "queues", "pause", "bulk")
        assert (paused.returncode, paused.stdout.splitlines()[1].split()[:2]) == (0, ["bulk", "paused"])
        job_id = submit(client, prompt=unique(), queue="bulk")["id"]
        rows = [line.split() for line in promptq(stack, "queues").stdout.splitlines()[1:]]
        assert [row[0] for row in rows] == ["interactive", "default", "bulk"]
        assert rows[2][1:3] == ["paused", "1"]
        assert rows[2][-1] == "s"
        assert read(client, job_id)["status"] == "queued"
    finally:
        resumed = promptq(stack, "queues", "resume", "bulk")
    assert resumed.stdout.splitlines()[1].split()[:2] == ["bulk", "running"]
    assert ended(client, job_id)["status"] == "completed"
    eventually(lambda: client.get("/v1/queues/bulk").json()["waiting"], lambda waiting: waiting == 0)


def test_only_operators_pause(small: Stack) -> None:
    """Anybody else is told why not, and sees the queues."""
    refused = promptq(small, "queues", "pause", "bulk", key="k1")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "PROMPTQ_OPERATORS" in refused.stderr
    assert "running" in promptq(small, "queues", key="k1").stdout
