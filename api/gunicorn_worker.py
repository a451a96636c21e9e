"""The gunicorn worker of the API: gevent's, with a shutdown that loses nobody."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import gevent
from gunicorn.workers.ggevent import GeventWorker

if TYPE_CHECKING:
    # gunicorn imports this module before gevent has patched anything; Redis and HTTP clients must come after.
    from api.services import Services

#: Waiting callers are answered this many seconds before gunicorn would cut them off.
_MARGIN = 3.0


class DrainingWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """On SIGTERM: unready first, then no new connections, then waiting callers are answered, then the end."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; gunicorn's own handler follows when load balancers have had time to notice."""
        services: Services = self.wsgi.extensions["promptq"]
        stop_accepting = super().handle_exit
        # What wakes waiting greenlets must not run in the signal handler itself.
        gevent.spawn(self._drain, services, lambda: stop_accepting(sig, frame))

    def _drain(self, services: Services, stop_accepting: Callable[[], None]) -> None:
        services.stopping.set()
        services.waiter.wake_all()
        gevent.sleep(services.settings.drain_seconds)
        stop_accepting()
        gevent.sleep(max(0.0, self.cfg.graceful_timeout - _MARGIN))
        services.closing.set()
        services.waiter.wake_all()
