"""One cluster for all fault tests, put in order before each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.cluster import Cluster
from tests.faults.history import History
from tests.faults.room import Room
from tests.faults.submitting import Submitter


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster; ``room`` restarts what a test has left broken."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def room(shared_cluster: Cluster) -> Iterator[Room]:
    """The cluster with nothing to do and without workers, and all that a test needs besides."""
    shared_cluster.restore()
    shared_cluster.reset()
    history = History()
    try:
        with shared_cluster.client() as client, shared_cluster.store() as store:
            yield Room(shared_cluster, client, store, history, Submitter(client, history))
    finally:
        shared_cluster.end_extras()
