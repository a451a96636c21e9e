"""One part of the stack as a process of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.stack.errors import StackError
from cli.stack.guard import Guard
from cli.stack.logs import tail
from cli.stack.ready import Ready

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Part:
    """What to run, and how to know that it answers.

    ``env`` is the whole environment. ``address`` is what the table shows of it; parts without one have no port.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    ready: Ready
    address: str = ""
    cwd: Path | None = None


class Child:
    """A running `Part`, leader of its own session, so that the terminal's Ctrl-C does not reach it.

    Its output is appended to ``log``. It dies with us: on Linux by the parent-death signal, everywhere through the
    guard. Start it from the main thread only, since the kernel takes the thread for the parent. Raises `StackError`
    when the program cannot be run.
    """

    def __init__(self, part: Part, *, log: Path, guard: Guard) -> None:
        self.part = part
        self.log = log
        self._guard = guard
        with log.open("ab") as output:
            self.log_start = output.tell()
            try:
                self._process = subprocess.Popen(
                    part.command,
                    env=dict(part.env),
                    cwd=part.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_dying_with(os.getpid()),
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise StackError(f"{part.name} cannot be started: {part.command[0]}: {error}") from error
        guard.add(self.pid)

    @property
    def name(self) -> str:
        """The part's name."""
        return self.part.name

    @property
    def pid(self) -> int:
        """The process id, which is the process group's as well."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return how it ended (an exit code, or a signal's number below zero), or None while it runs.

        What the dead leader leaves of its group is killed, for nobody else would end it.
        """
        if self._process.returncode is None and self._process.poll() is not None:
            self.signal_group(signal.SIGKILL)
            self._guard.remove(self.pid)
        return self._process.returncode

    def terminate(self) -> None:
        """Ask it to stop (SIGTERM to the leader, who knows how to end the rest)."""
        self._process.terminate()

    def kill(self) -> None:
        """End its whole process group at once, and wait until its leader is gone."""
        if self._process.returncode is None:
            self.signal_group(signal.SIGKILL)
            self._process.wait()
            self._guard.remove(self.pid)

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to every process of its group."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # nobody left; or, on macOS, nothing but zombies
            return

    def describe_end(self) -> str:
        """Say in words how it ended."""
        code = self._process.returncode
        if code is None:
            return "is running"
        if code >= 0:
            return f"exited with code {code}"
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"

    def last_lines(self) -> list[str]:
        """Return the end of what it has printed in this run."""
        return tail(self.log, start=self.log_start)


def _dying_with(parent: int) -> Callable[[], None] | None:
    """Return what a new child does before it becomes its program: ask the kernel to be killed when we die."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def preexec() -> None:
        # A kernel that refuses (seccomp) leaves us the guard.
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # we died before the call, so the signal will never come
            os._exit(1)

    return preexec
