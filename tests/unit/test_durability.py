"""``PROMPTQ_DURABILITY=fsync``: what counts as made is on disk."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from jobs import durability
from jobs.broker import MessageMaker
from jobs.errors import AcceptanceUnknown, IdempotencyConflict, StoreFull, StoreUnavailable
from jobs.files import File, FileStore, NewFile
from jobs.redis_clients import api_client
from jobs.scripts import Scripts
from jobs.settings import Settings
from jobs.storage.directory import DirectoryStorage
from jobs.store import JobStore
from tests import processes
from tests.unit.making import FAILED, check_invariants, job, new_job, running


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of its own, whose configuration the tests change."""
    with processes.redis_server(tmp_path_factory.mktemp("durable")) as url:
        yield url


@pytest.fixture
def server(url: str) -> Iterator[redis.Redis]:
    """A client of the emptied server, set up as it was."""
    with redis.Redis.from_url(url) as client:
        for name, value in {"appendonly": "yes", "appendfsync": "everysec", "maxmemory": "0"}.items():
            client.config_set(name, value)
        client.flushall()
        yield client


@pytest.fixture
def durable(url: str, server: redis.Redis, messages: MessageMaker) -> Iterator[JobStore]:
    """A store that waits for the disk, as the API has it."""
    with contextlib.closing(api_client(Settings(redis_url=url, durability="fsync"))) as client:
        yield JobStore(client, messages, result_ttl=3600, fsync=True)


def test_a_job_that_is_made_is_on_disk(durable: JobStore, server: redis.Redis) -> None:
    """When ``create`` returns, all that was written until then has been fsynced; the answer is what it always is."""
    before = server.info("replication")["master_repl_offset"]
    accepted = durable.create(new_job())
    assert accepted.made is not None
    assert job(durable, accepted.job_id) == durable.get(accepted.job_id, "ann")
    after = server.info("replication")["master_repl_offset"]
    # Nothing is outstanding: another wait by who wrote nothing returns what is synced by now.
    assert after >= before
    assert server.execute_command("WAITAOF", 1, 0, 1)[0] == 1
    check_invariants(server)


def test_a_disk_that_is_not_written_is_no_acceptance(durable: JobStore, server: redis.Redis) -> None:
    """With the file switched off under way, or with a disk that takes too long, acceptance is unknown: never a yes."""
    server.config_set("appendfsync", "no")
    new = new_job(idempotency_key="k", fingerprint="f")
    with pytest.raises(AcceptanceUnknown):
        durable.create(new)
    # The repetition finds the job, and must not answer before that is on disk.
    with pytest.raises(AcceptanceUnknown):
        durable.create(new_job(idempotency_key="k", fingerprint="f"))
    server.config_set("appendfsync", "always")
    again = durable.create(new_job(idempotency_key="k", fingerprint="f"))
    assert (again.job_id, again.made) == (new.id, None)
    server.config_set("appendonly", "no")
    with pytest.raises(AcceptanceUnknown):
        durable.create(new_job())


def test_a_file_counts_as_made_once_it_is_on_disk(url: str, server: redis.Redis, tmp_path: Path) -> None:
    """Until then it is unknown whether there is a file, and its content stays; who repeats the upload finds it."""
    storage = DirectoryStorage(tmp_path)
    with contextlib.closing(api_client(Settings(redis_url=url, durability="fsync"))) as client:
        files = FileStore(client, Scripts(client), storage, fsync=True)

        def upload() -> File:
            content = files.reserve()
            with storage.writer(content) as sink:
                sink.write(b"x")
            whole = {"filename": "x", "purpose": "user_data", "size": 1, "lifetime": None}
            return files.create(
                NewFile(owner="ann", content=content, idempotency_key="k", fingerprint="f", **whole)  # type: ignore[arg-type]
            )

        server.config_set("appendfsync", "no")
        for _ in range(2):  # the repetition finds the file, and must not answer before that is on disk
            with pytest.raises(AcceptanceUnknown):
                upload()
        server.config_set("appendfsync", "always")
        made = upload()
        assert made == files.get(made.id, "ann")
        assert b"".join(files.read(made)) == b"x"


def test_errors_of_the_step_are_what_they_are_without_the_wait(durable: JobStore, server: redis.Redis) -> None:
    """A full Redis and a conflict are told apart as ever, and no error's text has the request in it."""
    durable.create(new_job(idempotency_key="k", fingerprint="f"))
    with pytest.raises(IdempotencyConflict):
        durable.create(new_job(idempotency_key="k", fingerprint="other"))
    server.config_set("maxmemory", 1)
    with pytest.raises(StoreFull) as caught:
        durable.create(new_job(request=b'{"model":"sim","messages":["a secret"]}'))
    assert "secret" not in str(caught.value.__cause__)


def test_a_server_is_checked_before_it_is_trusted(url: str, server: redis.Redis) -> None:
    """AOF that is off, or that the kernel writes when it likes, is a problem; every second or always is none."""
    assert durability.problem(server) is None
    server.config_set("appendfsync", "no")
    assert "appendfsync" in str(durability.problem(server))
    server.config_set("appendonly", "no")
    assert "append-only file" in str(durability.problem(server))


def test_a_user_who_may_do_little_can_still_be_promised_it(url: str, server: redis.Redis) -> None:
    """Without the right to see the server's configuration the check goes by WAITAOF alone; without that it says so."""
    server.acl_setuser("limited", enabled=True, nopass=True, keys="*", channels="*", commands=["+@all", "-@dangerous"])
    server.acl_setuser("mute", enabled=True, nopass=True, keys="*", channels="*", commands=["+@all", "-waitaof"])
    found = {}
    for user in ("limited", "mute"):
        with redis.Redis.from_url(url, username=user, password="any") as client:
            found[user] = durability.problem(client)
    assert found["limited"] is None
    assert "may not run WAITAOF" in str(found["mute"])


def test_a_server_that_has_forgotten_the_steps_learns_them_again(durable: JobStore, server: redis.Redis) -> None:
    """After a restart or a failover the first submit under fsync works like any other."""
    durable.create(new_job())
    server.script_flush()
    assert durable.create(new_job()).made is not None


def test_who_repeats_a_request_to_a_full_redis_finds_the_job(durable: JobStore, server: redis.Redis) -> None:
    """A submit or a retry that made a job is answered with it; only what nobody knows is refused as not made."""
    first = durable.create(new_job(idempotency_key="k", fingerprint="f"))
    failed = running(durable)
    durable.complete(failed, FAILED)
    retried = durable.resubmit(failed.job.id, "ann")
    server.config_set("maxmemory", 1)
    again = durable.create(new_job(idempotency_key="k", fingerprint="f"))
    assert (again.job_id, again.made) == (first.job_id, None)
    assert durable.resubmit(failed.job.id, "ann").job_id == retried.job_id
    with pytest.raises(IdempotencyConflict):
        durable.create(new_job(idempotency_key="k", fingerprint="other"))
    for new in (new_job(idempotency_key="new", fingerprint="f"), new_job()):
        with pytest.raises(StoreFull):
            durable.create(new)


def test_an_old_redis_is_refused_and_a_new_one_is_not(redis_client: redis.Redis) -> None:
    """On whatever server the tests run: before Redis 7.2 it lacks the command, later ones have it."""
    about = redis_client.info("server")
    version = tuple(int(part) for part in str(about["redis_version"]).split(".")[:2])
    found = durability.problem(redis_client)
    assert (found is not None and "lacks WAITAOF" in found) is (version < (7, 2))


def test_a_server_that_is_away_cannot_be_checked() -> None:
    """That is told apart from a server that lacks it."""
    settings = Settings(redis_url=f"redis://127.0.0.1:{processes.free_port()}/0")
    with contextlib.closing(api_client(settings)) as client, pytest.raises(StoreUnavailable):
        durability.problem(client)


def test_the_api_refuses_to_start_on_a_server_that_cannot_promise_it(
    url: str, server: redis.Redis, tmp_path: Path
) -> None:
    """gunicorn ends with a line that names the setting and what is wrong."""
    server.config_set("appendonly", "no")
    env = os.environ | {
        "PROMPTQ_REDIS_URL": url,
        "PROMPTQ_DURABILITY": "fsync",
        "PROMPTQ_PORT": str(processes.free_port()),
    }
    command = [sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "api.wsgi:app"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert "PROMPTQ_DURABILITY=fsync" in ended.stderr
    assert "append-only file" in ended.stderr
