"""Which parts a stack has: their command lines, their addresses, their order."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.stack import valkey
from cli.stack.datadir import DataDir
from cli.stack.ports import reachable
from cli.stack.processes import Part
from cli.stack.ready import file_written, http_ok, redis_answers
from cli.stack.surroundings import for_children


@dataclass(frozen=True)
class Choices:
    """What the user chose, with every port settled. A part that is not ours to start has no port (None)."""

    host: str
    port: int
    redis_port: int | None
    redis_url: str
    simulator_port: int | None
    simulator_latency: float
    llm_url: str
    flower_port: int | None
    workers: int
    concurrency: int
    api_workers: int
    grace: float
    #: Whether the embedded Redis writes to disk before each answer, rather than every second.
    fsync: bool = False
    #: What webhooks may reach besides the internet (``PROMPTQ_WEBHOOK_ALLOW``); None: the user's own setting.
    webhook_allow: str | None = None
    #: Below which path Flower answers.
    flower_prefix: str = "flower"
    #: Where the workers, and last the scheduler, export their metrics, by port; empty: nowhere.
    metrics_ports: Sequence[int] = ()

    @property
    def api_url(self) -> str:
        """Where the API answers."""
        return f"http://{reachable(self.host)}:{self.port}"

    @property
    def flower_url(self) -> str | None:
        """Where Flower answers, if it runs."""
        return None if self.flower_port is None else f"http://127.0.0.1:{self.flower_port}/{self.flower_prefix}/"


@dataclass(frozen=True)
class Plan:
    """The parts in waves (those of one wave start at once), and their names in the order in which they stop."""

    waves: Sequence[Sequence[Part]]
    stages: Sequence[Sequence[str]]
    #: ``user:password`` of Flower; None if it is not started, or asks an OAuth provider.
    flower_login: str | None


def make(choices: Choices, *, folder: DataDir, environ: Mapping[str, str]) -> Plan:
    """Return the plan for ``choices``; raises `StackError` where a server that is needed is not installed."""
    simulated = choices.simulator_port is not None
    changes = {
        "PROMPTQ_HOST": choices.host,
        "PROMPTQ_PORT": str(choices.port),
        "PROMPTQ_REDIS_URL": choices.redis_url,
        "PROMPTQ_CONCURRENCY": str(choices.concurrency),
        "PROMPTQ_API_WORKERS": str(choices.api_workers),
        # Sooner than we kill: what still runs is then handed back at once, not when its lease has run out.
        "PROMPTQ_GRACE_SECONDS": f"{choices.grace * 0.7:g}",
    }
    if not environ.get("PROMPTQ_ENCRYPTION_KEYS"):
        changes["PROMPTQ_ENCRYPTION_KEYS"] = folder.encryption_key()
    if not environ.get("PROMPTQ_STORAGE"):
        changes["PROMPTQ_STORAGE"] = str(folder.files)
    if choices.webhook_allow is not None:
        changes["PROMPTQ_WEBHOOK_ALLOW"] = choices.webhook_allow
    if simulated:
        changes |= {"OPENAI_BASE_URL": choices.llm_url, "OPENAI_API_KEY": "simulator"}
    env = for_children(environ, changes, simulated=simulated)
    workers = [
        _worker(f"worker-{number}", {**env, **_metrics(choices, number - 1)}, folder.run)
        for number in range(1, choices.workers + 1)
    ]
    scheduler = _scheduler({**env, **_metrics(choices, -1)}, folder.run)
    login = None
    if choices.flower_port is not None and not environ.get("FLOWER_AUTH"):
        login = environ.get("FLOWER_BASIC_AUTH") or folder.flower_login()
    first = [*_redis(choices, env, folder.valkey), *_simulator(choices, env)]
    second = [_api(choices, env, folder.metrics), *workers, scheduler, *_flower(choices, env, login)]
    stages = [["flower"], ["api"], ["scheduler"], [part.name for part in workers], ["simulator"], ["redis"]]
    return Plan(waves=[first, second], stages=stages, flower_login=login)


def _python(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *words)


def _redis(choices: Choices, env: Mapping[str, str], directory: Path) -> list[Part]:
    port = choices.redis_port
    if port is None:
        return []
    command = valkey.command(valkey.find_server(), port, fsync=choices.fsync)
    return [Part("redis", command, env, redis_answers(choices.redis_url), f"127.0.0.1:{port}", cwd=directory)]


def _simulator(choices: Choices, env: Mapping[str, str]) -> list[Part]:
    port = choices.simulator_port
    if port is None:
        return []
    latency = f"{choices.simulator_latency:g}"
    command = _python("simulator", "--host", "127.0.0.1", "--port", str(port), "--latency", latency)
    return [Part("simulator", command, env, http_ok(f"http://127.0.0.1:{port}/healthz"), choices.llm_url)]


def _api(choices: Choices, env: Mapping[str, str], metrics: Path) -> Part:
    command = _python("gunicorn", "-c", "python:api.gunicorn_conf", "api.wsgi:app")
    # Several processes share their counts through files; ours are removed at the next start, gunicorn's own never.
    own = {"PROMETHEUS_MULTIPROC_DIR": str(metrics)} if choices.api_workers > 1 else {}
    return Part("api", command, {**env, **own}, http_ok(f"{choices.api_url}/readyz"), choices.api_url)


def _metrics(choices: Choices, place: int) -> dict[str, str]:
    if not choices.metrics_ports:
        return {}
    return {"PROMPTQ_METRICS_HOST": "127.0.0.1", "PROMPTQ_METRICS_PORT": str(choices.metrics_ports[place])}


def _worker(name: str, env: Mapping[str, str], run: Path) -> Part:
    ready = run / f"{name}.ready"
    own = {"PROMPTQ_WORKER_NAME": name, "PROMPTQ_WORKER_READY_FILE": str(ready)}
    return Part(name, _python("worker"), {**env, **own}, file_written(ready))


def _scheduler(env: Mapping[str, str], run: Path) -> Part:
    ready = run / "scheduler.ready"
    own = {"PROMPTQ_SCHEDULER_READY_FILE": str(ready)}
    return Part("scheduler", _python("worker.scheduler"), {**env, **own}, file_written(ready))


def _flower(choices: Choices, env: Mapping[str, str], login: str | None) -> list[Part]:
    if choices.flower_port is None:
        return []
    # Loopback whatever --host says, and even there not for every user of the machine.
    own = {"PROMPTQ_FLOWER_HOST": "127.0.0.1", "PROMPTQ_FLOWER_PORT": str(choices.flower_port)}
    own |= {} if login is None else {"FLOWER_BASIC_AUTH": login}
    ready = http_ok(f"{choices.flower_url}healthcheck")
    return [Part("flower", _python("worker.dashboard"), {**env, **own}, ready, f"{choices.flower_url}")]
