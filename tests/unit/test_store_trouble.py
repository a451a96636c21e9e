"""A Redis that is away, loses its reply, or is full."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest
import redis
from redis.exceptions import OutOfMemoryError

from api.app import create_app
from jobs import queues
from jobs.broker import MessageMaker
from jobs.errors import AcceptanceUnknown, StoreFull, StoreUnavailable
from jobs.model import JobStatus
from jobs.moments import read_at_once
from jobs.redis_clients import api_client, worker_client
from jobs.sealing import new_key
from jobs.settings import Settings
from jobs.store import Accepted, JobStore
from tests import processes
from tests.unit.making import DONE, claim, create, job, lose_lease, make_due, new_job, running
from worker.scheduler import Scheduler


class LossyProxy:
    """Forwards connections to Redis; once told to, it forwards one more request, swallows the reply and hangs up."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.lossy = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                for source, sink, replies in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._pump, args=(source, sink, replies), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        with contextlib.suppress(OSError), source, sink:
            while data := source.recv(65536):
                if replies and self.lossy:
                    break
                sink.sendall(data)
            for end in (sink, source):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(redis_url: str) -> Iterator[LossyProxy]:
    parts = urlsplit(redis_url)
    lossy = LossyProxy(parts.hostname or "127.0.0.1", parts.port or 6379)
    yield lossy
    lossy.close()


def test_nothing_listens(messages: MessageMaker) -> None:
    """Where Redis cannot be reached every step raises StoreUnavailable, since nothing was done."""
    settings = Settings(redis_url=f"redis://127.0.0.1:{processes.free_port()}/0")
    with contextlib.closing(api_client(settings)) as client:
        away = JobStore(client, messages, result_ttl=60)
        for step in (
            away.ping,
            lambda: away.upkeep.tick(idle=0, lease_seconds=30),
            away.upkeep.promote_due,
            lambda: away.create(new_job()),
            lambda: away.get("job_x", "ann"),
            lambda: away.list("ann"),
            lambda: away.cancel("job_x", "ann"),
            lambda: away.claim("job_x", "c", lease_seconds=1, worker="w"),
        ):
            with pytest.raises(StoreUnavailable) as caught:
                step()
            assert caught.value.retry_after


def test_a_lost_reply_is_told_as_such(
    store: JobStore, proxy: LossyProxy, messages: MessageMaker, redis_client: redis.Redis
) -> None:
    """A create whose reply is lost raises AcceptanceUnknown; the job exists, and the same key finds it."""
    new = new_job(idempotency_key="k", fingerprint="f")
    database = redis_client.get_connection_kwargs()["db"]
    settings = Settings(redis_url=f"redis://127.0.0.1:{proxy.port}/{database}")
    with contextlib.closing(api_client(settings)) as client:
        far = JobStore(client, messages, result_ttl=60)
        create(far)
        proxy.lossy = True
        with pytest.raises(AcceptanceUnknown):
            far.create(new)
        with pytest.raises(StoreUnavailable):
            far.get(new.id, "ann")
        proxy.lossy = False
        assert far.create(new_job(idempotency_key="k", fingerprint="f")) == Accepted(new.id, None, None)
    assert job(store, new.id).status is JobStatus.QUEUED


@pytest.fixture
def full(tmp_path: Path, messages: MessageMaker) -> Iterator[tuple[JobStore, redis.Redis]]:
    """A store on a server of its own (make test-system: of Debian's version), and a client to fill it with."""
    named = os.environ.get("TEST_REDIS_SERVER")
    with processes.redis_server(tmp_path / "redis", Path(named) if named else None) as url:
        client = worker_client(Settings(redis_url=url))
        yield JobStore(client, messages, result_ttl=60), client
        client.close()


def test_a_full_redis_refuses_new_jobs_only(full: tuple[JobStore, redis.Redis]) -> None:
    """When Redis is full a new job is refused, and everything that was accepted goes on to its end."""
    store, client = full
    ids = [create(store, deadline_seconds=60) for _ in range(5)]
    done, handed_back, lost, later, overdue = (claim(store, job_id) for job_id in ids)
    waiting = create(store)
    client.config_set("maxmemory", 1)
    with pytest.raises(StoreFull):
        store.create(new_job())
    assert store.renew({done.job.id: done.claim_id}, lease_seconds=60) == []
    assert store.complete(done, DONE) == "done"
    assert store.hand_back(handed_back) == "done"
    assert store.retry(later, attempt=1, attempts=[], delay=0, keep_slot=False) == "done"
    assert store.cancel(waiting, "ann")
    claim(store, handed_back.job.id, "c2")
    client.config_set("maxmemory", 0)
    lose_lease(client, lost.job.id)
    make_due(client, queues.DEADLINES, overdue.job.id)
    client.config_set("maxmemory", 1)
    assert (store.upkeep.recover_lost(), store.upkeep.promote_due(), store.upkeep.expire_due()) == (1, 1, 1)
    store.delete(lost.job.id, "ann")


def test_the_scheduler_goes_on_when_redis_is_full(full: tuple[JobStore, redis.Redis]) -> None:
    """A scheduler's tick on a full Redis still ends what is overdue, which is what frees memory."""
    store, client = full
    overdue = running(store, deadline_seconds=60)
    make_due(client, queues.DEADLINES, overdue.job.id)
    client.config_set("maxmemory", 1)
    Scheduler(upkeep=store.upkeep, outbox=store.outbox, lease_seconds=30).tick()
    assert job(store, overdue.job.id).status is JobStatus.FAILED


def test_a_full_redis_can_be_read(full: tuple[JobStore, redis.Redis]) -> None:
    """What is read at one moment is read from a full Redis too, though some refuse whatever stands in MULTI."""
    store, client = full
    waiting = create(store)
    client.config_set("maxmemory", 1)
    assert store.queues.state("default").waiting == 1
    assert store.queues.totals().memory_limit == 1
    assert store.upkeep.queue_state("default") == (1, 1, 0)
    assert store.streams.read(waiting, "ann", after=-1).status is JobStatus.QUEUED


def test_where_nothing_is_allowed_in_multi_readings_go_without() -> None:
    """As before Redis 7.4: what is queued is refused, and asked for again outside."""

    class Refusing:
        def __init__(self, transaction: bool) -> None:
            self.transaction, self.asked = transaction, 0

        def __enter__(self) -> Refusing:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def get(self, _: str) -> None:
            self.asked += 1

        def execute(self) -> list[int]:
            if self.transaction:
                raise OutOfMemoryError("OOM command not allowed when used memory > 'maxmemory'.")
            return [self.asked]

    class Full:
        def pipeline(self, *, transaction: bool) -> Refusing:
            return Refusing(transaction)

    assert read_at_once(cast("redis.Redis", Full()), lambda pipe: pipe.get("a")) == [1]


def test_a_secret_that_nobody_has_seen_is_not_made_twice(
    proxy: LossyProxy, redis_url: str, redis_client: redis.Redis
) -> None:
    """Where the reply to a new webhook endpoint or a rotation is lost, the answer says that it may have been made, and
    that it is not to be sent again: the SDK's silent repeat would make a second endpoint, or a secret unseen."""
    url = f"redis://127.0.0.1:{proxy.port}{urlsplit(redis_url).path}"
    settings = Settings.model_validate({"redis_url": url, "encryption_keys": new_key()})
    client = create_app(settings).test_client()
    body = {"name": "n", "url": "https://hooks.example/in", "event_types": ["response.completed"]}
    made = client.post("/v1/webhook_endpoints", json=body).get_json()
    assert client.post(f"/v1/webhook_endpoints/{made['id']}/rotate_secret", json={}).status_code == 200
    for path, sent in (("", body), (f"/{made['id']}/rotate_secret", {})):
        client.get("/v1/webhook_endpoints")  # on a connection that is there
        proxy.lossy = True
        answer = client.post(f"/v1/webhook_endpoints{path}", json=sent)
        proxy.lossy = False
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "outcome_unknown"), path
        assert answer.headers["x-should-retry"] == "false"
    assert len(list(redis_client.scan_iter(queues.endpoint_key("*")))) == 2, "it was made after all"
