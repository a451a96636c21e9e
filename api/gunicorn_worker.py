"""The gunicorn worker of the API: gevent's, with a shutdown that loses nobody."""

from __future__ import annotations

from types import FrameType

import gevent
from gunicorn.workers.ggevent import GeventWorker

from api.services import Services

#: Waiting callers are answered this many seconds before gunicorn would cut them off.
_MARGIN = 3.0


class DrainingWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """On SIGTERM: unready first, then no new connections, then waiting callers are answered, then the end."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; gunicorn's own handler follows when load balancers have had time to notice."""
        services = self.wsgi.extensions["promptq"]
        assert isinstance(services, Services)
        stop_accepting = super().handle_exit
        # What wakes waiting greenlets must not run in the signal handler itself.
        gevent.spawn(self._drain, services, lambda: stop_accepting(sig, frame))

    def _drain(self, services: Services, stop_accepting: object) -> None:
        services.stopping.set()
        services.waiter.wake_all()
        gevent.sleep(services.settings.drain_seconds)
        assert callable(stop_accepting)
        stop_accepting()
        gevent.sleep(max(0.0, self.cfg.graceful_timeout - _MARGIN))
        services.closing.set()
        services.waiter.wake_all()
