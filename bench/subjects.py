"""Who runs the jobs: PromptQ's worker, and the peers'."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.environments import PEERS, our_python, peers_python
from bench.loopback import Loopback

OURS: Final = "promptq"
_ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True)
class Subject:
    """A worker, and what puts prompts into its queue (lines of standard input)."""

    name: str
    #: The folder of its program, which is its working directory.
    peer: str | None
    #: What follows the Python of its environment; ``{slots}`` is how many calls it may have in flight.
    worker: tuple[str, ...]
    fill: tuple[str, ...] = ("fill.py",)
    #: The most that it is asked to hold.
    most: int = 10_000

    def start(self, loopback: Loopback, slots: int) -> subprocess.Popen[bytes]:
        """Its worker, with so many slots."""
        with (loopback.folder / f"{self.name}.log").open("a") as log:
            return subprocess.Popen(
                [self._python(), *(part.format(slots=slots, redis=loopback.redis_url) for part in self.worker)],
                cwd=self._folder(),
                env=self._env(loopback, slots),
                stdout=log,
                stderr=log,
            )

    def enqueue(self, loopback: Loopback, prompts: list[str]) -> None:
        """Put the prompts into its queue."""
        subprocess.run(
            [self._python(), *self.fill],
            cwd=self._folder(),
            env=self._env(loopback, 1),
            input="\n".join(prompts) + "\n",
            text=True,
            check=True,
        )

    def _python(self) -> str:
        return our_python("worker") if self.peer is None else peers_python(self.peer)

    def _folder(self) -> Path:
        return _ROOT if self.peer is None else PEERS / self.peer

    def _env(self, loopback: Loopback, slots: int) -> dict[str, str]:
        outside = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PROMPTQ_", "OPENAI_", "OTEL_", "PYTHON", "VIRTUAL_ENV"))
        }
        given = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": loopback.llm_url, "REDIS_URL": loopback.redis_url}
        ours = {"PROMPTQ_REDIS_URL": loopback.redis_url, "PROMPTQ_CONCURRENCY": str(slots)}
        return outside | given | ours | {"SLOTS": str(slots)}


PROMPTQ: Final = Subject(OURS, None, ("-m", "worker"), ("-m", "bench.fill"))
#: The same, but that it tells Flower nothing.
QUIET: Final = Subject("promptq, no events", None, ("-m", "bench.quiet_worker"), ("-m", "bench.fill"))
CELERY: Final = Subject(
    "celery gevent",
    "celery",
    ("-m", "celery", "-A", "app", "worker", "--pool=gevent", "--concurrency={slots}", "--loglevel=WARNING"),
)
PREFORK: Final = Subject(
    "celery prefork",
    "celery",
    ("-m", "celery", "-A", "app", "worker", "--pool=prefork", "--concurrency={slots}", "--loglevel=WARNING"),
    most=50,
)
ARQ: Final = Subject("arq", "arq", ("-m", "arq", "app.WorkerSettings"))
RQ: Final = Subject(
    "rq",
    "rq",
    (
        *("-m", "rq.cli", "worker-pool", "--num-workers", "{slots}", "--url", "{redis}", "--quiet"),
        *("--worker-class", "app.PreloadedWorker", "--path", "."),
    ),
    most=50,
)
EVERYBODY: Final = (PROMPTQ, CELERY, ARQ, PREFORK, RQ)
