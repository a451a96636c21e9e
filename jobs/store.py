"""The job store: every transition of a job is one atomic step in Redis."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from redis import Redis
from redis.exceptions import OutOfMemoryError

from jobs import queues
from jobs.batch_store import BatchRules, BatchStore
from jobs.broker import MessageMaker
from jobs.durability import Arguments, Maker
from jobs.errors import AcceptanceUnknown, IdempotencyConflict, NotFound, NotRetryable, StoreUnavailable
from jobs.model import Claim, Job, JobStatus, NewJob, Outcome, kind_of, new_job_id
from jobs.outbox import Outbox
from jobs.queue_control import QueueControl
from jobs.redis_errors import redis_errors
from jobs.scripts import Scripts
from jobs.sealing import Sealer
from jobs.streams import Streams, first_number
from jobs.upkeep import Upkeep
from jobs.webhook_store import WebhookStore

#: What a job's record holds besides the large texts: ``request``, ``result`` and ``history``.
SUMMARY_FIELDS: Final = (
    *("v", "owner", "kind", "endpoint", "queue", "status", "model", "attempt", "strikes", "created", "started"),
    *("deadline", "retry_at", "metadata", "background", "stream", "attempt_timeout", "webhook_url"),
    *("retried_from", "retried_as", "finished", "attempts", "error", "usage", "previous"),
)

Verdict = Literal["done", "gone", "ended", "fenced"]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job that was accepted, now or earlier under the same Idempotency-Key."""

    job_id: str
    #: The job as it was made; None if it was there before.
    made: Job | None
    #: Its place in the queue, 1 for the next; None if it was there before, or was taken at once.
    position: int | None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, newest first."""

    jobs: list[Job]
    has_more: bool


class JobStore:
    """Jobs in Redis. Every method raises ``StoreUnavailable`` when Redis does not answer, unless it says otherwise."""

    def __init__(
        self,
        client: Redis,
        messages: MessageMaker,
        *,
        result_ttl: int,
        fsync: bool = False,
        sealer: Sealer | None = None,
        batch_rules: BatchRules | None = None,
    ) -> None:
        """``fsync``: whether a job counts as made only once it is on disk. ``sealer``: for the secrets of webhooks."""
        self._client = client
        self._scripts = Scripts(client)
        self._maker = Maker(client, self._scripts, fsync=fsync)
        self._messages = messages
        self._ttl_ms = result_ttl * 1000
        #: What an operator does.
        self.queues = QueueControl(client, self._scripts)
        self.batches = BatchStore(client, self._scripts, messages, batch_rules or BatchRules(), fsync=fsync)
        #: Who is told of the jobs' ends, and the telling.
        self.webhooks = WebhookStore(client, self._scripts, sealer)
        self.outbox = Outbox(client, self._scripts, ttl_ms=self._ttl_ms)
        #: What running jobs have said so far.
        self.streams = Streams(client, self._scripts)
        #: What the scheduler does.
        self.upkeep = Upkeep(client, self._scripts, messages, ttl_ms=self._ttl_ms)

    def ping(self) -> None:
        """Return if Redis answers."""
        with redis_errors():
            self._client.ping()

    def create(self, new: NewJob) -> Accepted:
        """Write the record and enqueue it in one step; answer what was made, or what is known already.

        An Idempotency-Key of the owner that is known already gives the job it made. Raises ``IdempotencyConflict`` if
        that job came of another request, ``StoreFull``, or ``AcceptanceUnknown`` if the reply was lost on the way.
        """
        idem = "" if new.idempotency_key is None else _idempotency_record(new.owner, new.idempotency_key)
        fields: dict[str, bytes | str | int] = {
            "v": new.version,
            "endpoint": new.endpoint,
            "model": new.model.encode("utf-8", "surrogatepass"),
            "request": new.request,
        }
        if new.metadata:
            fields["metadata"] = json.dumps(dict(new.metadata))
        if new.background:
            fields["background"] = 1
        if new.stream:
            fields["stream"] = first_number(new)
        if new.attempt_timeout is not None:
            fields["attempt_timeout"] = max(1, round(new.attempt_timeout * 1000))
        if new.webhook_url is not None:
            fields |= {"webhook_url": new.webhook_url, "webhook_host": new.webhook_host}
        if new.trace is not None:
            fields["trace"] = new.trace
        continues = {
            "previous": new.previous_response_id,
            "history": new.history,
            "upstream_previous": new.upstream_previous,
        }
        fields |= {name: value for name, value in continues.items() if value is not None}
        deadline = "" if new.deadline_seconds is None else max(1, round(new.deadline_seconds * 1000))
        message = self._messages.message(new.id, new.queue, new.trace)
        kind = kind_of(new.id) if new.stored else queues.UNSTORED
        known = (new.id, new.owner, kind, new.queue, idem, new.fingerprint, message, deadline)
        args: Arguments = [*known, *_flat(fields)]
        with redis_errors(lost_reply=AcceptanceUnknown):
            verdict, job_id, *made = self._maker.make_or_find(
                self._scripts.create, args, kind="job", idem=idem, fingerprint=new.fingerprint
            )
        if verdict == b"conflict":
            raise _conflict(job_id)
        if verdict != b"created":
            return Accepted(job_id.decode(), None, None)
        created_ms, rank = made
        return Accepted(new.id, new.as_job(created_ms / 1000), None if rank < 0 else rank + 1)

    def known(self, owner: str, idempotency_key: str, fingerprint: str) -> Accepted | None:
        """The job that this Idempotency-Key has made; None if there is none. Raises ``IdempotencyConflict``, or
        ``AcceptanceUnknown`` as ``create`` does."""
        idem = _idempotency_record(owner, idempotency_key)
        with redis_errors(lost_reply=AcceptanceUnknown):
            verdict, *about = self._maker.find(kind="job", idem=idem, fingerprint=fingerprint)
        if verdict == b"conflict":
            raise _conflict(about[0])
        return None if verdict == b"absent" else Accepted(about[0].decode(), None, None)

    def resubmit(self, job_id: str, owner: str, *, trace: str | None = None) -> Accepted:
        """Make a new job of one that failed or was cancelled; the same again gives the same new job.

        ``trace``: the span that makes it, as a ``traceparent``.

        Raises ``NotFound``, ``NotRetryable``, ``StoreFull``, or ``AcceptanceUnknown`` if the reply was lost on the way.
        """
        before = self.get(job_id, owner, fields=())
        new_id = new_job_id(before.endpoint)
        message = self._messages.message(new_id, before.queue, trace)
        with redis_errors(lost_reply=AcceptanceUnknown):
            try:
                verdict, *about = self._maker.make(
                    self._scripts.resubmit, [job_id, owner, new_id, message, trace or ""]
                )
            except OutOfMemoryError:
                # It was refused before it could look.
                if before.retried_as is None or not self._exists(before.retried_as):
                    raise
                return Accepted(before.retried_as, None, None)
        if verdict == b"gone":
            raise NotFound(f"No job with id '{job_id}' found.", param="id")
        if verdict == b"newer":
            raise StoreUnavailable("This job was made by a later release; its servers can retry it.", retry_after=5)
        if verdict == b"otherwise":
            status = about[0].decode()
            raise NotRetryable(f"Only a job that failed or was cancelled can be retried; this one is {status}.")
        if verdict == b"known":
            return Accepted(about[0].decode(), None, None)
        created_ms, rank = about
        return Accepted(new_id, _repeated(before, new_id, created_ms / 1000), rank + 1)

    def _exists(self, job_id: str) -> bool:
        with redis_errors():
            return bool(self._client.exists(queues.job_key(job_id)))

    def dead_letters(
        self, owner: str, *, queue_names: Sequence[str] = queues.QUEUES, limit: int = 20, after: str | None = None
    ) -> Page:
        """The owner's jobs that failed and were not retried, newest first. Raises ``NotFound`` as ``list`` does."""
        return self.list(owner, statuses=("dead",), queue_names=queue_names, limit=limit, after=after)

    def get(
        self, job_id: str, owner: str, *, fields: Iterable[str] = ("request", "result"), unstored: bool = False
    ) -> Job:
        """The owner's job, with the large fields that are named. Raises ``NotFound``, also for a line of a batch: it is
        the batch's, and what it was asked goes before it does.

        ``unstored``: also one that is not stored, for the caller whose request has made it.
        """
        names = (*SUMMARY_FIELDS, *fields)
        with redis_errors():
            values = self._client.hmget(queues.job_key(job_id), names)
        record = dict(zip((name.encode() for name in names), cast("list[bytes | None]", values), strict=True))
        if record[b"owner"] is None or record[b"owner"] != owner.encode():
            raise NotFound(f"No job with id '{job_id}' found.", param="id")
        job = Job.from_record(job_id, record)
        if record[b"kind"] == queues.LINE.encode() or (not job.stored and not unstored):
            raise NotFound(f"No job with id '{job_id}' found.", param="id")
        return job

    def position(self, job: Job) -> int | None:
        """How many jobs of its queue run before this one, counted from 1 for the next; None if it does not wait."""
        if job.status is not JobStatus.QUEUED:
            return None
        with redis_errors():
            rank = self._client.zrank(queues.waiting_key(job.queue), job.id)
        return None if rank is None else cast("int", rank) + 1

    def list(
        self,
        owner: str,
        *,
        statuses: Sequence[str] = tuple(JobStatus),
        queue_names: Sequence[str] = queues.QUEUES,
        kinds: Sequence[str] = ("job", "resp"),
        limit: int = 20,
        after: str | None = None,
        fields: Sequence[str] = (),
    ) -> Page:
        """The owner's newest jobs after the one with id ``after``. Raises ``NotFound`` if there is no such job."""
        names = (*SUMMARY_FIELDS, *fields)
        asked = (",".join(part) for part in (names, kinds, statuses, queue_names))
        args: Arguments = [owner, after or "", limit + 1, *asked]
        with redis_errors():
            found, *rows = self._scripts.list(args=args)
        if not found:
            raise NotFound(f"No job with id '{after}' found.", param="after")
        keys = [name.encode() for name in names]
        jobs = [Job.from_record(row[0].decode(), dict(zip(keys, row[1:], strict=True))) for row in rows[:limit]]
        return Page(jobs, has_more=len(rows) > limit)

    def cancel(self, job_id: str, owner: str, *, unstored: bool = False) -> bool:
        """End the job as cancelled; False if it had ended already.

        Raises ``NotFound``. ``unstored``: as for ``get``.
        """
        with redis_errors():
            verdict = self._scripts.cancel(args=[job_id, owner, self._ttl_ms, int(unstored)])
        if verdict == b"gone":
            raise NotFound(f"No job with id '{job_id}' found.", param="id")
        return bool(verdict == b"cancelled")

    def delete(self, job_id: str, owner: str) -> None:
        """Remove the job, whatever it does now. Raises ``NotFound``."""
        with redis_errors():
            if not self._scripts.delete(args=[job_id, owner]):
                raise NotFound(f"No job with id '{job_id}' found.", param="id")

    def claim(
        self, job_id: str, claim_id: str, *, lease_seconds: float, worker: str, alone: bool = True
    ) -> Claim | str:
        """Take a waiting job; or say why not.

        That is ``gone``, ``held``, ``ended``, ``expired``, ``over`` (its batch is being ended, and it with it),
        ``later``, ``alone``, ``newer`` (it is for a worker of a later release) or ``paused`` (its queue is, and will
        tell of it again). ``alone``: whether the claimant runs nothing else. Only such a one gets a job that its worker
        has died under twice.
        """
        with redis_errors():
            verdict, *record = self._scripts.claim(
                args=[job_id, claim_id, round(lease_seconds * 1000), worker, self._ttl_ms, int(alone)]
            )
        if verdict == b"paused":
            # The message was taken before the queue was paused; another goes where the queue's others are kept.
            queue, seen = (part.decode() for part in record)
            self.upkeep.repair(job_id, queue, int(seen))
        if verdict != b"claimed":
            return str(verdict.decode())
        fields = dict(zip(record[::2], record[1::2], strict=True))
        deadline = fields.get(b"deadline")
        time_left = None if deadline is None else (int(deadline) - int(fields[b"claimed"])) / 1000
        first = fields[b"started"] == fields[b"claimed"]
        return Claim(claim_id, Job.from_record(job_id, fields), time_left, first)

    def renew(self, claims: Mapping[str, str], *, lease_seconds: float) -> Sequence[str]:
        """Renew the leases of these jobs (id to claim id) in one round trip; answer the ids that are ours no longer."""
        pairs = [part for pair in claims.items() for part in pair]
        with redis_errors():
            lost = self._scripts.renew(args=[round(lease_seconds * 1000), *pairs])
        return [job_id.decode() for job_id in lost]

    def complete(self, claim: Claim, outcome: Outcome, *, attempts: Sequence[Mapping[str, Any]] = ()) -> Verdict:
        """End a job with its outcome, unless another has claimed it since (``fenced``) or it has ended."""
        fields = outcome.fields()
        if attempts:
            fields["attempts"] = json.dumps(attempts)
        args: Arguments = [claim.job.id, claim.claim_id, outcome.status.value, self._ttl_ms, *_flat(fields)]
        with redis_errors():
            return self._scripts.complete(args=args).decode()  # type: ignore[no-any-return]

    def retry(
        self, claim: Claim, *, attempt: int, attempts: Sequence[Mapping[str, Any]], delay: float, keep_slot: bool
    ) -> Verdict:
        """Note a failed attempt; keep the claim for the next one, or schedule that ``delay`` seconds from now."""
        slot = "keep" if keep_slot else "free"
        code = str(attempts[-1].get("error_code", "")) if attempts else ""
        args: Arguments = [claim.job.id, claim.claim_id, attempt, json.dumps(attempts), round(delay * 1000), slot, code]
        with redis_errors():
            return self._scripts.retry(args=args).decode()  # type: ignore[no-any-return]

    def hand_back(self, claim: Claim) -> Verdict:
        """Give a running job back to the head of its queue, with no attempt counted."""
        message = self._messages.message(claim.job.id, claim.job.queue)
        args: Arguments = ["handback", claim.job.id, claim.claim_id, message, self._ttl_ms]
        with redis_errors():
            return self._scripts.release(args=args).decode()  # type: ignore[no-any-return]


def _repeated(job: Job, new_id: str, created_at: float) -> Job:
    """The job that repeats this one, as it was made."""
    return Job(
        id=new_id,
        owner=job.owner,
        endpoint=job.endpoint,
        queue=job.queue,
        status=JobStatus.QUEUED,
        model=job.model,
        attempt=0,
        created_at=created_at,
        deadline_at=None if job.deadline_at is None else round(created_at + job.deadline_at - job.created_at, 3),
        metadata=job.metadata,
        background=job.background,
        stream=job.stream,
        attempt_timeout=job.attempt_timeout,
        webhook_url=job.webhook_url,
        retried_from=job.id,
        previous_response_id=job.previous_response_id,
    )


def _idempotency_record(owner: str, idempotency_key: str) -> str:
    # Hashed: a key may hold any text.
    digest = hashlib.sha256(idempotency_key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{queues.PREFIX}idem:{owner}:{digest}"


def _conflict(job_id: bytes) -> IdempotencyConflict:
    return IdempotencyConflict(
        f"This Idempotency-Key was used for another request, which made the job {job_id.decode()}."
    )


def _flat(fields: Mapping[str, bytes | str | int]) -> list[bytes | str | int]:
    return [part for pair in fields.items() for part in pair]
