"""Work that blocks a thread."""

from __future__ import annotations

import threading

import gevent
import pytest

from jobs.threads import OffTheLoop


def test_a_disk_that_hangs_holds_up_no_lookup_of_hosts() -> None:
    """With all of its threads blocked, gevent's own, by which hosts are looked up, are free; then the work goes on."""
    off_the_loop, disk = OffTheLoop(), threading.Event()
    blocked = [gevent.spawn(off_the_loop, lambda: disk.wait(20)) for _ in range(30)]
    gevent.sleep(0)
    with gevent.Timeout(10):
        assert gevent.get_hub().threadpool.apply(lambda: "looked up") == "looked up"
    assert not any(one.ready() for one in blocked)
    disk.set()
    assert [one.get(timeout=10) for one in blocked] == [True] * 30


def test_an_error_of_the_work_is_the_callers(capfd: pytest.CaptureFixture[str]) -> None:
    """It is raised where the result was waited for, and told of nowhere else: a traceback may name what is private."""
    with pytest.raises(ZeroDivisionError):
        OffTheLoop()(lambda: 1 / 0)
    assert capfd.readouterr().err == ""
