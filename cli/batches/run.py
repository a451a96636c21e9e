"""A batch from its prompts to its results; each step can be repeated after an interruption at any point."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from cli.batches.prompts import Prompts
from cli.batches.results import Results, to_retry
from cli.batches.state import Round, State
from cli.client import display, progress
from cli.client.api import Api
from cli.client.errors import ClientError

ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
_REFUSED: Final = frozenset({400, 413, 422})
_EVERY: Final = 1.0  # seconds between two looks at a batch


@dataclass
class Run:
    """What one command does."""

    api: Api
    prompts: Prompts
    results: Path
    state: State
    window: str

    def go_on(self, *, retry_failed: bool) -> dict[str, Any] | None:
        """Bring the run to its end; answer its last batch, or None if there was nothing left to do."""
        self.state.belongs_to(url=self.api.url, fingerprint=f"{self.prompts.fingerprint()} {self.window}")
        last = self.state.rounds[-1] if self.state.rounds else None
        if last is None:
            if retry_failed:
                raise click.ClickException(f"nothing was run into {self.results} yet: leave --retry-failed out")
            last = self.state.begin()
        elif last.done:
            if not self.results.exists():
                raise click.ClickException(f"{self.results} is gone; to begin anew, remove {self.state.folder}")
            if not retry_failed or not to_retry(self.results, self.prompts):
                return None
            last = self.state.begin(retry=True)
        try:
            self._send(last)
        except ClientError as error:
            if error.status in _REFUSED and last.batch_id is None:
                # Nothing was made, and the same again would be refused again.
                self.state.give_up_round()
            raise
        batch = self._follow(str(last.batch_id))
        if batch.get("status") == "failed":
            self.state.give_up_round()
        else:
            self._collect(last, batch)
        return batch

    def _send(self, one: Round) -> None:
        if one.file_id is None:
            chosen = to_retry(self.results, self.prompts) if one.retry else None
            one.file_id = str(self._upload(f"{one.key}-upload", chosen)["id"])
            self.state.save()
        if one.batch_id is None:
            file_id = one.file_id
            batch = self.api.patiently(
                lambda: self.api.create_batch(
                    input_file_id=file_id,
                    endpoint=self.prompts.endpoint,
                    completion_window=self.window,
                    idempotency_key=f"{one.key}-create",
                ),
                on_away=tell_away,
            )
            one.batch_id = str(batch["id"])
            self.state.save()
            click.echo(f"batch {one.batch_id}", err=True)

    def _upload(self, key: str, chosen: set[str] | None) -> dict[str, Any]:
        size = sum(map(len, self.prompts.upload(chosen)))
        with progress.bytes_bar("uploading", size) as show:

            def counted() -> Iterator[bytes]:
                sent = 0
                for line in self.prompts.upload(chosen):
                    yield line
                    sent += len(line)
                    show(sent)

            name = f"{self.prompts.path.stem}.jsonl"
            return self.api.patiently(
                lambda: self.api.upload(name, counted(), size, purpose="batch", idempotency_key=key), on_away=tell_away
            )

    def _follow(self, batch_id: str) -> dict[str, Any]:
        """The batch at its end."""
        told = ""
        with progress.counts_bar() as show:
            while True:
                batch = self.api.patiently(lambda: self.api.batch(batch_id), on_away=tell_away)
                status = str(batch.get("status"))
                counts = batch.get("request_counts") or {}
                ended_lines = int(counts.get("completed") or 0) + int(counts.get("failed") or 0)
                show(status, ended_lines, int(counts.get("total") or 0))
                if status != told and not progress.shown():
                    click.echo(f"{batch_id}: {status}", err=True)
                told = status
                if status in ENDED:
                    return batch
                time.sleep(_EVERY)

    def _collect(self, one: Round, batch: dict[str, Any]) -> None:
        """Download what the batch has brought, and write the results."""
        found = Results()
        if one.retry:
            found.add(self.results)
        downloaded = []
        for kind in ("output", "error"):
            file_id = batch.get(f"{kind}_file_id")
            if file_id:
                downloaded.append(self._download(str(file_id), self.state.folder / f"{kind}.jsonl"))
                found.add(downloaded[-1])
        found.write(self.results, self.prompts, status=str(batch.get("status")))
        one.done = True
        self.state.save()
        for file in downloaded:
            file.unlink(missing_ok=True)

    def _download(self, file_id: str, target: Path) -> Path:
        with progress.bytes_bar(f"downloading {target.stem}", None) as show:
            self.api.patiently(lambda: self.api.download(file_id, target, show), on_away=tell_away)
        return target


def tell_away(error: ClientError) -> None:
    """Say that the API is away, and waited for."""
    click.echo(f"waiting for the API: {display.plain(error.message, err=True)}", err=True)
