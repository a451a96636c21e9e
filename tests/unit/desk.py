"""Where batches are worked at, for tests of their books and of those who keep them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import redis

from jobs import queues
from jobs.batch_lines import Line
from jobs.batch_store import BatchRules, BatchStore, HeldBatch
from jobs.batches import NewBatch
from jobs.broker import MessageMaker
from jobs.files import FileStore, NewFile
from jobs.model import CHAT_COMPLETIONS, JobStatus, Outcome
from jobs.scripts import Scripts
from jobs.storage.directory import DirectoryStorage
from jobs.store import JobStore

BODY = b'{"model":"sim","messages":[{"role":"user","content":"hi"}]}'


class Desk:
    """A store of jobs, of batches and of files on one Redis."""

    def __init__(
        self, client: redis.Redis, messages: MessageMaker, folder: Path, rules: BatchRules | None = None
    ) -> None:
        self.redis = client
        rules = rules or BatchRules(window=4, lease_seconds=30)
        self.jobs = JobStore(client, messages, result_ttl=3600, batch_rules=rules)
        self.batches: BatchStore = self.jobs.batches
        self.files = FileStore(client, Scripts(client), DirectoryStorage(folder))

    def upload(self, lifetime: int | None = 3600) -> tuple[str, str]:
        content = self.files.reserve()
        with self.files.storage.writer(content) as sink:
            sink.write(b"line\n")
        file = self.files.create(
            NewFile(owner="ann", filename="a", purpose="batch", size=5, content=content, lifetime=lifetime)
        )
        return file.id, content

    def make(self, window: int = 3600, upload: tuple[str, str] | None = None) -> HeldBatch:
        """A batch that is held, of this upload or of another."""
        file_id, content = upload or self.upload()
        self.batches.create(NewBatch("ann", CHAT_COMPLETIONS, file_id, content, f"{window}s", window))
        held = self.batches.claim()
        assert held is not None
        return held

    def begun(self, total: int = 3) -> HeldBatch:
        held = self.make()
        self.batches.begin(held, total)
        return self.batches.renew(held)

    def expire(self, file_id: str) -> None:
        """Let the file's time be over now: its record goes by itself, and what is due for deletion then is due."""
        at = int(self.redis.hget(queues.file_key(file_id), "expires") or 0)
        assert self.redis.delete(queues.file_key(file_id)) == 1
        for content, due in self.redis.zrange(queues.GARBAGE, 0, -1, withscores=True):
            if due <= at:
                self.redis.zadd(queues.GARBAGE, {content: 1})

    @property
    def backlog(self) -> int:
        return int(self.redis.llen(queues.backlog_key(queues.BATCHES)))


def a_line(number: int) -> Line:
    return Line(number, f"c{number}", "sim", BODY)


def finish_jobs(
    desk: Desk,
    status: JobStatus = JobStatus.COMPLETED,
    *,
    only: Sequence[str] | None = None,
    result: bytes = b"{}",
) -> None:
    """End every job that waits, or these."""
    for job_id in only or [one.decode() for one in desk.redis.zrange(queues.waiting_key(queues.BULK), 0, -1)]:
        claim = desk.jobs.claim(job_id, "k" + job_id, lease_seconds=9, worker="w")
        assert not isinstance(claim, str)
        assert desk.jobs.complete(claim, Outcome(status, result if status is JobStatus.COMPLETED else None)) == "done"
