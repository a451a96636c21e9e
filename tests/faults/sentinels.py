"""Redis with a replica and three Sentinels that watch it, as real processes."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

from cli.stack import valkey
from tests.processes import end, eventually, free_port

MASTER: Final = "promptq-test"
PASSWORD: Final = "of-the-sentinels"


@dataclass(frozen=True)
class Guarded:
    """A master, its replica, and their Sentinels."""

    master: subprocess.Popen[bytes]
    master_port: int
    replica_port: int
    sentinel_ports: tuple[int, ...]

    @property
    def settings(self) -> dict[str, str]:
        """What makes our processes find the master; the address in the URL is nobody's."""
        return {
            "PROMPTQ_REDIS_URL": "redis://nobody.invalid:1/0",
            "PROMPTQ_REDIS_SENTINELS": ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports),
            "PROMPTQ_REDIS_MASTER": MASTER,
            "PROMPTQ_REDIS_SENTINEL_PASSWORD": PASSWORD,
        }

    def replicated(self) -> None:
        """Return once the replica has all that the master has."""
        with _client(self.master_port) as master, _client(self.replica_port) as replica:
            eventually(
                lambda: (_offset(master, "master_repl_offset"), _offset(replica, "slave_repl_offset")),
                lambda offsets: offsets[0] == offsets[1],
            )

    def promoted(self) -> bool:
        """Whether the replica is the master now."""
        with _client(self.replica_port) as replica:
            return str(replica.info("replication")["role"]) == "master"


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[Guarded]:
    """The five processes, once the Sentinels know each other and the replica."""
    server = valkey.find_server()
    running: list[subprocess.Popen[bytes]] = []

    def start(name: str, *command: str) -> subprocess.Popen[bytes]:
        home = folder / name
        home.mkdir(parents=True)
        with (home / "log").open("w") as log:
            running.append(subprocess.Popen(command, cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        return running[-1]

    master_port, replica_port, *ports = (free_port() for _ in range(5))
    try:
        master = start("master", *valkey.command(server, master_port))
        _until_it_answers(master_port)
        start("replica", *valkey.command(server, replica_port), "--replicaof", f"127.0.0.1 {master_port}")
        _until_it_answers(replica_port)
        for number, port in enumerate(ports):
            config = folder / f"sentinel-{number}.conf"
            config.write_text(
                f"port {port}\nbind 127.0.0.1\nrequirepass {PASSWORD}\n"
                f"sentinel monitor {MASTER} 127.0.0.1 {master_port} 2\n"
                f"sentinel down-after-milliseconds {MASTER} 1000\n"
                f"sentinel failover-timeout {MASTER} 5000\n"
            )
            start(f"sentinel-{number}", str(server), str(config), "--sentinel")
        for port in ports:
            _until_it_answers(port, PASSWORD)
            eventually(lambda port=port: _known(port), lambda known: known == (2, 1), within=30)  # type: ignore[misc]
        yield Guarded(master, master_port, replica_port, tuple(ports))
    finally:
        for process in reversed(running):
            end(process)


def _client(port: int, password: str | None = None) -> redis.Redis:
    return redis.Redis(host="127.0.0.1", port=port, password=password)


def _until_it_answers(port: int, password: str | None = None) -> None:
    def answers() -> bool:
        try:
            with _client(port, password) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    eventually(answers)


def _known(port: int) -> tuple[int, int]:
    """How many other Sentinels and replicas a Sentinel knows."""
    with _client(port, PASSWORD) as client:
        state: dict[str, Any] = client.sentinel_masters()[MASTER]
    return int(state["num-other-sentinels"]), int(state["num-slaves"])


def _offset(client: redis.Redis, name: str) -> int:
    return int(client.info("replication")[name])
