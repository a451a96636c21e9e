"""What a run has come to, kept beside its results, so that the same command goes on where it was interrupted."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import click

_VERSION: Final = 1


@dataclass
class Round:
    """One batch of a run: the first has all lines, each later one those that had failed."""

    #: Makes the Idempotency-Keys: whatever is sent twice makes one file and one batch.
    key: str = field(default_factory=lambda: secrets.token_hex(16))
    retry: bool = False
    file_id: str | None = None
    batch_id: str | None = None
    #: Whether its results have been written.
    done: bool = False


class State:
    """A folder beside the results, owned by one process at a time for as long as the ``with`` lasts.

    Raises `click.ClickException` if another process has it, or if it belongs to another input or server.
    """

    def __init__(self, results: Path) -> None:
        self.folder = results.with_name(f"{results.name}.promptq")
        self.rounds: list[Round] = []
        self._file = self.folder / "state.json"
        self._about: dict[str, Any] = {}
        self._lock: int | None = None

    def __enter__(self) -> State:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            raise click.ClickException(f"another `promptq batch run` is at it ({self.folder})") from None
        except OSError as error:
            raise click.ClickException(f"cannot write {self.folder}: {error.strerror}") from error
        try:
            self._read()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self.rounds:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._release()

    def belongs_to(self, *, url: str, fingerprint: str) -> None:
        """Check that this is the state of a run of this input at this server, or make it so if it is new."""
        about = {"url": url, "fingerprint": fingerprint}
        if not self.rounds:
            self._about = about
            return
        if self._about.get("url") != url:
            raise click.ClickException(
                f"this run is at {self._about.get('url')}, not at {url}; to begin a new one, remove {self.folder}"
            )
        if self._about.get("fingerprint") != fingerprint:
            raise click.ClickException(
                "the input or its options are not those that this run began with; "
                f"to begin a new one, choose another output or remove {self.folder}"
            )

    def begin(self, *, retry: bool = False) -> Round:
        """Begin a round, and write that down before anything is sent."""
        self.rounds.append(Round(retry=retry))
        self.save()
        return self.rounds[-1]

    def save(self) -> None:
        """Write it down, whole or not at all."""
        draft = self._file.with_suffix(".draft")
        content = {"version": _VERSION, **self._about, "rounds": [asdict(one) for one in self.rounds]}
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
            json.dump(content, opened, indent=2)
            opened.flush()
            os.fsync(opened.fileno())
        draft.replace(self._file)

    def give_up_round(self) -> None:
        """Forget the last round, of which there are no results; of the first nothing is left at the end."""
        self.rounds.pop()
        if self.rounds:
            self.save()

    def _read(self) -> None:
        if not self._file.exists():
            return
        try:
            content = json.loads(self._file.read_text())
            if content["version"] != _VERSION:
                raise ValueError
            self.rounds = [Round(**one) for one in content["rounds"]]
            self._about = {name: content[name] for name in ("url", "fingerprint")}
        except (ValueError, KeyError, TypeError):
            raise click.ClickException(f"{self._file} is not what this release has written: remove it") from None

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
