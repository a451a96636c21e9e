"""What the manifests promise, held against real processes: probes, Redis's configuration, what KEDA measures."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from cli.stack import valkey
from jobs import queues
from tests.faults.cluster import Cluster
from tests.integration.batching import ended, line, start
from tests.integration.driving import unique
from tests.manifests.rendering import PRODUCTION, Object, container, rendered
from tests.processes import end, eventually, free_port

#: What KEDA's scaler asks, whatever kind of key it is (KEDA 2.20, pkg/scalers/redis_scaler.go).
LENGTH = """
local function length(key)
  local kind = redis.call('TYPE', key).ok
  local asks = {zset = 'ZCARD', set = 'SCARD', hash = 'HLEN', list = 'LLEN', none = 'LLEN'}
  return redis.call(asks[kind], key)
end
"""
#: The same moment, twice: what the triggers measure, and the jobs' and deliveries' own records, counted one by one.
BOTH = (
    LENGTH
    + """
local measured, counted = {}, {}
for i, key in ipairs(KEYS) do measured[i] = length(key) end
local numbers = {}
for _, name in ipairs(redis.call('KEYS', 'promptq:job:*')) do
  local job = redis.call('HMGET', name, 'status', 'queue', 'retry_at')
  if job[1] == 'in_progress' or (job[1] == 'queued' and not job[3]) then
    numbers[job[2]] = (numbers[job[2]] or 0) + 1
  end
end
for _, name in ipairs(redis.call('KEYS', 'promptq:delivery:*')) do
  local state = redis.call('HGET', name, 'state')
  if state == 'due' or state == 'delivering' then numbers['webhooks'] = (numbers['webhooks'] or 0) + 1 end
end
for _, name in ipairs(redis.call('KEYS', 'promptq:batch:*')) do
  if redis.call('TYPE', name).ok == 'hash' and redis.call('HEXISTS', name, 'tokens') == 1 then
    local batch = redis.call('HMGET', name, 'status', 'total', 'fed')
    if ({validating = 1, in_progress = 1, finalizing = 1, cancelling = 1})[batch[1]] then
      numbers['batches'] = (numbers['batches'] or 0) + 1 + batch[2] - batch[3]
    end
  end
end
for i, queue in ipairs(ARGV) do counted[i] = numbers[queue] or 0 end
return {measured, counted}
"""
)
HEARTBEAT = "/run/promptq/heartbeat"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A stack of real processes, with workers as tests start them."""
    with Cluster(tmp_path_factory.mktemp("live")) as running:
        yield running


def triggers() -> list[Object]:
    """What the production overlay has KEDA measure."""
    (scaled,) = rendered(PRODUCTION).of("ScaledObject")
    return scaled["spec"]["triggers"]  # type: ignore[no-any-return]


def test_what_keda_measures_is_what_there_is_to_do(cluster: Cluster) -> None:
    """At every sample, while jobs of all queues flow, fail, are retried, cancelled, deleted and lose their workers: the
    triggers' lengths are the numbers of waiting and running jobs, recounted from the records; at the end all are 0."""
    names = [trigger["name"] for trigger in triggers()]
    keys = [trigger["metadata"]["listName"] for trigger in triggers()]
    assert names == [*queues.QUEUES, queues.BATCHES, queues.WEBHOOKS]
    samples: list[tuple[list[int], list[int]]] = []
    done = threading.Event()

    def sample() -> None:
        with cluster.store() as store:
            both = store.register_script(BOTH)
            while not done.is_set():
                samples.append(both(keys=keys, args=names))

    cluster.set_latency(0.15)
    cluster.start_workers("w1", "w2", PROMPTQ_RETRY_IN_SLOT="0", PROMPTQ_CONCURRENCY="10")
    sampler = threading.Thread(target=sample)
    sampler.start()
    chance = random.Random(7)
    try:
        with cluster.client() as client:
            made: list[str] = []
            for number in range(240):
                # Dead receivers keep webhooks on their way, too.
                body: dict[str, Any] = {
                    "prompt": unique(),
                    "model": chance.choice(["sim", "sim", "sim-flaky-1", "sim-400"]),
                    "queue": chance.choice(queues.QUEUES),
                }
                if number % 6 == 0:
                    body["webhook_url"] = f"http://127.0.0.1:{free_port()}/"
                made.append(client.post("/v1/jobs", json=body).raise_for_status().json()["id"])
                if number % 5 == 0:
                    client.post(f"/v1/jobs/{chance.choice(made)}/cancel")
                if number % 7 == 0:
                    client.delete(f"/v1/jobs/{made.pop(chance.randrange(len(made)))}")
                if number == 120:
                    cluster.parts["w1"].kill()
                    cluster.start_worker("w3", wait=False, PROMPTQ_CONCURRENCY="10")
            made_of = start(client, [line(f"l{number}", unique()) for number in range(60)], window="60s")
            ended(client, made_of["id"])
        cluster.wait_until_idle(within=60)
    finally:
        done.set()
        sampler.join()
        cluster.end_extras()
    assert len(samples) > 500
    wrong = [(measured, counted) for measured, counted in samples if measured != counted]
    assert wrong == []
    assert max(sum(measured[:3]) for measured, _ in samples) > 20, "there was something to measure"
    assert max(measured[3] for measured, _ in samples) > 0
    with cluster.store() as store:
        assert store.register_script(BOTH)(keys=keys, args=names) == [[0] * len(keys)] * 2


def test_a_call_in_flight_keeps_its_worker(cluster: Cluster) -> None:
    """While one call runs and nothing waits, the sum that KEDA scales on is 1: scaling to zero cannot meet a call."""
    cluster.set_latency(60)
    cluster.start_worker("w1")
    with cluster.client() as client, cluster.store() as store:
        job = client.post("/v1/jobs", json={"prompt": unique(), "model": "sim"}).json()["id"]
        eventually(lambda: cluster.stats()["in_flight"], lambda count: count == 1)
        keys = [trigger["metadata"]["listName"] for trigger in triggers()]
        assert store.register_script(LENGTH + "return length(KEYS[1])")(keys=[keys[1]]) == 1
        client.post(f"/v1/jobs/{job}/cancel").raise_for_status()
        cluster.wait_until_idle()
    cluster.end_extras()


def command(workload: str, probe: str, folder: Path) -> list[str]:
    """A probe's command, with its files in a folder of the test's."""
    kind = "StatefulSet" if workload == "redis" else "Deployment"
    words = container(rendered(PRODUCTION).get(kind, workload))[probe]["exec"]["command"]
    return [word.replace("/run/promptq", str(folder)) for word in words]


def passes(words: list[str], **env: str) -> bool:
    return (
        subprocess.run(words, env={**os.environ, **env}, capture_output=True, timeout=20, check=False).returncode == 0
    )


@pytest.mark.parametrize("name", ["worker", "scheduler"])
def test_probes_see_a_process_that_lives(cluster: Cluster, tmp_path: Path, name: str) -> None:
    """Not ready before it is; then ready and alive by its heartbeat, whose file is touched no more once it is frozen.
    Redis being away is no reason to be restarted."""
    settings = rendered(PRODUCTION).settings(rendered(PRODUCTION).get("Deployment", name))
    assert settings["PROMPTQ_HEARTBEAT_FILE"] == HEARTBEAT
    live, ready = command(name, "livenessProbe", tmp_path), command(name, "readinessProbe", tmp_path)
    assert command(name, "startupProbe", tmp_path) == ready
    assert not passes(live)
    # What an earlier process left in the same volume.
    (tmp_path / "ready").write_text("1")
    (tmp_path / "heartbeat").touch()
    os.utime(tmp_path / "heartbeat", (time.time() - 90, time.time() - 90))
    files = {"PROMPTQ_HEARTBEAT_FILE": f"{tmp_path}/heartbeat"}
    if name == "worker":
        cluster.start_worker("probed", **files, PROMPTQ_WORKER_READY_FILE=f"{tmp_path}/ready", wait=False)
    else:
        cluster.start_scheduler("probed", wait=False, **files, PROMPTQ_SCHEDULER_READY_FILE=f"{tmp_path}/ready")
    eventually(lambda: not passes(ready) and passes(live), within=30)
    eventually(lambda: passes(ready) and passes(live), within=30)
    heartbeat = tmp_path / "heartbeat"
    cluster.parts["redis"].freeze()
    try:
        seen = heartbeat.stat().st_mtime
        eventually(lambda: heartbeat.stat().st_mtime > seen, within=50)
        assert passes(live)
    finally:
        cluster.parts["redis"].thaw()
    os.utime(heartbeat, (time.time() - 90, time.time() - 90))
    cluster.parts["probed"].freeze()
    # Whatever was on its way has been written by then.
    os.utime(heartbeat, (time.time() - 90, time.time() - 90))
    assert not passes(live)
    cluster.parts["probed"].thaw()
    eventually(lambda: passes(live), within=20)
    cluster.end_extras()


def test_http_probes_are_answered(cluster: Cluster) -> None:
    """The paths of the API's probes are there, without a key; the readiness is red while Redis is away."""
    api = container(rendered(PRODUCTION).get("Deployment", "api"))
    paths = {probe: api[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    answers: Callable[[str], int] = lambda path: httpx2.get(f"{cluster.api}{path}", timeout=10).status_code  # noqa: E731
    assert {answers(path) for path in paths.values()} == {200}
    cluster.parts["redis"].freeze()
    try:
        assert answers(paths["readinessProbe"]) == 503
        assert answers(paths["livenessProbe"]) == 200
        within = api["readinessProbe"]["timeoutSeconds"]
        began = time.monotonic()
        answers(paths["readinessProbe"])
        assert time.monotonic() - began < within, "it must answer before the probe gives up"
    finally:
        cluster.parts["redis"].thaw()


def test_prometheus_hears_of_a_redis_that_hangs(cluster: Cluster) -> None:
    """A scrape of the scheduler is answered before Prometheus gives up (10 s), and says that Redis is away."""
    port = free_port()
    cluster.start_scheduler("scraped", PROMPTQ_METRICS_PORT=str(port))
    cluster.parts["redis"].freeze()
    try:
        said = httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=9).raise_for_status().text
    finally:
        cluster.parts["redis"].thaw()
    assert "promptq_redis_up 0.0" in said
    assert "promptq_queue" not in said
    cluster.end_extras()


def test_redis_starts_as_the_manifest_says(tmp_path: Path) -> None:
    """The container's command and configuration, on the embedded server: it asks for the password, keeps a file,
    forgets nothing, is the first process, and has the password on no command line."""
    found = rendered(PRODUCTION)
    (conf,) = [one["data"]["redis.conf"] for one in found.of("ConfigMap") if "redis.conf" in one.get("data", {})]
    port, password = free_port(), """p"s\\s 'w$r`d#"""
    (tmp_path / "data").mkdir()
    (tmp_path / "redis.conf").write_text(
        conf.replace("port 6379", f"port {port}").replace("dir /data", f"dir {tmp_path}/data")
    )
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "valkey-server").symlink_to(valkey.find_server())
    words = [
        word.replace("/etc/redis", str(tmp_path)) for word in container(found.get("StatefulSet", "redis"))["command"]
    ]
    env = {"PATH": f"{binaries}:{os.environ['PATH']}", "REDISCLI_AUTH": password}
    server = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(port=port, password=password)
        eventually(lambda: _pong(client), within=20)
        with client:
            wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
            assert {name: client.config_get(name)[name] for name in wanted} == wanted
            assert client.config_get("maxmemory")["maxmemory"] == str(2**30)
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        assert password not in Path(f"/proc/{server.pid}/cmdline").read_text()
        assert "valkey-server" in Path(f"/proc/{server.pid}/cmdline").read_text(), (
            "it is the first process, and gets signals"
        )
    finally:
        end(server)
    assert server.returncode == 0


def _pong(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def test_the_probe_of_redis_believes_pong_alone(tmp_path: Path) -> None:
    """valkey-cli exits with 0 whatever the server says."""
    tool = tmp_path / "valkey-cli"
    for says, passed in (("PONG", True), ("LOADING Valkey is loading the dataset in memory", False), ("", False)):
        tool.write_text(f"#!/bin/sh\necho '{says}'\n")
        tool.chmod(0o755)
        path = f"{tmp_path}:{os.environ['PATH']}"
        assert passes(command("redis", "readinessProbe", tmp_path), PATH=path) is passed
