"""The app as gunicorn finds it: ``gunicorn -c python:api.gunicorn_conf api.wsgi:app``."""

from __future__ import annotations

import sys

from api.app import create_app
from jobs import logs, tracing
from jobs.settings import load_or_exit

_settings = load_or_exit("api")
logs.configure(_settings.log_level, _settings.log_format, trace_ids=_settings.tracing)
try:
    _tracing = tracing.start(_settings, "api", needs=["opentelemetry.instrumentation.flask"])
    app = create_app(_settings, _tracing)
except ValueError as problem:
    sys.exit(f"promptq api: {problem}")
