"""compose.yaml, `promptq up` and the manifests have the same parts, with the same settings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.stack import plan
from cli.stack.datadir import DataDir
from jobs.settings import Settings, environment_name
from tests.manifests.rendering import PRODUCTION, ROOT, Object, component, container, pod, rendered
from tests.unit.test_cli_stack import choices

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OUR_OWN = ("redis", "api", "worker", "scheduler", "flower")
FOUND = rendered(PRODUCTION)
WORKLOADS = {component(one): one for one in FOUND.workloads()}
#: Settings whose values differ by their nature: addresses, files' places, Secrets, and how a load balancer is told.
DIFFERENT = {
    *("PROMPTQ_REDIS_URL", "PROMPTQ_REDIS_USERNAME", "PROMPTQ_REDIS_PASSWORD", "PROMPTQ_ENCRYPTION_KEYS"),
    *("OPENAI_API_KEY", "OPENAI_BASE_URL", "PROMPTQ_API_KEYS", "PROMPTQ_API_KEYS_FILE", "FLOWER_BASIC_AUTH"),
    *("PROMPTQ_WORKER_READY_FILE", "PROMPTQ_SCHEDULER_READY_FILE", "PROMPTQ_HEARTBEAT_FILE"),
    *("PROMPTQ_DRAIN_SECONDS", "PROMPTQ_API_WORKERS", "REDISCLI_AUTH", "PROMPTQ_STORAGE"),
}
every_part = pytest.mark.parametrize("name", OUR_OWN)


def names(workload: Object) -> set[str]:
    """All variables of a workload, from wherever."""
    given = set(FOUND.settings(workload)) | {one["name"] for one in container(workload).get("env", [])}
    if any("secretRef" in source for source in container(workload).get("envFrom", [])):
        given.add("FLOWER_BASIC_AUTH")
    return given


def seconds(text: str) -> float:
    """A duration of compose."""
    number, unit = re.fullmatch(r"(\d+)([sm])", text).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "m": 60}[unit]


def up(tmp_path: Path) -> dict[str, Any]:
    """What `promptq up` starts, by name; of several workers one."""
    asked = choices(redis_port=7000, simulator_port=7001, metrics_ports=(9101, 9102))
    with DataDir(tmp_path) as folder:
        made = plan.make(asked, folder=folder, environ={})
    return {re.sub(r"-\d+$", "", part.name): part for wave in made.waves for part in wave}


def test_the_parts_are_the_same(tmp_path: Path) -> None:
    """Redis, API, worker, scheduler and Flower everywhere; a simulator with `promptq up`, what watches in compose."""
    assert set(WORKLOADS) == set(OUR_OWN)
    assert set(SERVICES) == {*OUR_OWN, "prometheus", "grafana"}
    assert set(up(tmp_path)) == {*OUR_OWN, "simulator"}


@every_part
def test_settings_are_the_same_in_compose_and_the_cluster(name: str) -> None:
    """Each setting of the one is a setting of the other, with the same value where it is not one of the place."""
    if name == "redis":
        assert set(SERVICES[name]["environment"]) == {"REDISCLI_AUTH"} == names(WORKLOADS[name])
        return
    here, there = SERVICES[name]["environment"], FOUND.settings(WORKLOADS[name])
    only = set(here) ^ names(WORKLOADS[name])
    # The API's keys are a file there; a user at Redis is for managed ones.
    assert only <= {"PROMPTQ_API_KEYS", "PROMPTQ_API_KEYS_FILE", "PROMPTQ_REDIS_USERNAME"}, only
    same = {key: str(value) for key, value in here.items() if key not in DIFFERENT}
    assert same == {key: value for key, value in there.items() if key not in DIFFERENT}
    fields = {environment_name(field) for field in Settings.model_fields}
    assert set(here) <= fields


@pytest.mark.parametrize("name", [name for name in OUR_OWN if name != "redis"])
def test_what_promptq_up_sets_is_set_in_the_cluster(name: str, tmp_path: Path) -> None:
    """No part gets a setting on a laptop that it lacks elsewhere, but the name that tells workers apart there."""
    given = {key for key in up(tmp_path)[name].env if key.startswith(("PROMPTQ_", "OPENAI_", "FLOWER_"))}
    # `up` gives all parts the same environment; what only some of them read is set for those alone elsewhere.
    everywhere = {key for part in ("api", "worker", "scheduler", "flower") for key in names(WORKLOADS[part])}
    assert given - everywhere <= {"PROMPTQ_WORKER_NAME"}


@every_part
def test_processes_and_images_are_the_same(name: str, tmp_path: Path) -> None:
    """The same module, image and version in compose, the cluster and `promptq up`."""
    own, there = SERVICES[name], container(WORKLOADS[name])
    assert re.sub(r"\$\{TAG:-(.*)\}", r"\1", own["image"]) == there["image"]
    started = up(tmp_path)[name].command
    if name == "redis":
        assert [word.replace("$$", "$") for word in own["command"]] == there["command"]
    elif name == "api":
        assert "args" not in there
        assert "command" not in own
        entry = re.search(r"^ENTRYPOINT (.*)$", (ROOT / "Dockerfile.api").read_text(), re.MULTILINE)
        assert entry is not None
        assert yaml.safe_load(entry.group(1))[1:] == list(started[1:])
    else:
        assert own["command"] == there["args"] == [started[-1]]


@every_part
def test_containers_are_as_closed_as_pods(name: str) -> None:
    """Read-only, without capabilities, with as much time to stop."""
    own = SERVICES[name]
    assert own["read_only"] is True
    assert own["cap_drop"] == ["ALL"]
    assert own["security_opt"] == ["no-new-privileges:true"]
    if name in ("worker", "redis", "api", "scheduler"):
        assert seconds(own["stop_grace_period"]) >= pod(WORKLOADS[name])["terminationGracePeriodSeconds"]
    assert "healthcheck" in own


def test_images_that_are_built_here_come_from_nowhere_else() -> None:
    """Nobody else's image of the same name is pulled."""
    for service in SERVICES.values():
        assert not service["image"].startswith("promptq/") or service["pull_policy"] == "never"


def test_what_is_not_set_on_a_laptop_is_the_same_by_default(tmp_path: Path) -> None:
    """A setting of the cluster that `promptq up` leaves alone has the default's value; what both set is the same."""
    plain = {key: value for one in WORKLOADS.values() for key, value in FOUND.settings(one).items()}
    fields = {environment_name(field): field for field in Settings.model_fields}
    given = up(tmp_path)["worker"].env
    # Where processes are, how long they have to stop, and for whom they log.
    place = re.compile(r".*(_HOST|_PORT|_FILE|_SECONDS|_FORMAT)$")
    for name, value in plain.items():
        if name in DIFFERENT or (place.match(name) and name != "PROMPTQ_LEASE_SECONDS"):
            continue
        there = getattr(Settings.model_validate({fields[name]: value}), fields[name])
        here = Settings.model_validate({fields[name]: given[name]} if name in given else {})
        assert getattr(here, fields[name]) == there, name


def test_workers_can_be_many() -> None:
    """--scale worker=N: no name and no port that only one can have."""
    assert "container_name" not in SERVICES["worker"]
    assert "ports" not in SERVICES["worker"]


def test_nothing_is_open_but_the_api() -> None:
    """What watches is on this machine's loopback alone, and Redis on no port at all."""
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert name == "api" or port.startswith("127.0.0.1:")
    assert "ports" not in SERVICES["redis"]


def test_prometheus_asks_where_metrics_are() -> None:
    """Each job names a service, and the port at which that exports its metrics."""
    config = yaml.safe_load((ROOT / "compose/prometheus.yml").read_text())
    asked = {
        name: sd["port"] for job in config["scrape_configs"] for sd in job["dns_sd_configs"] for name in sd["names"]
    }
    ports = {name: SERVICES[name]["environment"]["PROMPTQ_METRICS_PORT"] for name in ("api", "worker", "scheduler")}
    assert {name: str(port) for name, port in asked.items()} == ports


def test_files_that_are_mounted_are_there() -> None:
    """Each file of the tree that a container gets exists."""
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            if mount.startswith("./"):
                assert (ROOT / mount.split(":")[0]).is_file(), mount


def test_those_who_read_and_write_files_share_a_volume() -> None:
    """API and worker have the same volume, which the place of files is in, and each image has its folder."""
    for name in ("api", "worker"):
        (mount,) = SERVICES[name]["volumes"]
        volume, _, folder = mount.partition(":")
        assert volume in COMPOSE["volumes"]
        assert SERVICES[name]["environment"]["PROMPTQ_STORAGE"].startswith(f"{folder}/")
        assert f"--owner 10001 --group 10001 --mode 0700 {folder}\n" in (ROOT / f"Dockerfile.{name}").read_text()


def test_make_env_makes_what_compose_wants(tmp_path: Path) -> None:
    """Each variable without a default is in .env, which is private and accepted; a .env that is there stays."""
    script = tmp_path / "compose" / "make-env"
    script.parent.mkdir()
    shutil.copy(ROOT / "compose/make-env", script)
    outside = {"PATH": os.environ["PATH"], "OPENAI_API_KEY": "sk-a$b #c"}
    bare = {"PATH": os.environ["PATH"]}
    assert subprocess.run([script], env=bare, capture_output=True, timeout=20, check=False).returncode == 2
    subprocess.run([script], env=outside, check=True, capture_output=True, timeout=20)
    file = tmp_path / ".env"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    made = dict(line.split("=", 1) for line in lines)
    assert made["OPENAI_API_KEY"] == "'sk-a$b #c'", "in quotes, within which compose changes nothing"
    wanted = set(re.findall(r"\$\{([A-Z_]+):\?", (ROOT / "compose.yaml").read_text()))
    assert len(wanted) >= 6
    assert wanted <= made.keys()
    assert file.stat().st_mode & 0o077 == 0
    Settings.model_validate({"api_keys": made["PROMPTQ_API_KEYS"], "encryption_keys": made["PROMPTQ_ENCRYPTION_KEYS"]})
    again = subprocess.run([script], env=outside, capture_output=True, timeout=20, check=False)
    assert again.returncode == 1
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
