"""Tables of dead letters, queues, webhooks and batches."""

from __future__ import annotations

import time
from typing import Any, Final

import click

from cli.client.api import Job
from cli.client.display import moment, plain, rows_under

_BATCH_STYLES: Final = {"completed": "green", "failed": "red", "expired": "red", "cancelled": "yellow"}
_BATCH_ENDS: Final = ("completed_at", "failed_at", "expired_at", "cancelled_at")


def dead_letters(jobs: list[Job]) -> None:
    """Print jobs that failed for good to stdout, one row each."""
    rows_under(
        ("id", "code", "queue", "model", "attempts", "failed at"),
        [
            (
                job.get("id"),
                error_code(job),
                job.get("queue"),
                job.get("model"),
                job.get("attempt"),
                moment(job.get("finished_at")),
            )
            for job in jobs
        ],
        whole=("id", "failed at"),
    )


def queues(states: list[dict[str, Any]]) -> None:
    """Print queues to stdout, one row each."""
    rows_under(
        ("queue", "state", "waiting", "running", "next has waited"),
        [
            (
                state.get("id"),
                "paused" if state.get("paused") else "running",
                state.get("waiting"),
                state.get("running"),
                _waited(state.get("next_created_at")),
            )
            for state in states
        ],
        whole=("queue", "state"),
        styles=["yellow" if state.get("paused") else None for state in states],
    )


def webhook_endpoints(endpoints: list[dict[str, Any]]) -> None:
    """Print webhook endpoints to stdout, one row each."""
    rows_under(
        ("id", "name", "state", "url", "events"),
        [
            (
                endpoint.get("id"),
                endpoint.get("name"),
                "enabled" if endpoint.get("enabled") else f"disabled ({endpoint.get('disabled_reason')})",
                endpoint.get("url"),
                ", ".join(str(name) for name in endpoint.get("event_types") or ()),
            )
            for endpoint in endpoints
        ],
        whole=("id", "state"),
        styles=[None if endpoint.get("enabled") else "yellow" for endpoint in endpoints],
    )


def webhook_deliveries(deliveries: list[dict[str, Any]]) -> None:
    """Print webhook deliveries to stdout, one row each."""
    rows_under(
        ("id", "event", "of", "status", "tries", "last error", "next try at"),
        [
            (
                delivery.get("id"),
                delivery.get("event_type"),
                (delivery.get("data") or {}).get("id"),
                delivery.get("status"),
                len(delivery.get("tries") or ()),
                delivery.get("error"),
                moment(delivery.get("next_try_at")),
            )
            for delivery in deliveries
        ],
        whole=("id", "of", "status"),
        styles=[{"failed": "red", "pending": "yellow"}.get(str(delivery.get("status"))) for delivery in deliveries],
    )


def batches(found: list[dict[str, Any]]) -> None:
    """Print batches to stdout, one row each."""
    rows_under(
        ("id", "status", "endpoint", "done", "failed", "of", "created"),
        [
            (
                batch.get("id"),
                batch.get("status"),
                batch.get("endpoint"),
                _count(batch, "completed"),
                _count(batch, "failed"),
                _count(batch, "total"),
                moment(batch.get("created_at")),
            )
            for batch in found
        ],
        whole=("id", "status", "created"),
        styles=[_BATCH_STYLES.get(str(batch.get("status"))) for batch in found],
    )


def batch(found: dict[str, Any]) -> None:
    """Print a batch to stdout, a line each."""
    counts = f"{_count(found, 'completed')} done, {_count(found, 'failed')} failed, of {_count(found, 'total')}"
    rows = [
        ("batch", found.get("id")),
        ("status", found.get("status")),
        ("endpoint", found.get("endpoint")),
        ("model", found.get("model")),
        ("lines", counts),
        ("tokens", _tokens(found)),
        ("created", moment(found.get("created_at"))),
        ("expires", moment(found.get("expires_at"))),
        ("ended", next((moment(found[name]) for name in _BATCH_ENDS if found.get(name)), None)),
        ("input", found.get("input_file_id")),
        ("output", found.get("output_file_id")),
        ("errors", found.get("error_file_id")),
    ]
    for name, value in rows:
        if value not in (None, ""):
            click.echo(f"{name:<9} {plain(str(value))}")


def _count(batch: dict[str, Any], name: str) -> int:
    return int((batch.get("request_counts") or {}).get(name) or 0)


def _tokens(batch: dict[str, Any]) -> str | None:
    usage = batch.get("usage") or {}
    read, written = int(usage.get("input_tokens") or 0), int(usage.get("output_tokens") or 0)
    return f"{read:,} read, {written:,} written" if read or written else None


def error_code(job: Job) -> str | None:
    """Return the code that the job failed with."""
    error = job.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return None if code is None else str(code)


def _waited(since: Any) -> str | None:
    """Return the time since then, in the largest unit of which there are at least two."""
    if not isinstance(since, (int, float)):
        return None
    seconds = max(0.0, time.time() - since)  # the API's clock may be ahead of ours
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
