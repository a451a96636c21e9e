"""Jobs that run in a process of their own, as a worker starts them: one at a time."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import structlog

from worker.runner import Ran

_log = structlog.get_logger("promptq.worker")


class Alone:
    """Starts ``worker.alone`` for a job; the others that must run alone wait for their turn in their slots."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def __len__(self) -> int:
        return int(self._process is not None)

    def run(self, job_id: str) -> Ran | None:
        """Run the job and answer how it went; ``crashed`` if its process died, which costs the job its lease.

        None: the worker stops, and the job was not begun.
        """
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
