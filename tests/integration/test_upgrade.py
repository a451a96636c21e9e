"""What earlier releases left in Redis runs on under this one."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from tests import processes
from tests.fixtures.records import FILES, load
from tests.integration.conftest import EMBEDDED
from tests.integration.driving import ended
from tests.unit.making import check_invariants


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_jobs_of_an_earlier_release_run_after_an_upgrade(file: Path, tmp_path: Path) -> None:
    """Queued, scheduled and running jobs complete; ended ones stay as they are; a failed one can be retried."""
    with processes.redis_server(tmp_path / "redis") as url, redis.Redis.from_url(url) as server:
        load(file, server)
        settings = EMBEDDED | {"PROMPTQ_REDIS_URL": url}
        with processes.stack(tmp_path, "--no-flower", **settings) as stack, stack.client() as client:
            jobs = {job["metadata"]["label"]: job["id"] for job in client.get("/v1/jobs").json()["data"]}
            ends = {label: ended(client, job_id, within=40)["status"] for label, job_id in jobs.items()}
            unfinished = ("queued", "queued-response", "scheduled", "running")
            assert ends == dict.fromkeys((*unfinished, "completed"), "completed") | {
                "failed": "failed",
                "cancelled": "cancelled",
            }
            assert stack.stats()["calls"] == len(unfinished)
            again = client.post(f"/v1/jobs/{jobs['failed']}/retry")
            assert ended(client, again.json()["id"])["status"] == "completed"
        check_invariants(server)
