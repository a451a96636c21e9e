"""A copy of the append-only file, made as docs/operations.md says, is a backup."""

from __future__ import annotations

import shutil
from pathlib import Path

import redis

from jobs.broker import MessageMaker
from jobs.redis_clients import worker_client
from jobs.settings import Settings
from jobs.store import JobStore
from tests import processes
from tests.integration.driving import ended
from tests.unit.making import DONE, check_invariants, claim, create, running


def test_jobs_run_on_from_a_backup(tmp_path: Path, messages: MessageMaker) -> None:
    """The copy of a running server's files holds all jobs as they stood: what waited or ran then runs on it, what had
    ended is kept."""
    with processes.redis_server(tmp_path / "redis") as url:
        client = worker_client(Settings(redis_url=url))
        store = JobStore(client, messages, result_ttl=3600)
        waiting, done = create(store, owner="local"), running(store, owner="local")
        active = claim(store, create(store, owner="local"), "c2", lease=1)
        assert store.complete(done, DONE) == "done"
        client.config_set("auto-aof-rewrite-percentage", 0)
        assert client.info("persistence")["aof_rewrite_in_progress"] == 0
        shutil.copytree(tmp_path / "redis" / "appendonlydir", tmp_path / "backup" / "appendonlydir")
        client.config_set("auto-aof-rewrite-percentage", 100)
        later = create(store, owner="local")
        client.close()
    port = processes.free_port()
    restored = processes.start_redis(tmp_path / "backup", port)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        settings = {"PROMPTQ_REDIS_URL": url, "PROMPTQ_LEASE_SECONDS": "2"}
        with processes.stack(tmp_path, "--no-flower", **settings) as stack, stack.client() as api:
            for job_id in (waiting, active.job.id):
                assert ended(api, job_id, within=40)["status"] == "completed"
            assert api.get(f"/v1/jobs/{done.job.id}").json()["usage"] == DONE.usage
            assert api.get(f"/v1/jobs/{later}").status_code == 404
            assert stack.stats()["calls"] == 2
        with redis.Redis.from_url(url) as server:
            check_invariants(server)
    finally:
        processes.end(restored)
