"""Dead letters over all their pages."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cli.client.api import Job
from cli.client.errors import ClientError
from cli.client.tables import error_code

_PAGE = 100
_NEW_STARTS = 5
_DAY = 86400.0

#: Gives a page for ``queue``, ``limit`` and ``after``.
Ask = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Choice:
    """Which dead letters are meant; None is any."""

    queue: str | None = None
    code: str | None = None
    older_than: float | None = None  # days

    def __contains__(self, job: Job) -> bool:
        """Whether the job, of the right queue, is meant."""
        if self.code is not None and error_code(job) != self.code:
            return False
        failed = job.get("finished_at")
        # One whose end is not known is not known to be old.
        return self.older_than is None or (
            isinstance(failed, (int, float)) and failed <= time.time() - self.older_than * _DAY
        )

    def words(self) -> str:
        """Return the options of a list that make this choice, each after a space."""
        given = (("-q", self.queue), ("--code", self.code))
        return "".join(f" {option} {shlex.quote(value)}" for option, value in given if value is not None)


def matching(ask: Ask, choice: Choice, *, after: str | None = None) -> Iterator[Job]:
    """Yield the dead letters that are meant, newest first, each once; raises what ``ask`` does."""
    seen: set[str] = set()
    cursor, starts = after, 1
    while True:
        try:
            page = ask(queue=choice.queue, limit=_PAGE, after=cursor)
        except ClientError as error:
            # Somebody deleted the job that the page begins after: begin anew, past what is known.
            if error.status != 404 or cursor == after or starts == _NEW_STARTS:
                raise
            cursor, starts = after, starts + 1
            continue
        for job in page.get("data") or []:
            if job["id"] not in seen:
                seen.add(job["id"])
                if job in choice:
                    yield job
        if not page.get("has_more") or not page.get("last_id"):
            return
        cursor = str(page["last_id"])
