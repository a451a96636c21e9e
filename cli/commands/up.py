"""``promptq up``: the whole stack in the foreground."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import redis

from cli.stack import plan, surroundings
from cli.stack.datadir import DataDir
from cli.stack.errors import Interrupted, StackError
from cli.stack.guard import Guard
from cli.stack.plan import Choices
from cli.stack.ports import Ports
from cli.stack.readyfile import ReadyFile
from cli.stack.screen import Screen
from cli.stack.signals import StopRequests
from cli.stack.supervisor import Supervisor
from jobs.redis_clients import api_client
from jobs.settings import Settings

START_TIMEOUT = 60.0
INTERRUPTED = 130  # what a shell reports of a process that Ctrl-C ended
#: Where webhooks may go, besides the internet, of a stack that only this machine can reach.
LOOPBACK = "localhost,127.0.0.0/8,::1"
_PORT = click.IntRange(0, 65535)


@dataclass(frozen=True)
class Options:
    """The command line of ``promptq up``."""

    host: str
    port: int
    flower_port: int
    redis_port: int
    data_dir: Path
    workers: int
    concurrency: int
    api_workers: int | None
    simulator: bool
    simulator_latency: float
    ready_file: Path | None
    no_flower: bool
    grace: float
    verbose: bool


@click.command(context_settings={"show_default": True, "auto_envvar_prefix": "PROMPTQ"})
@click.option("--host", default="127.0.0.1", show_envvar=True, help="Address of the API. Needs API keys off loopback.")
@click.option("--port", type=_PORT, default=8000, show_envvar=True, help="Port of the API; 0 picks a free one.")
@click.option("--flower-port", type=_PORT, default=5555, show_envvar=True, help="Port of Flower; 0 picks a free one.")
@click.option("--redis-port", type=_PORT, default=0, show_envvar=True, help="Port of the embedded Redis; 0 picks one.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=".promptq",
    show_envvar=True,
    help="Where jobs and logs are kept; a restart goes on with what is there.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_envvar=True, help="Worker processes.")
@click.option(
    "--concurrency", type=click.IntRange(1, 5000), default=100, show_envvar=True, help="LLM calls at once per worker."
)
@click.option("--api-workers", type=click.IntRange(1, 64), show_envvar=True, help="API processes.  [default: 1]")
@click.option("--simulator", is_flag=True, help="Use the simulator even if a key of an LLM is set.")
@click.option(
    "--simulator-latency",
    type=click.FloatRange(min=0),
    default=0.5,
    show_envvar=True,
    metavar="SECONDS",
    help="How long the simulator takes for an answer.",
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    show_envvar=True,
    help="JSON file to write (addresses, key, pids) once everything answers; removed at the end.",
)
@click.option("--no-flower", is_flag=True, help="Do without Flower.")
@click.option(
    "--grace", type=click.FloatRange(min=0), default=10.0, metavar="SECONDS", help="Time to stop, before it is killed."
)
@click.option("-v", "--verbose", is_flag=True, help="Show what the parts print, too.")
def up(**options: object) -> None:
    """Start the whole stack and stay with it: Redis, API, workers, scheduler, Flower.

    Uses the Redis at PROMPTQ_REDIS_URL if that is set, and starts one of its own if not. Uses the LLM of OPENAI_API_KEY
    and OPENAI_BASE_URL if one of them is set, and a simulator if not. Ctrl-C stops everything; a second one at once.
    """
    sys.exit(_up(Options(**options), os.environ))  # type: ignore[arg-type]  # click has checked each type


def _up(options: Options, environ: Mapping[str, str]) -> int:
    """Run the stack until it is asked to stop; return the exit code. The one place where all the pieces are wired."""
    settings = surroundings.load_settings()
    outside = surroundings.read(environ, settings)
    if outside.redis_url:
        _check_redis(settings)
    screen = Screen()
    with (
        StopRequests() as requests,
        DataDir(options.data_dir) as folder,
        ReadyFile(options.ready_file) as ready_file,
    ):
        choices = _settle(options, outside, settings, environ)
        planned = plan.make(choices, folder=folder, environ=environ)
        simulated = choices.simulator_port is not None
        with (
            Guard() as guard,
            Supervisor(
                guard=guard,
                logs=folder.logs,
                requests=requests,
                stages=planned.stages,
                grace=options.grace,
                on_tick=screen.tick,
                on_line=screen.line if options.verbose else None,
            ) as supervisor,
        ):
            try:
                for wave in planned.waves:
                    if wave:
                        with screen.starting([part.name for part in wave]):
                            supervisor.start(wave, timeout=START_TIMEOUT)
            except Interrupted:
                screen.say("interrupted while starting: stopping")
                return INTERRUPTED
            elsewhere = {} if outside.redis_url is None else {"redis": _redis_name(settings)}
            elsewhere |= {} if simulated else {"llm": choices.llm_url}
            children = list(supervisor.children.values())
            if simulated:
                screen.simulated()
            ready_file.write(
                {
                    "api": choices.api_url,
                    "flower": choices.flower_url,
                    "flower_login": planned.flower_login,
                    "llm": choices.llm_url,
                    "redis": _redis_name(settings) if settings.redis_sentinels else choices.redis_url,
                    "api_key": outside.api_key,
                    "metrics": [
                        f"{choices.api_url}/metrics",
                        *(f"http://127.0.0.1:{port}/metrics" for port in choices.metrics_ports),
                    ],
                    "processes": {child.name: child.pid for child in children},
                }
            )
            screen.ready(
                children,
                elsewhere=elsewhere,
                logs=folder.logs,
                api_url=choices.api_url,
                open_access=settings.open_access,
                webhook_allow=choices.webhook_allow,
                flower_login=planned.flower_login,
            )
            asked = supervisor.watch(screen.death)
            if not asked:
                raise StackError("every part has died")
            screen.say("stopping (Ctrl-C again: at once)")
            killed = supervisor.stop()
        screen.say("stopped" + (f"; had to kill {', '.join(killed)}" if killed else ""))
        return 0


def _settle(
    options: Options, outside: surroundings.Surroundings, settings: Settings, environ: Mapping[str, str]
) -> Choices:
    """Decide what is started and on which ports."""
    problem = settings.model_copy(update={"host": options.host}).bind_problem
    if problem is not None:
        raise StackError(problem)
    local = settings.model_copy(update={"host": options.host}).bind_is_loopback
    simulated = options.simulator or outside.llm_url is None
    with Ports() as ports:
        port = ports.take(options.host, options.port, option="--port")
        flower = None if options.no_flower else ports.take("127.0.0.1", options.flower_port, option="--flower-port")
        own = None if outside.redis_url else ports.take("127.0.0.1", options.redis_port, option="--redis-port")
        simulator = ports.take("127.0.0.1", 0, option="the simulator") if simulated else None
        metrics = [ports.take("127.0.0.1", 0, option="metrics") for _ in range(options.workers + 1)]
    return Choices(
        host=options.host,
        port=port,
        redis_port=own,
        redis_url=outside.redis_url or f"redis://127.0.0.1:{own}/0",
        simulator_port=simulator,
        simulator_latency=options.simulator_latency,
        llm_url=f"http://127.0.0.1:{simulator}/v1" if simulated else str(outside.llm_url),
        flower_port=flower,
        workers=options.workers,
        concurrency=options.concurrency,
        api_workers=options.api_workers or settings.api_workers,
        grace=options.grace,
        fsync=settings.durability == "fsync",
        metrics_ports=metrics,
        flower_prefix=settings.flower_url_prefix,
        webhook_allow=None if environ.get("PROMPTQ_WEBHOOK_ALLOW") or not local else LOOPBACK,
    )


def _check_redis(settings: Settings) -> None:
    named = f"PROMPTQ_REDIS_URL ({_masked(settings.redis_url)})"
    if settings.redis_sentinels:
        named = f"PROMPTQ_REDIS_SENTINELS ({settings.redis_master})"
    try:
        with contextlib.closing(api_client(settings)) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        raise StackError(f"the Redis at {named} does not answer: {error}; unset it for the embedded one") from error


def _redis_name(settings: Settings) -> str:
    return f"{settings.redis_master}, by Sentinel" if settings.redis_sentinels else _masked(settings.redis_url)


def _masked(url: str) -> str:
    """Return ``url`` without its password."""
    before, at, host = url.rpartition("@")
    scheme, _, _ = before.partition("://")
    return f"{scheme}://***@{host}" if at else url
