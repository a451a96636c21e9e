"""The app as gunicorn finds it: ``gunicorn -c python:api.gunicorn_conf api.wsgi:app``."""

from __future__ import annotations

from api.app import create_app
from jobs import logs
from jobs.settings import load_or_exit

_settings = load_or_exit("api")
logs.configure(_settings.log_level, _settings.log_format)
app = create_app(_settings)
