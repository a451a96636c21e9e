"""Making what is asked for, once: it may count only when it is on Redis's disk (``PROMPTQ_DURABILITY=fsync``)."""

from __future__ import annotations

from typing import Any, Final

from redis import Redis
from redis.commands.core import Script
from redis.exceptions import NoPermissionError, NoScriptError, OutOfMemoryError, RedisError, ResponseError

from jobs.errors import AcceptanceUnknown
from jobs.redis_clients import DISK_SECONDS
from jobs.redis_errors import redis_errors
from jobs.scripts import Scripts

_DISK_MS: Final = round(1000 * DISK_SECONDS)
Arguments = list[bytes | str | int | float]


class Maker:
    """Runs the steps that make something. Raises redis-py's errors."""

    def __init__(self, client: Redis, scripts: Scripts, *, fsync: bool) -> None:
        """``fsync``: whether what is made counts only once it is on disk."""
        self._client = client
        self._known = scripts.known
        self._fsync = fsync

    def make(self, step: Script, args: Arguments) -> Any:
        """Run the step; with ``fsync`` raise ``AcceptanceUnknown`` unless what it has made is on disk in time."""
        return _run_to_disk(self._client, step, args) if self._fsync else step(args=args)

    def make_or_find(self, step: Script, args: Arguments, *, kind: str, idem: str, fingerprint: str) -> Any:
        """The same with a step that looks first what an Idempotency-Key has made; ``idem`` is the key's record, or ''.

        A full Redis refuses the step before it looks, and who repeats a request must not hear that nothing was made.
        """
        try:
            return self.make(step, args)
        except OutOfMemoryError:
            known = self.find(kind=kind, idem=idem, fingerprint=fingerprint) if idem else [b"absent"]
            if known[0] == b"absent":
                raise
            return known

    def find(self, *, kind: str, idem: str, fingerprint: str) -> Any:
        """What the Idempotency-Key has made, as ``known.lua`` answers. ``kind``: ``job`` or ``batch``."""
        return self.make(self._known, [idem, fingerprint, kind])


def _run_to_disk(client: Redis, step: Script, args: Arguments) -> Any:
    """Run the step and wait until all that its connection has written is fsynced (WAITAOF), in one round trip.

    Raises redis-py's errors for the step, as if it ran by itself, and ``AcceptanceUnknown`` if it ran and the disk took
    too long or is not written at all.
    """
    with client.pipeline(transaction=False) as pipe:
        for _ in range(2):
            pipe.execute_command("EVALSHA", step.sha, 0, *args)
            pipe.execute_command("WAITAOF", 1, 0, _DISK_MS)
            # redis-py would put the command with all its arguments, the prompt among them, into the error's text.
            answer, synced = pipe.execute(raise_on_error=False)
            if not isinstance(answer, NoScriptError):
                break
            client.script_load(step.script)
    if isinstance(answer, RedisError):
        raise answer
    if isinstance(synced, RedisError) or synced[0] < 1:
        raise AcceptanceUnknown(
            "This was taken, but is not on disk yet and may get lost. "
            "Repeat the request with the same Idempotency-Key.",
            retry_after=2,
        )
    return answer


def problem(client: Redis) -> str | None:
    """Why this server cannot promise that a job is on disk, in a sentence; None if it can.

    Raises ``StoreUnavailable`` if it does not answer.
    """
    with redis_errors():
        try:
            client.execute_command("WAITAOF", 1, 0, 1)
        except NoPermissionError:
            return "the user of PROMPTQ_REDIS_URL may not run WAITAOF."
        except ResponseError as error:
            if "unknown command" in str(error):
                return "this server lacks WAITAOF: it takes Redis 7.2 or newer, or Valkey."
            return "this server keeps no append-only file: set 'appendonly yes'."
        if _policy(client) == "no":
            return "this server leaves writing to the kernel: set 'appendfsync always' (or everysec)."
    return None


def _policy(client: Redis) -> str | None:
    """The server's ``appendfsync``; None where it does not tell, as managed ones do not."""
    try:
        return str(client.config_get("appendfsync").get("appendfsync"))
    except ResponseError:
        return None
