"""What the views work with, made once by ``create_app``."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from flask import current_app, g

from api.access import KeyRing
from api.metrics import Metrics
from api.models_proxy import ModelsProxy
from api.waiting import Waiter
from api.wakeups import Wakeups
from jobs.files import FileStore
from jobs.settings import Settings
from jobs.store import JobStore
from jobs.tracing import Tracing


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The collaborators of one API process."""

    settings: Settings
    store: JobStore
    files: FileStore
    keys: KeyRing
    waiter: Waiter
    wakeups: Wakeups
    models: ModelsProxy
    metrics: Metrics
    tracing: Tracing
    #: Set on SIGTERM: no longer ready, and long-polls end with what there is.
    stopping: threading.Event = field(default_factory=threading.Event)
    #: Set shortly before the grace period ends: synchronous callers are told where to find their answer.
    closing: threading.Event = field(default_factory=threading.Event)


def services() -> Services:
    """The services of the app that handles the current request."""
    found = current_app.extensions["promptq"]
    assert isinstance(found, Services)
    return found


def owner() -> str:
    """The owner whose key came with the current request."""
    return str(g.owner)
