"""The master dies, and the Sentinels make its replica the master."""

from __future__ import annotations

from pathlib import Path

import redis

from tests import processes
from tests.faults.history import History, records_of
from tests.faults.sentinels import guarded
from tests.faults.submitting import Submitter, orders
from tests.integration.driving import calls_of, messages
from tests.processes import eventually
from tests.unit.making import check_invariants


def test_a_failover_loses_nothing_that_the_replica_had(tmp_path: Path) -> None:
    """The master is killed with calls in flight and jobs waiting: all complete on the new one, with one call each;
    submits get a 503 meanwhile and work afterwards."""
    history = History()
    options = ("--concurrency", "10", "--simulator-latency", "0.05")
    short = {"PROMPTQ_LEASE_SECONDS": "3"}
    with (
        guarded(tmp_path / "redis") as servers,
        processes.stack(tmp_path, *options, **servers.settings, **short) as stack,
        stack.client() as client,
    ):
        submitter = Submitter(client, history)
        wanted = orders(30, model="sim-slow-2")
        submitter.must(wanted)
        eventually(lambda: stack.stats()["in_flight"], lambda count: count == 10)
        servers.replicated()
        servers.master.kill()
        during, after = orders(1)[0], orders(5, keys=True)
        assert submitter.submit(during) is None
        eventually(servers.promoted, within=30)
        submitter.insist_on_all(after)
        submitter.see_the_end(within=60)
        with redis.Redis(port=servers.replica_port) as store:
            check_invariants(store)
            report = history.check(calls=stack.stats()["by_prompt"], records=records_of(store))
        assert report.clean, str(report)
        assert [calls_of(stack, messages(order.prompt)) for order in [*wanted, *after]] == [1] * 35
