"""``Prefer: respond-async`` (RFC 7240, 4.1): a synchronous door that answers 202 with the job."""

from __future__ import annotations

from flask import request


def respond_async() -> bool:
    """Whether the caller would rather have the job than wait for its answer."""
    preferences = ",".join(request.headers.getlist("Prefer")).split(",")
    return any(preference.partition(";")[0].strip().lower() == "respond-async" for preference in preferences)
