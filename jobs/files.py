"""Files: their records in Redis, their contents in the storage."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

import structlog
from redis import Redis

from jobs import queues
from jobs.durability import Maker
from jobs.errors import (
    AcceptanceUnknown,
    IdempotencyConflict,
    NotFound,
    OutcomeUnknown,
    StorageOff,
    StorageUnavailable,
    Unavailable,
)
from jobs.redis_errors import redis_errors
from jobs.scripts import Scripts
from jobs.storage import ABANDONED_AFTER, Chunks, Storage

_log = structlog.get_logger("promptq.files")

#: What a file can be uploaded for, as the openai SDK has it (``types/file_purpose.py``).
UploadPurpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
#: What any file can be for, as the openai SDK has it (``types/file_object.py``). Only the first is made here.
Purpose = Literal[
    "batch_output", "assistants", "batch", "fine-tune", "vision", "user_data", "evals", "assistants_output",
    "fine-tune-results",
]  # fmt: skip
BATCH: Final[Purpose] = "batch"
BATCH_OUTPUT: Final[Purpose] = "batch_output"
PURPOSES: Final[Sequence[Purpose]] = get_args(Purpose)

#: How long (seconds) a file is kept that says nothing of it; None: until it is deleted. As OpenAI's are.
DEFAULT_LIFETIME: Final[Mapping[str, int | None]] = {BATCH: 30 * 24 * 3600, BATCH_OUTPUT: 30 * 24 * 3600}
MIN_LIFETIME: Final = 3600
MAX_LIFETIME: Final = 30 * 24 * 3600
#: How long an Idempotency-Key of an upload is known, in seconds, if its file is there for so long.
_IDEMPOTENT_FOR: Final = 7 * 24 * 3600
#: A storage that refuses so many deletions is down: each can take a minute to be refused.
_GIVE_UP_AFTER: Final = 3
#: Records that are asked for at once.
_PAGE: Final = 500
_FIELDS: Final = ("owner", "filename", "purpose", "bytes", "content", "created", "expires", "seq")


@dataclass(frozen=True, slots=True)
class File:
    """A file's record. Times are Unix seconds."""

    id: str
    owner: str
    filename: str
    purpose: Purpose
    size: int
    #: Its key in the storage.
    content: str
    created_at: float
    #: None: it is kept until it is deleted.
    expires_at: float | None

    @classmethod
    def from_record(cls, file_id: str, values: Sequence[bytes | None]) -> File | None:
        """Read the fields that ``_FIELDS`` names; None if there is no such record."""
        record = dict(zip(_FIELDS, values, strict=True))
        if record["owner"] is None:
            return None
        text = {name: (value or b"").decode() for name, value in record.items()}
        return cls(
            id=file_id,
            owner=text["owner"],
            filename=text["filename"],
            purpose=cast("Purpose", text["purpose"]),
            size=int(text["bytes"]),
            content=text["content"],
            created_at=int(text["created"]) / 1000,
            expires_at=int(text["expires"]) / 1000 if text["expires"] else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """What a file is made of, once its content is written."""

    owner: str
    filename: str
    purpose: Purpose
    size: int
    #: The key that ``FileStore.reserve`` gave.
    content: str
    #: In seconds; None: until it is deleted.
    lifetime: int | None
    idempotency_key: str | None = None
    #: What an Idempotency-Key stands for.
    fingerprint: str = ""

    def as_file(self, file_id: str, created_at: float) -> File:
        """The file that it became (Unix seconds)."""
        return File(
            id=file_id,
            owner=self.owner,
            filename=self.filename.encode("utf-8", "replace").decode(),
            purpose=self.purpose,
            size=self.size,
            content=self.content,
            created_at=created_at,
            expires_at=None if self.lifetime is None else created_at + self.lifetime,
        )


@dataclass(frozen=True, slots=True)
class FilePage:
    """One page of a listing."""

    files: list[File]
    has_more: bool


class FileStore:
    """Files. Every method raises ``StoreUnavailable`` when Redis does not answer, and those that touch contents
    ``StorageUnavailable`` when the storage does not."""

    def __init__(self, client: Redis, scripts: Scripts, storage: Storage, *, fsync: bool = False) -> None:
        """``fsync``: whether a file counts as made only once its record is on disk."""
        self._maker = Maker(client, scripts, fsync=fsync)
        self._client = client
        self._scripts = scripts
        self.storage = storage

    def reserve(self) -> str:
        """A new key for content that is about to be written; what lies under it is deleted if no file takes it within
        a day. Raises ``StoreFull``."""
        content = new_content()
        with redis_errors():
            self._scripts.file_reserve(args=[content, ABANDONED_AFTER * 1000])
        return content

    def create(self, new: NewFile) -> File:
        """Make a file of content that is written; or find the one that the owner's Idempotency-Key has made, and then
        delete the new content.

        Raises ``StoreFull``; ``OutcomeUnknown`` if the reply was lost, ``AcceptanceUnknown`` if the record is not on
        disk in time; ``IdempotencyConflict`` if the key was used for another upload. Unless it is unknown whether there
        is a file, no content is left that is no file's.
        """
        file_id = new_file_id()
        idem = "" if new.idempotency_key is None else _idempotency_key(new.owner, new.idempotency_key)
        lifetime = "" if new.lifetime is None else new.lifetime * 1000
        name = new.filename.encode("utf-8", "replace")
        args: list[bytes | str | int | float] = [file_id, new.owner, name, new.purpose, new.size, new.content]
        args += [lifetime, idem, new.fingerprint, _IDEMPOTENT_FOR * 1000]
        try:
            with redis_errors(lost_reply=OutcomeUnknown):
                verdict, found, *made = self._maker.make(self._scripts.file_create, args)
        except (OutcomeUnknown, AcceptanceUnknown):
            raise
        except Unavailable:
            self.forget(new.content)
            raise
        if verdict == b"created":
            # From what is known: asking Redis again could fail, and the caller would be told that nothing was made.
            return new.as_file(file_id, int(made[0]) / 1000)
        self.forget(new.content)
        if verdict == b"conflict":
            raise IdempotencyConflict(
                "This Idempotency-Key was used for another upload: use a new key for a new file.",
                param="Idempotency-Key",
            )
        if verdict == b"late":
            raise StorageUnavailable("The upload took too long. Try again.")
        return self.get(found.decode(), new.owner)

    def forget(self, content: str) -> None:
        """Delete content that no file has taken. What cannot be deleted now is left to ``purge_expired``."""
        try:
            self._delete_content(content)
        except (Unavailable, StorageOff) as error:
            _log.warning("files.left_for_later", error=error.code)

    def get(self, file_id: str, owner: str) -> File:
        """The owner's file. Raises ``NotFound``."""
        with redis_errors():
            values = cast("list[bytes | None]", self._client.hmget(queues.file_key(file_id), list(_FIELDS)))
        file = File.from_record(file_id, values)
        if file is None or file.owner != owner:
            raise _unknown()
        return file

    def read(self, file: File, offset: int = 0) -> Chunks:
        """The file's content. Raises ``ContentMissing``."""
        return self.storage.read(file.content, offset)

    def page(
        self,
        owner: str,
        *,
        purpose: Purpose | None = None,
        ascending: bool = False,
        limit: int = 10_000,
        after: str | None = None,
    ) -> FilePage:
        """The owner's files after the one with id ``after``, the newest first or the oldest. Raises ``NotFound`` if
        there is no such file."""
        index = queues.files_key(owner, purpose or "all")
        bound = "-inf" if ascending else "+inf"
        if after is not None:
            bound = f"({self._place(after, owner)}"
        files: list[File] = []
        while len(files) <= limit:
            wanted = min(limit + 1 - len(files), _PAGE)
            with redis_errors():
                ids, bound = self._ids(index, bound, wanted, ascending=ascending)
                with self._client.pipeline(transaction=False) as pipe:
                    for file_id in ids:
                        pipe.hmget(queues.file_key(file_id), list(_FIELDS))
                    records = pipe.execute()
            # What has just expired or been deleted is still in the index for a moment.
            found = (File.from_record(*pair) for pair in zip(ids, records, strict=True))
            files += [file for file in found if file is not None]
            if len(ids) < wanted:
                break
        return FilePage(files[:limit], has_more=len(files) > limit)

    def _place(self, file_id: str, owner: str) -> str:
        with redis_errors():
            known = cast("list[bytes | None]", self._client.hmget(queues.file_key(file_id), ["owner", "seq"]))
        if known[0] != owner.encode() or known[1] is None:
            raise _unknown(param="after")
        return known[1].decode()

    def _ids(self, index: str, bound: str, number: int, *, ascending: bool) -> tuple[list[str], str]:
        """So many ids beyond the bound, and the bound beyond them."""
        first, last = (bound, "+inf") if ascending else (bound, "-inf")
        found = cast(
            "list[tuple[bytes, float]]",
            self._client.zrange(
                index, first, last, desc=not ascending, byscore=True, offset=0, num=number, withscores=True
            ),
        )
        ids = [file_id.decode() for file_id, _ in found]
        return ids, f"({found[-1][1]:.0f}" if found else bound

    def delete(self, file_id: str, owner: str) -> None:
        """Remove a file; its content goes when no batch needs it any more. Raises ``NotFound``."""
        with redis_errors():
            content = self._scripts.file_delete(args=[file_id, owner]).decode()
        if not content:
            raise _unknown()
        if content != "used":
            self.forget(content)

    def purge_expired(self, limit: int = 1000) -> int:
        """Delete contents whose files have expired or are deleted, or that no file has taken; answer how many.

        One that the storage refuses to delete goes behind all others that are due, and is raised; at the third it gives
        up. Any number of processes may do this at once.
        """
        with redis_errors():
            due = cast("list[bytes]", self._scripts.garbage(args=[limit]))
        done, refusals = 0, []
        for content in due:
            try:
                self._delete_content(content.decode())
                done += 1
            except StorageUnavailable as error:
                refusals.append(error)
                with redis_errors():
                    seconds, microseconds = self._client.time()
                    behind = seconds * 1000 + microseconds // 1000
                    self._client.zadd(queues.GARBAGE, {content: behind}, xx=True, gt=True)
                if len(refusals) == _GIVE_UP_AFTER:
                    break
        if refusals:
            raise refusals[0]
        return done

    def _delete_content(self, content: str) -> None:
        """Delete what is garbage, a key or a folder with a slash at its end, and only then forget that it is."""
        if content.endswith("/"):
            for one in self.storage.keys(content.removesuffix("/")):
                self.storage.delete(one)
        else:
            self.storage.delete(content)
        with redis_errors():
            self._client.zrem(queues.GARBAGE, content)


def new_content() -> str:
    """A key for a content that nobody has; it must be reserved before the content is written."""
    return f"files/{secrets.token_hex(16)}"


def new_file_id() -> str:
    """An id that nobody has."""
    return f"file-{secrets.token_hex(16)}"


def _idempotency_key(owner: str, key: str) -> str:
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{queues.PREFIX}file-idem:{owner}:{digest}"


def _unknown(param: str = "id") -> NotFound:
    return NotFound("No file with this id found.", param=param)
