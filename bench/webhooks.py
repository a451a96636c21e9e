"""How fast webhooks go out, and whether a host that hangs delays the others: ``python -m bench.webhooks``.

Linux; loopback only; under two minutes. One worker process, an embedded server, and the receivers in a process of their
own; all of them share the machine.

- Throughput: 5,000 webhooks that are due at once, to one host and to ten (a port each), with two values of
  PROMPTQ_WEBHOOK_PER_HOST. Also the CPU that each takes of the worker and of the server.
- Delay: from a job's end to the arrival at a host that answers at once, at 20 a second; alone, and while another host,
  for which 500 are due, takes each request and never answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, Self

import redis
from aiohttp import web

from bench.environments import our_python
from jobs import queues, webhook_urls
from jobs.broker import MessageMaker, make_celery
from jobs.model import RESPONSES, Claim, JobStatus, NewJob, Outcome, new_job_id
from jobs.redis_clients import worker_client
from jobs.sealing import Sealer, new_key
from jobs.settings import Settings
from jobs.store import JobStore
from jobs.webhooks import DeliveryStatus
from tests import processes

_WEBHOOKS: Final = 5000
_HOSTS: Final = (1, 10)
#: The default, and more.
_PER_HOST: Final = (20, 100)
_DUE_FOR_HANGING: Final = 500
_PER_SECOND: Final = 20
_SECONDS: Final = 15
_ALLOWED: Final = "127.0.0.0/8"
_BODY: Final = b'{"model":"sim","input":"Explain Kubernetes in simple terms."}'
_TICKS: Final = os.sysconf("SC_CLK_TCK")

#: When which event (``webhook-id``) arrived at which port.
Arrivals = dict[tuple[str, int], float]


def main() -> None:
    """Measure each once and print two tables."""
    with tempfile.TemporaryDirectory() as folder, processes.redis_server(Path(folder)) as url, Receivers() as receivers:
        bench = Bench(Path(folder), url, receivers)
        print("hosts  per host  webhooks/s  CPU ms each: worker  server", flush=True)
        for hosts in _HOSTS:
            for per_host in _PER_HOST:
                rate, worker, server = bench.throughput(hosts, per_host)
                print(f"{hosts:5}  {per_host:8}  {rate:10.0f}  {worker:19.2f}  {server:6.2f}", flush=True)
        print("\ndelay, ms           median    p99    max", flush=True)
        for name, hanging in (("alone", False), ("another host hangs", True)):
            median, p99, longest = bench.delay(hanging=hanging)
            print(f"{name:18}  {1000 * median:6.1f} {1000 * p99:6.1f} {1000 * longest:6.1f}", flush=True)


class Receivers:
    """Hosts in a process of their own: those at ``ports`` answer at once, and the one at ``hanging`` never does."""

    def __enter__(self) -> Self:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_receive, args=(theirs, max(_HOSTS)), daemon=True)
        self._process.start()
        self.ports: list[int]
        self.hanging: int
        self.ports, self.hanging = self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def arrivals(self) -> Arrivals:
        """What has arrived at ``ports`` since this was asked last."""
        self._pipe.send(None)
        arrivals: Arrivals = self._pipe.recv()
        return arrivals


def _receive(pipe: Connection, count: int) -> None:
    asyncio.run(_serve(pipe, count))


async def _serve(pipe: Connection, count: int) -> None:
    arrivals: Arrivals = {}

    async def answer(request: web.BaseRequest) -> web.Response:
        await request.read()
        assert request.transport is not None
        port = request.transport.get_extra_info("sockname")[1]
        arrivals.setdefault((request.headers["webhook-id"], port), time.time())
        return web.Response()

    async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass

    def tell() -> None:
        pipe.recv()
        pipe.send(arrivals)
        arrivals.clear()

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    for _ in range(count):
        await web.TCPSite(runner, "127.0.0.1", 0).start()
    silent = await asyncio.start_server(hang, "127.0.0.1", 0)
    asyncio.get_running_loop().add_reader(pipe.fileno(), tell)
    pipe.send(([port for _, port in runner.addresses], silent.sockets[0].getsockname()[1]))
    await asyncio.Event().wait()


class Bench:
    """Each measurement begins with an empty server and a new worker."""

    def __init__(self, folder: Path, url: str, receivers: Receivers) -> None:
        self._folder = folder
        self._receivers = receivers
        key = new_key()
        settings = Settings.model_validate({"redis_url": url, "encryption_keys": key})
        self._client: redis.Redis = worker_client(settings)
        self._store = JobStore(
            self._client, MessageMaker(make_celery(settings)), result_ttl=3600, sealer=Sealer.from_settings(settings)
        )
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PROMPTQ_", "OPENAI_"))},
            # No job is run: ours are of another queue.
            "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
            "OPENAI_API_KEY": "unused",
            "PROMPTQ_WORKER_QUEUES": queues.INTERACTIVE,
            "PROMPTQ_REDIS_URL": url,
            "PROMPTQ_ENCRYPTION_KEYS": key,
            "PROMPTQ_WEBHOOK_ALLOW": _ALLOWED,
        }

    def throughput(self, hosts: int, per_host: int) -> tuple[float, float, float]:
        """Webhooks per second, and the CPU time of the worker and of the server for each, in ms."""
        self._empty()
        for port in self._receivers.ports[:hosts]:
            self._register("owner", port)
        with self._worker(PROMPTQ_WEBHOOK_PER_HOST=str(per_host)) as worker:
            # Nothing is sent until everything is due.
            worker.send_signal(signal.SIGSTOP)
            for _ in range(_WEBHOOKS // hosts):
                self._end_a_job("owner")
            cpu, server_cpu, began = _cpu_seconds(worker.pid), self._server_cpu_seconds(), time.time()
            worker.send_signal(signal.SIGCONT)
            processes.eventually(self._pending, lambda count: count == 0, within=60)
            cpu, server_cpu = _cpu_seconds(worker.pid) - cpu, self._server_cpu_seconds() - server_cpu
        arrivals = self._receivers.arrivals()
        assert len(arrivals) == _WEBHOOKS, f"{len(arrivals)} arrived"
        rate = _WEBHOOKS / (max(arrivals.values()) - began)
        return rate, 1000 * cpu / _WEBHOOKS, 1000 * server_cpu / _WEBHOOKS

    def delay(self, *, hanging: bool) -> tuple[float, float, float]:
        """Median, 99th percentile and maximum of the delays, in seconds."""
        self._empty()
        port, count = self._receivers.ports[0], _PER_SECOND * _SECONDS
        self._register("owner", port)
        self._register("hanging", self._receivers.hanging)
        silent = f"127.0.0.1:{self._receivers.hanging}"
        for _ in range(_DUE_FOR_HANGING if hanging else 0):
            self._end_a_job("hanging")
        with self._worker():
            began = time.monotonic()
            for number in range(count):
                time.sleep(max(0.0, began + number / _PER_SECOND - time.monotonic()))
                self._end_a_job("owner")
            outbox, pending = self._store.outbox, [DeliveryStatus.PENDING]
            processes.eventually(lambda: not outbox.list("owner", statuses=pending, limit=1).deliveries, within=30)
            assert self._client.hexists(queues.WEBHOOK_RUNNING, silent) is hanging
            arrivals = self._receivers.arrivals()
        # They begin to count, by the server's clock, in the step that ends the job.
        began_at = {one.event_id: one.created_at for one in outbox.list("owner", limit=count).deliveries}
        delays = [arrivals[event_id, port] - created_at for event_id, created_at in began_at.items()]
        assert len(delays) == count, f"{len(delays)} arrived"
        return statistics.median(delays), statistics.quantiles(delays, n=100)[98], max(delays)

    def _empty(self) -> None:
        self._client.flushall()
        self._receivers.arrivals()

    def _register(self, owner: str, port: int) -> None:
        url = f"http://127.0.0.1:{port}/"
        target = webhook_urls.parse(url, webhook_urls.Allowed.parse([_ALLOWED]))
        self._store.webhooks.create(owner, name="bench", url=url, target=target, event_types=["response.completed"])

    def _end_a_job(self, owner: str) -> None:
        job_id = new_job_id(RESPONSES)
        self._store.create(NewJob(job_id, owner, RESPONSES, queues.DEFAULT, _BODY, "sim"))
        claim = self._store.claim(job_id, uuid.uuid4().hex, lease_seconds=60, worker="bench")
        assert isinstance(claim, Claim), claim
        self._store.complete(claim, Outcome(JobStatus.COMPLETED, result=b"{}"))

    def _pending(self) -> int:
        """Webhooks that are due or on their way."""
        return int(self._client.zcard(queues.backlog_key(queues.WEBHOOKS)))

    def _server_cpu_seconds(self) -> float:
        used = self._client.info("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])

    @contextlib.contextmanager
    def _worker(self, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
        """A worker that is ready."""
        ready = self._folder / "worker.ready"
        ready.unlink(missing_ok=True)
        env = {**self._env, "PROMPTQ_WORKER_READY_FILE": str(ready), "PROMPTQ_GRACE_SECONDS": "0", **settings}
        with (self._folder / "worker.log").open("w") as log:
            process = subprocess.Popen([our_python("worker"), "-m", "worker"], env=env, stdout=log, stderr=log)
        try:
            processes.eventually(lambda: ready.exists() or process.poll() is not None, within=60)
            assert process.poll() is None, (self._folder / "worker.log").read_text()
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            processes.end(process)


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


if __name__ == "__main__":
    main()
