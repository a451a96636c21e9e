"""Jobs that run in a process of their own, as a worker starts them: one at a time."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Final

import structlog

from worker.runner import Ran

_log = structlog.get_logger("promptq.worker")
#: How many may wait for their turn, each in a slot that others need: a job that kills its worker may have had a great
#: many neighbours. The scheduler sends the messages of the rest again, for as long as they wait.
_IN_LINE: Final = 4


class Alone:
    """Starts ``worker.alone`` for a job; a few others that must run alone wait for their turn in their slots."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        #: Those that run or wait here.
        self._here: set[str] = set()
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def __len__(self) -> int:
        return int(self._process is not None)

    def run(self, job_id: str) -> Ran | None:
        """Run the job and answer how it went; ``crashed`` if its process died, which costs the job its lease.

        ``held``: it is at that already. ``later``: too many wait, and it waits on in its queue. None: the worker stops,
        and the job was not begun.
        """
        if job_id in self._here:
            return Ran("held")
        if len(self._here) > _IN_LINE:
            return Ran("later")
        self._here.add(job_id)
        try:
            return self._run(job_id)
        finally:
            self._here.discard(job_id)

    def _run(self, job_id: str) -> Ran | None:
        with self._turn:
            if self._stopped:
                return None
            command = [sys.executable, "-m", "worker.alone", job_id]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            try:
                told, _ = self._process.communicate()
                code = self._process.returncode
            finally:
                self._process = None
        if code != 0 or not told.strip():
            _log.error("job.crashed_alone", job_id=job_id, exit_code=code)
            return Ran("crashed")
        ran = json.loads(told.strip().splitlines()[-1])
        return None if ran is None else Ran(**ran)

    def stop(self) -> None:
        """Start no more, and pass SIGTERM on to the one that runs."""
        self._stopped = True
        if self._process is not None:
            self._process.terminate()
