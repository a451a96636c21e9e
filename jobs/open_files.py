"""As many open files as the system allows: each call in flight and each caller who waits is a socket."""

from __future__ import annotations

import resource


def raise_limit(wanted: int = 65_536) -> None:
    """Raise this process' soft limit of open files as far as its hard limit lets it, up to ``wanted``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
