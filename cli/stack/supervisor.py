"""Starts the parts in order, watches them, and stops them in order. One thread, no restarts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType

from cli.stack.errors import Interrupted, StackError
from cli.stack.guard import Guard
from cli.stack.logs import Follower
from cli.stack.processes import Child, Part
from cli.stack.signals import StopRequests

_TICK = 0.05
_IDLE_TICK = 0.2


class Supervisor:
    """The running parts, for as long as the ``with`` lasts; at its end every process is gone, whatever happened.

    ``stages`` names the parts in the order in which they are stopped, those of one stage at once; each stage gets
    ``grace`` seconds before it is killed. ``on_tick`` is called several times a second, ``on_line``
    (with a part's name) for each line that a part prints.
    """

    def __init__(
        self,
        *,
        guard: Guard,
        logs: Path,
        requests: StopRequests,
        stages: Sequence[Sequence[str]],
        grace: float,
        on_tick: Callable[[], None] = lambda: None,
        on_line: Callable[[str, str], None] | None = None,
    ) -> None:
        self.children: dict[str, Child] = {}
        self._guard = guard
        self._logs = logs
        self._requests = requests
        self._stages = stages
        self._grace = grace
        self._on_tick = on_tick
        self._on_line = on_line
        self._followers: dict[str, Follower] = {}
        self._dead: set[str] = set()

    def start(self, parts: Sequence[Part], *, timeout: float) -> None:
        """Start ``parts`` at once and return when each of them answers.

        Raises `StackError`, with the end of its log, for a part that dies or that does not answer within ``timeout``
        seconds, and for one started earlier that dies meanwhile; `Interrupted` when asked to stop.
        """
        for part in parts:
            log = self._logs / f"{part.name}.log"
            child = self.children[part.name] = Child(part, log=log, guard=self._guard)
            self._followers[part.name] = Follower(log, start=child.log_start)
        deadline = time.monotonic() + timeout
        waiting = list(parts)
        while waiting:
            self._tick()
            for child in self._newly_dead():
                raise StackError(_with_log(child, f"{child.name} {child.describe_end()} while the stack was starting"))
            waiting = [part for part in waiting if not part.ready()]
            if waiting and time.monotonic() > deadline:
                slow = self.children[waiting[0].name]
                raise StackError(_with_log(slow, f"{slow.name} does not answer after {timeout:g} s"))
            if self._requests.stop:
                raise Interrupted

    def watch(self, on_death: Callable[[Child], None]) -> bool:
        """Return True once asked to stop, or False once every part has died; each death is told to ``on_death``."""
        while not self._requests.stop:
            self._tick(_IDLE_TICK)
            for child in self._newly_dead():
                self._relay()  # what it printed at the last comes first
                on_death(child)
            if len(self._dead) == len(self.children):
                return False
        return True

    def stop(self) -> list[str]:
        """Stop what still runs, stage by stage, and return the names of those that had to be killed."""
        known = {name for stage in self._stages for name in stage}
        rest = [name for name in self.children if name not in known]
        return [name for stage in (rest, *self._stages) for name in self._stop_stage(stage)]

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.stop()
        finally:
            for child in self.children.values():
                child.kill()

    def _stop_stage(self, names: Iterable[str]) -> list[str]:
        running = [child for name in names if (child := self.children.get(name)) and child.poll() is None]
        for child in running:
            child.terminate()
        deadline = time.monotonic() + self._grace
        while running and time.monotonic() < deadline and not self._requests.hurry:
            self._tick()
            running = [child for child in running if child.poll() is None]
        for child in running:
            child.kill()
        self._relay()
        return [child.name for child in running]

    def _newly_dead(self) -> list[Child]:
        dead = [child for child in self.children.values() if child.poll() is not None and child.name not in self._dead]
        self._dead.update(child.name for child in dead)
        return dead

    def _tick(self, seconds: float = _TICK) -> None:
        self._on_tick()
        self._relay()
        time.sleep(seconds)

    def _relay(self) -> None:
        if self._on_line is not None:
            for name, follower in self._followers.items():
                for line in follower.new_lines():
                    self._on_line(name, line)


def _with_log(child: Child, message: str) -> str:
    return "\n".join([message, *(f"  | {line}" for line in child.last_lines()), f"  its log: {child.log}"])
