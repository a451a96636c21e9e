"""What was submitted, what was seen, and whether it agrees with what the store and the LLM say in the end.

Knows nothing of pytest or of how jobs are driven, and is cheap enough for tens of thousands of jobs.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import redis

from jobs import queues
from simulator.prompts import prompt_hash

Kind = Literal["lost", "unexpected", "double", "wrongly_failed", "overpaid"]
Record = Mapping[str, bytes]
TERMINAL = frozenset({"completed", "failed", "cancelled", "incomplete"})
_FIELDS = ("request", "status", "finished", "result", "error", "attempt", "strikes", "hand_backs")


def records_of(client: redis.Redis) -> dict[str, Record]:
    """What the store holds of each job, by its id."""
    keys = list(client.scan_iter(queues.job_key("*"), count=1000))
    found: dict[str, Record] = {}
    for start in range(0, len(keys), 500):
        part = keys[start : start + 500]
        with client.pipeline(transaction=False) as pipe:
            for key in part:
                pipe.hmget(key, _FIELDS)
            rows = pipe.execute()
        for key, values in zip(part, rows, strict=True):
            record = {name: value for name, value in zip(_FIELDS, values, strict=True) if value is not None}
            if record:
                found[key.decode().removeprefix(queues.job_key(""))] = record
    return found


@dataclass(frozen=True, slots=True)
class End:
    """A terminal state, as comparable whoever saw it."""

    status: str
    finished_ms: int
    #: Digest of the result and of the error's code.
    digest: str


@dataclass(slots=True)
class _Prompt:
    """All submits of one prompt. One prompt is one intention: it has one Idempotency-Key, or none."""

    text: str
    key: str | None
    good: bool
    acknowledged: set[str] = field(default_factory=set)
    #: Submits that made a job for sure, and that may have made one.
    accepted: int = 0
    unknown: int = 0
    refused: int = 0

    @property
    def jobs_allowed(self) -> int:
        """How many jobs it may have become."""
        possible = self.accepted + self.unknown
        return min(1, possible) if self.key is not None else possible


@dataclass(frozen=True)
class Report:
    """Violations by kind; none is what should be."""

    violations: Mapping[Kind, list[str]]

    @property
    def clean(self) -> bool:
        """Whether nothing was violated."""
        return not self.violations

    def __str__(self) -> str:
        lines = [f"{kind}: {len(found)}\n  " + "\n  ".join(found[:10]) for kind, found in self.violations.items()]
        return "\n".join(lines) or "no violations"


class History:
    """Records submits and ends from any number of threads; ``check`` compares them with the store and the LLM."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._prompts: dict[str, _Prompt] = {}
        self._ends: dict[str, set[End]] = defaultdict(set)
        self._attempts_seen: dict[str, int] = {}

    def accepted(self, prompt: object, job_id: str, *, key: str | None = None, good: bool = True) -> None:
        """The submit was acknowledged with this job."""
        with self._lock:
            known = self._known(prompt, key, good)
            known.acknowledged.add(job_id)
            known.accepted += 1

    def refused(self, prompt: object, *, key: str | None = None, good: bool = True) -> None:
        """The submit was refused, and the answer says that nothing was made."""
        with self._lock:
            self._known(prompt, key, good).refused += 1

    def unknown(self, prompt: object, *, key: str | None = None, good: bool = True) -> None:
        """The submit had no answer, or one that leaves open whether a job was made."""
        with self._lock:
            self._known(prompt, key, good).unknown += 1

    def observe(self, job: Mapping[str, Any]) -> None:
        """Somebody was shown this job by the API; what has not ended yet is passed over."""
        if job["status"] not in TERMINAL:
            return
        end = _end_shown(job)
        with self._lock:
            self._ends[job["id"]].add(end)
            self._attempts_seen[job["id"]] = int(job.get("attempt", 0))

    def job_ids(self) -> list[str]:
        """Every job that was acknowledged."""
        with self._lock:
            return [job_id for prompt in self._prompts.values() for job_id in prompt.acknowledged]

    def undecided(self) -> list[str]:
        """Prompts of which nobody knows yet whether they became a job."""
        with self._lock:
            return [prompt.text for prompt in self._prompts.values() if prompt.unknown and not prompt.accepted]

    def check(self, *, calls: Mapping[str, int], records: Mapping[str, Record]) -> Report:
        """Compare with the LLM's calls by prompt hash and with all of the store's records."""
        with self._lock:
            found: dict[Kind, list[str]] = defaultdict(list)
            for kind, what in self._violations(calls, records):
                found[kind].append(what)
        return Report(dict(found))

    def _known(self, prompt: object, key: str | None, good: bool) -> _Prompt:
        known = self._prompts.setdefault(prompt_hash({"messages": prompt}), _Prompt(str(prompt), key, good))
        if known.key != key:
            raise ValueError("a prompt keeps its Idempotency-Key: use a prompt of its own for each")
        return known

    def _violations(self, calls: Mapping[str, int], records: Mapping[str, Record]) -> Iterator[tuple[Kind, str]]:
        jobs_of: dict[str, set[str]] = defaultdict(set)
        for job_id, record in records.items():
            jobs_of[prompt_hash(json.loads(record["request"]))].add(job_id)
        for digest, prompt in self._prompts.items():
            jobs_of[digest] |= prompt.acknowledged
        for digest, job_ids in jobs_of.items():
            yield from self._of_prompt(self._prompts.get(digest), digest, job_ids, records)
            explained = [self._allowed_calls(job_id, records.get(job_id)) for job_id in job_ids]
            allowed = sum(one for one in explained if one is not None)
            if job_ids and None not in explained and calls.get(digest, 0) > allowed:
                yield "overpaid", f"{sorted(job_ids)}: {calls[digest]} calls, {allowed} allowed"
        for digest, count in calls.items():
            if not jobs_of.get(digest):
                yield "unexpected", f"{count} calls for the prompt {digest}, which is no job's"

    def _of_prompt(
        self, prompt: _Prompt | None, digest: str, job_ids: set[str], records: Mapping[str, Record]
    ) -> Iterator[tuple[Kind, str]]:
        allowed = prompt.jobs_allowed if prompt is not None else 0
        if len(job_ids) > allowed:
            kind: Kind = "double" if prompt is not None and prompt.key is not None and allowed else "unexpected"
            yield kind, f"{sorted(job_ids)} of the prompt {digest}, which may have {allowed}"
        for job_id in job_ids:
            ends = self._ends.get(job_id, set())
            record = records.get(job_id)
            stands = record["status"].decode() if record is not None else "gone"
            if record is not None and stands in TERMINAL:
                ends = ends | {_end_stored(record)}
            if not ends:
                # Also one that was never acknowledged: what is in the store must end.
                yield "lost", f"{job_id} is {stands}"
            if len(ends) > 1 or (ends and record is not None and stands not in TERMINAL):
                yield "double", f"{job_id} ended as {sorted(map(str, ends))}, and is {stands}"
            if prompt is not None and prompt.good and any(end.status != "completed" for end in ends):
                error = record.get("error", b"").decode() if record is not None else ""
                yield "wrongly_failed", f"{job_id} ended as {sorted(end.status for end in ends)} {error}"

    def _allowed_calls(self, job_id: str, record: Record | None) -> int | None:
        """How many calls the job explains; None if nobody ever saw its end and it is gone: it is lost as it is."""
        if record is None:
            return self._attempts_seen.get(job_id)
        counted = Counter({name: int(record.get(name, b"0")) for name in ("attempt", "strikes", "hand_backs")})
        return counted.total()


def _end_shown(job: Mapping[str, Any]) -> End:
    code = (job.get("error") or {}).get("code")
    return End(job["status"], round(job["finished_at"] * 1000), _digest(job.get("result"), code))


def _end_stored(record: Record) -> End:
    result = json.loads(record["result"]) if "result" in record else None
    code = json.loads(record["error"])["code"] if "error" in record else None
    return End(record["status"].decode(), int(record["finished"]), _digest(result, code))


def _digest(result: object, code: str | None) -> str:
    text = json.dumps([result, code], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
