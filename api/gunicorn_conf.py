"""gunicorn's settings, from ours: ``gunicorn -c python:api.gunicorn_conf api.wsgi:app``."""

# ruff: noqa: E402  # the signal comes first, as what follows takes its time
from __future__ import annotations

from jobs.first_process import end_on_sigterm

end_on_sigterm()

import os
import shutil
import socket
import sys
import tempfile
from typing import Any

from jobs import durability, garbage, open_files
from jobs.errors import Unavailable
from jobs.redis_clients import api_client
from jobs.settings import load_or_exit, parse_keys

_settings = load_or_exit("api")

if _settings.bind_problem is not None:
    sys.exit(f"promptq api: {_settings.bind_problem}")

if _settings.api_keys_file is not None:
    try:
        parse_keys(_settings.api_keys_file.read_text().splitlines())
    except (OSError, ValueError) as problem:
        sys.exit(f"promptq api: PROMPTQ_API_KEYS_FILE: {problem}")

if _settings.durability == "fsync":
    _client = api_client(_settings)
    try:
        _problem = durability.problem(_client)
    except Unavailable as away:
        # It may come later; no job is accepted that is not on its disk, whatever it turns out to be.
        print(f"promptq api: PROMPTQ_DURABILITY=fsync could not be checked: {away}", file=sys.stderr)  # noqa: T201
    else:
        if _problem is not None:
            sys.exit(f"promptq api: PROMPTQ_DURABILITY=fsync: {_problem}")
    finally:
        _client.close()

open_files.raise_limit()
_host = f"[{_settings.host}]" if ":" in _settings.host and not _settings.host.startswith("[") else _settings.host
bind = f"{_host}:{_settings.port}"
workers = _settings.api_workers
worker_class = "api.gunicorn_worker.DrainingWorker"
#: Long-polls and synchronous calls are held open by the thousand; each costs a greenlet.
worker_connections = 10_000
backlog = 2048
limit_request_line = 8190
#: Longer than the idle time-out of the usual load balancers (60 s), so that they close idle connections, not we.
keepalive = 75
#: From SIGTERM on: what it goes on accepting for, and then the grace period.
graceful_timeout = int(_settings.drain_seconds + max(5, _settings.grace_seconds))
control_socket_disable = True
# It would go past api.gunicorn_worker, which holds the head of an answer for its body.
sendfile = False
accesslog = None
loglevel = "warning"

_metrics_dir: str | None = None
if workers > 1 and "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    # prometheus_client looks for the directory when it is imported: this process must not have done so before.
    _metrics_dir = os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="promptq-metrics-")


_metrics_listener: socket.socket | None = None


def on_starting(_server: Any) -> None:
    """Bind the metrics' port once; all processes accept at it, and each tells of all."""
    global _metrics_listener
    if _settings.metrics_port is not None:
        family = socket.AF_INET6 if ":" in _settings.metrics_host else socket.AF_INET
        try:
            _metrics_listener = socket.create_server((_settings.metrics_host, _settings.metrics_port), family=family)
        except OSError as error:
            sys.exit(f"promptq api: PROMPTQ_METRICS_PORT: {_settings.metrics_port}: {error.strerror}")


def post_worker_init(worker: Any) -> None:
    """Answer Prometheus in the background, and settle down."""
    if _metrics_listener is not None:
        from gevent.pywsgi import WSGIServer

        listener = socket.socket(fileno=os.dup(_metrics_listener.fileno()))
        WSGIServer(listener, worker.wsgi.extensions["promptq"].metrics.wsgi, log=None, error_log=None).start()
    garbage.settle()


def on_exit(_server: Any) -> None:
    """Leave no directory behind."""
    if _metrics_dir is not None:
        shutil.rmtree(_metrics_dir, ignore_errors=True)


def child_exit(_server: Any, worker: Any) -> None:
    """Forget the gauges of a process that has ended."""
    if workers > 1:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)
