"""One process of a cluster, which can be killed, stopped, frozen and thawed on its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil


class Part:
    """A process that leads a group of its own, so that what it starts (gunicorn's workers) can be ended with it."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], *, cwd: Path, log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("a") as output:
            self._process = subprocess.Popen(
                command,
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id, which is the group's as well."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs; a frozen one does."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code once it has ended; minus the signal's number where a signal ended it."""
        return self._process.poll()

    def terminate(self) -> None:
        """Send SIGTERM and return at once."""
        self._process.terminate()

    def stop(self, *, within: float = 20.0) -> int:
        """Send SIGTERM, wait for the end, and answer the exit code."""
        self.terminate()
        return self._process.wait(within)

    def died(self, *, within: float = 20.0) -> int:
        """Wait until it has ended by itself, and answer the exit code."""
        return self._process.wait(within)

    def kill(self) -> None:
        """Send SIGKILL to this process alone, as the kernel does when memory runs out."""
        self._process.kill()
        self._process.wait(10)

    def kill_group(self) -> None:
        """Send SIGKILL to this process and all that it has started; nothing happens if they are gone."""
        if not self.alive and Path(f"/proc/{self.pid}").exists():
            return  # nothing of ours is left, or its number could not have been given to another process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(10)

    def freeze(self) -> None:
        """Send SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    @property
    def frozen(self) -> bool:
        """Whether it is stopped."""
        return bool(psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)

    def thaw(self) -> None:
        """Send SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def said(self) -> str:
        """What it has logged, and what those of the same name before it have."""
        return self.log.read_text()
