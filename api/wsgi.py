"""The app as gunicorn finds it: ``gunicorn -c python:api.gunicorn_conf api.wsgi:app``."""

from __future__ import annotations

from api.app import create_app
from jobs import logs
from jobs.settings import Settings

_settings = Settings()
logs.configure(_settings.log_level, _settings.log_format)
app = create_app(_settings)
