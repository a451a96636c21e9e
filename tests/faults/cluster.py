"""A whole stack of real processes, each of which a test can kill, freeze and start again on its own."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import httpx2
import redis

from cli.stack import valkey
from jobs import queues
from tests.faults.parts import Part
from tests.processes import eventually, free_port

ROOT = Path(__file__).parents[2]
LEASE = 2.0
LATENCY = 0.05
_STANDARD = ("redis", "simulator", "api", "scheduler")
SETTINGS = {
    "PROMPTQ_LEASE_SECONDS": f"{LEASE:g}",
    "PROMPTQ_SCHEDULER_INTERVAL": "0.2",
    "PROMPTQ_REPAIR_AFTER": "2",
    "PROMPTQ_RETRY_BASE": "0.05",
    "PROMPTQ_RETRY_MAX": "0.2",
    "PROMPTQ_MAX_ATTEMPTS": "3",
    "PROMPTQ_GRACE_SECONDS": "1",
    "PROMPTQ_CONCURRENCY": "20",
    "PROMPTQ_ENCRYPTION_KEYS": "bm90IGEgc2VjcmV0OiBhIGtleSBmb3IgdGhlIHRlc3Q=",
    "PROMPTQ_WEBHOOK_ALLOW": "127.0.0.0/8",
    "PROMPTQ_WEBHOOK_TIMEOUT": "2",
    "PROMPTQ_WEBHOOK_SLOW_AFTER": "0.5",
    "PROMPTQ_WEBHOOK_RETRIES": "0.2,0.3,0.5,0.5,1,1,1,1,1,1",
}


class Cluster:
    """Redis, the simulator, the API and a scheduler; workers are started by whoever needs them.

    ``parts`` holds each process under the name that it was started with. It looks like ``tests.processes.Stack`` to the
    helpers of the integration tests.
    """

    api_key = "local"

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.parts: dict[str, Part] = {}
        self._ports = {name: free_port() for name in ("redis", "simulator", "api")}
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PROMPTQ_"))}
        self._env = {
            **outside,
            "PYTHONPATH": str(ROOT),
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "OPENAI_BASE_URL": self.llm,
            "OPENAI_API_KEY": "simulator",
            "PROMPTQ_REDIS_URL": self.redis,
            "PROMPTQ_STORAGE": str(folder / "files"),
            **SETTINGS,
            **settings,
        }

    @property
    def redis(self) -> str:
        """Where Redis listens, also after a restart."""
        return f"redis://127.0.0.1:{self._ports['redis']}/0"

    @property
    def redis_port(self) -> int:
        """The port that Redis listens at."""
        return self._ports["redis"]

    @property
    def llm(self) -> str:
        """Where the simulator answers."""
        return f"http://127.0.0.1:{self._ports['simulator']}/v1"

    @property
    def _simulator(self) -> str:
        return self.llm.removesuffix("/v1")

    @property
    def api(self) -> str:
        """Where the API answers."""
        return f"http://127.0.0.1:{self._ports['api']}"

    def __enter__(self) -> Self:
        try:
            self.restore()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def restore(self) -> None:
        """Start what every test needs and does not run."""
        for part in self.parts.values():
            if part.alive:
                part.thaw()
        for wave in ((self.start_redis, self.start_simulator), (self.start_api, self.start_scheduler)):
            ready = [start(wait=False) for start in wave if not self.runs(start.__name__.removeprefix("start_"))]
            for wait in ready:
                wait()

    def runs(self, name: str) -> bool:
        """Whether the part lives."""
        return name in self.parts and self.parts[name].alive

    def end(self, *names: str) -> None:
        """Kill these parts and all that they have started, or everything, also what is frozen."""
        for name in names or list(self.parts):
            self.parts.pop(name).kill_group()

    def start_redis(self, *, wait: bool = True, fsync: bool = False) -> Callable[[], None]:
        """Start Redis on the data that it left; ``fsync``: it writes to disk before it answers."""
        folder = self.folder / "redis"
        folder.mkdir(parents=True, exist_ok=True)
        command = valkey.command(valkey.find_server(), self._ports["redis"], fsync=fsync)
        self._launch("redis", command, {}, cwd=folder)
        return self._when("redis", self._redis_answers, wait=wait)

    def start_simulator(self, *, wait: bool = True) -> Callable[[], None]:
        """Start the LLM."""
        self._python("simulator", "simulator", "--port", str(self._ports["simulator"]), "--latency", str(LATENCY))
        return self._when("simulator", lambda: _says_200(f"{self._simulator}/healthz"), wait=wait)

    def start_api(
        self, name: str = "api", *, port: int | None = None, wait: bool = True, **settings: str
    ) -> Callable[[], None]:
        """Start an API, on the port of the first where no other is given."""
        port = port or self._ports["api"]
        env = {"PROMPTQ_PORT": str(port), **settings}
        self._python(name, "gunicorn", "-c", "python:api.gunicorn_conf", "api.wsgi:app", **env)
        return self._when(name, lambda: _says_200(f"http://127.0.0.1:{port}/readyz"), wait=wait)

    def start_scheduler(self, name: str = "scheduler", *, wait: bool = True, **settings: str) -> Callable[[], None]:
        """Start a scheduler."""
        ready = self._ready_file(name)
        self._python(name, "worker.scheduler", **{"PROMPTQ_SCHEDULER_READY_FILE": str(ready), **settings})
        return self._when(name, ready.exists, wait=wait)

    def start_worker(
        self, name: str = "w1", *, fault: str | None = None, wait: bool = True, **settings: str
    ) -> Callable[[], None]:
        """Start a worker; ``fault`` is where it kills itself (``tests.faults.faulty_worker``)."""
        ready = self._ready_file(name)
        env = {"PROMPTQ_WORKER_NAME": name, "PROMPTQ_WORKER_READY_FILE": str(ready), **settings}
        if fault is not None:
            env["FAULT_POINT"] = fault
        self._python(name, "worker" if fault is None else "tests.faults.faulty_worker", **env)
        return self._when(name, ready.exists, wait=wait)

    def start_workers(self, *names: str, **settings: str) -> None:
        """Start several workers at once, and wait for all of them."""
        for wait in [self.start_worker(name, wait=False, **settings) for name in names]:
            wait()

    def stats(self) -> dict[str, Any]:
        """What the simulator counted."""
        return httpx2.get(f"{self._simulator}/stats").raise_for_status().json()  # type: ignore[no-any-return]

    def client(self, **options: Any) -> httpx2.Client:
        """A plain HTTP client of the API."""
        headers = {"Authorization": f"Bearer {self.api_key}", **options.pop("headers", {})}
        base_url = options.pop("base_url", self.api)
        return httpx2.Client(base_url=base_url, headers=headers, timeout=options.pop("timeout", 60), **options)

    def store(self) -> redis.Redis:
        """A client of Redis; use it as a context manager."""
        return redis.Redis.from_url(self.redis)

    def logs(self) -> str:
        """Everything that the parts have logged."""
        return "".join(log.read_text() for log in sorted((self.folder / "logs").glob("*.log")))

    def set_latency(self, seconds: float) -> None:
        """Let the LLM take so long for each answer, until the next reset."""
        httpx2.post(f"{self._simulator}/control", json={"latency": seconds}).raise_for_status()

    def reset(self) -> None:
        """Empty Redis and the storage, and forget what the simulator counted."""
        with self.store() as client:
            client.flushall()
        shutil.rmtree(self.folder / "files", ignore_errors=True)
        normal = {"latency": LATENCY, "tokens_per_second": None}
        httpx2.post(f"{self._simulator}/control", json=normal).raise_for_status()
        httpx2.post(f"{self._simulator}/stats/reset").raise_for_status()

    def end_extras(self) -> None:
        """Kill what only one test needed: workers, and second parts of a kind."""
        extras = [name for name in self.parts if name not in _STANDARD]
        if extras:
            self.end(*extras)

    def wait_until_idle(self, *, within: float = 40.0) -> None:
        """Return once no job and no webhook waits, runs or is scheduled, no message is left, and no call is open."""
        eventually(self._left_to_do, lambda left: not any(left.values()), within=within)

    def _left_to_do(self) -> dict[str, int]:
        sets = [queues.SCHEDULED, queues.LEASES, queues.WEBHOOK_SCHEDULED]
        sets += [queues.backlog_key(queue) for queue in (*queues.QUEUES, queues.WEBHOOKS)]
        lists = [queues.backlog_key(queues.BATCHES), *(queues.celery_queue(queue) for queue in queues.QUEUES)]
        # At one moment: what goes from one to another meanwhile would be in neither.
        with self.store() as client, client.pipeline(transaction=True) as pipe:
            for name in sets:
                pipe.zcard(name)
            for name in lists:
                pipe.llen(name)
            left = dict(zip(sets + lists, pipe.execute(), strict=True))
        return {**left, "in_flight": int(self.stats()["in_flight"])}

    def _redis_answers(self) -> bool:
        try:
            with self.store() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _ready_file(self, name: str) -> Path:
        file = self.folder / f"{name}.ready"
        file.unlink(missing_ok=True)
        return file

    def _python(self, part: str, *words: str, **env: str) -> None:
        self._launch(part, (sys.executable, "-m", *words), env, cwd=self.folder)

    def _launch(self, name: str, command: tuple[str, ...], env: Mapping[str, str], *, cwd: Path) -> None:
        assert not self.runs(name), f"{name} runs already"
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.parts[name] = Part(name, command, {**self._env, **env}, cwd=cwd, log=logs / f"{name}.log")

    def _when(self, name: str, ready: Callable[[], bool], *, wait: bool) -> Callable[[], None]:
        """Answer what waits until the part is ready, after waiting for it if asked to."""
        part = self.parts[name]

        def wait_for_it() -> None:
            eventually(lambda: ready() or not part.alive, within=60)
            assert ready(), f"{name} ended with {part.exit_code}: {part.said()[-2000:]}"

        if wait:
            wait_for_it()
        return wait_for_it


def _says_200(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False
