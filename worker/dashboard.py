"""``python -m worker.dashboard``: Flower, read-only, and never open to others without a login."""

# ruff: noqa: E402  # the signal comes first, as what follows takes its time
from __future__ import annotations

from jobs.first_process import end_on_sigterm

end_on_sigterm()

import sys

from jobs import logs
from jobs.settings import Settings
from worker.celery_app import app, settings


def main() -> int:
    """Serve until SIGTERM."""
    if settings.flower_problem is not None:
        print(f"promptq flower: {settings.flower_problem}", file=sys.stderr)
        return 2
    logs.configure(settings.log_level, settings.log_format)
    # Logins come from FLOWER_… in the environment, which Flower reads itself: not from here, where `ps` shows them.
    app.start(["flower", *flower_options(settings)])
    return 0


def flower_options(settings: Settings) -> list[str]:
    """What Flower is started with."""
    return [
        f"--address={settings.flower_host}",
        f"--port={settings.flower_port}",
        # So that it can stand beside others behind one gateway.
        f"--url_prefix={settings.flower_url_prefix}",
        # No task may be run, and no worker stopped, from a web page.
        "--read_only=True",
        # Its store is a pickle; what has been seen is in Redis anyway.
        "--persistent=False",
        # Else pages and metrics grow with every worker that ever was.
        "--purge_offline_workers=60",
        "--max_tasks=10000",
        # Our logging stays as it is.
        "--logging=none",
    ]


if __name__ == "__main__":
    sys.exit(main())
