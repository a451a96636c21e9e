"""Kills the stack's processes when ``promptq up`` itself is killed with -9.

``up`` holds the write end of a pipe and this small process the read end. However ``up`` ends, the kernel closes its
end; the guard then kills each process group that is still on its list. Linux's parent-death signal (see
`cli.stack.processes`) reaches direct children only, and exists on Linux only; gunicorn's workers, say, would live on
for as long as a long-poll does.

Runs as a script (``python -I -S guard.py``), so that it starts at once: nothing here imports more than it must.
"""

import os
import signal
import subprocess
import sys
from types import TracebackType


class Guard:
    """A guard process for as long as the ``with`` lasts; what is still on its list at the end is killed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        # Not before it is deaf to signals: one that is sent to everybody can come right now.
        assert self._process.stdout is not None
        with self._process.stdout as announcement:
            announcement.readline()

    @property
    def pid(self) -> int:
        """The guard's own process id."""
        return self._process.pid

    def add(self, group: int) -> None:
        """Put a process group on the list."""
        self._tell(f"+{group}\n")

    def remove(self, group: int) -> None:
        """Take a process group off the list, before its number can be used again."""
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        if self._process.poll() is None:
            # A pipe to a guard that somebody killed is no reason to fall: on Linux the parent-death signal is left.
            try:
                os.write(self._process.stdin.fileno(), line.encode())
            except BrokenPipeError:
                self._process.wait()

    def __enter__(self) -> "Guard":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def keep_watch(source: int) -> None:
    """Read ``+GROUP`` and ``-GROUP`` lines from the file descriptor ``source``; at its end kill the groups left."""
    groups: set[int] = set()
    with os.fdopen(source) as lines:
        for line in lines:
            change = groups.add if line[0] == "+" else groups.discard
            change(int(line[1:]))
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # gone; or, on macOS, nothing but zombies
            continue


if __name__ == "__main__":
    # A signal sent to everybody (systemd does) must not end the guard before the one it guards.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    print("watching", flush=True)
    keep_watch(sys.stdin.fileno())
