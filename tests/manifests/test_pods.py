"""Every pod is restricted, bounded, probed and spread."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.manifests.rendering import (
    COMBINATIONS,
    DEV,
    PRODUCTION,
    Object,
    component,
    container,
    grace,
    is_knative,
    labels,
    matches,
    pod,
    rendered,
    security,
    walk,
)

WORKLOADS = [
    pytest.param(folder, one, id=f"{folder}:{one['metadata']['name']}")
    for folder in COMBINATIONS
    for one in rendered(folder).workloads()
]
each_workload = pytest.mark.parametrize(("folder", "workload"), WORKLOADS)


def seconds(name: str, settings: dict[str, str]) -> float:
    """A duration among a workload's settings."""
    return float(settings[name])


@pytest.mark.parametrize("folder", COMBINATIONS)
def test_the_namespace_takes_restricted_pods_alone(folder: str) -> None:
    """Pod Security is enforced, whatever comes later."""
    found = rendered(folder).get("Namespace", "promptq")["metadata"]["labels"]
    assert found["pod-security.kubernetes.io/enforce"] == "restricted"


@each_workload
def test_a_pod_is_restricted(folder: str, workload: Object) -> None:
    """What Pod Security's `restricted` asks for, and besides a read-only root, a numeric user and no token."""
    spec, context = pod(workload), security(workload)
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys()
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] >= 10000
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"] is True
    assert container(workload)["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    kinds = {kind for volume in spec.get("volumes", []) for kind in volume if kind != "name"}
    assert kinds <= {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}


@each_workload
def test_a_pod_has_an_account_of_its_own_without_rights(folder: str, workload: Object) -> None:
    """Its ServiceAccount is there, mounts no token, and is no other component's."""
    found = rendered(folder)
    name = pod(workload)["serviceAccountName"]
    assert name == component(workload)
    assert found.get("ServiceAccount", name)["automountServiceAccountToken"] is False
    assert found.of("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding") == []


@each_workload
def test_a_pod_is_bounded_probed_and_spread(folder: str, workload: Object) -> None:
    """Requests and limits, three probes, and constraints that select its own pods."""
    own = container(workload)
    for kind in ("requests", "limits"):
        assert set(own["resources"][kind]) == {"cpu", "memory"}
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= own.keys()
    if is_knative(workload):
        # Knative takes none without a feature flag, and spreads a revision's pods over nodes by itself
        # (config-deployment, default-affinity-type).
        return
    spread = pod(workload)["topologySpreadConstraints"]
    assert {one["topologyKey"] for one in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    for one in spread:
        assert matches(one["labelSelector"], labels(workload))
        others = [other for other in rendered(folder).workloads() if component(other) != component(workload)]
        assert not any(matches(one["labelSelector"], labels(other)) for other in others)


@each_workload
def test_what_a_pod_may_write_to_is_bounded(folder: str, workload: Object) -> None:
    """Each volume in memory has a size, each mount a volume, and files that the settings name lie in one."""
    spec, own = pod(workload), container(workload)
    claims = {one["metadata"]["name"] for one in workload["spec"].get("volumeClaimTemplates", [])}
    assert {one["name"] for one in own["volumeMounts"]} == {one["name"] for one in spec["volumes"]} | claims
    for volume in spec["volumes"]:
        assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"]
    mounts = [one["mountPath"] for one in own["volumeMounts"]]
    for name, value in rendered(folder).settings(workload).items():
        if name.endswith("_FILE"):
            assert any(value.startswith(f"{mount}/") for mount in mounts), name


@each_workload
def test_a_running_call_is_never_killed(folder: str, workload: Object) -> None:
    """Grace periods are longer than what goes on in them: for a worker the longest call, for the API its draining."""
    settings = rendered(folder).settings(workload)
    if component(workload) == "worker":
        inner = seconds("PROMPTQ_GRACE_SECONDS", settings)
        assert seconds("PROMPTQ_CALL_TIMEOUT", settings) < inner
        # What was not done by then is handed back, and Celery needs some seconds to stop.
        assert inner + 10 <= grace(workload)
    elif component(workload) in ("api", "api-next"):
        drain = seconds("PROMPTQ_DRAIN_SECONDS", settings)
        assert drain + seconds("PROMPTQ_GRACE_SECONDS", settings) + 5 <= grace(workload)
        probe = container(workload)["readinessProbe"]
        assert drain >= probe["periodSeconds"] * probe["failureThreshold"], (
            "who looks at it must see that it is unready"
        )


@pytest.mark.parametrize("name", ["api", "worker"])
def test_an_update_loses_no_request(name: str) -> None:
    """A new pod is ready before an old one goes."""
    strategy = rendered(PRODUCTION).get("Deployment", name)["spec"]["strategy"]["rollingUpdate"]
    assert strategy["maxUnavailable"] == 0


def test_the_api_follows_its_cpu() -> None:
    """Between 2 and 10 pods at 50 % of what they ask for, quickly up and slowly down."""
    spec = rendered(PRODUCTION).get("HorizontalPodAutoscaler", "api")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 10)
    (metric,) = spec["metrics"]
    assert metric["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}
    assert set(spec["behavior"]) == {"scaleUp", "scaleDown"}
    up, down = spec["behavior"]["scaleUp"], spec["behavior"]["scaleDown"]
    assert up["stabilizationWindowSeconds"] < down["stabilizationWindowSeconds"]


def test_the_api_is_reached_from_outside() -> None:
    """On port 80, by a LoadBalancer in production and a NodePort on a laptop; nothing else is."""
    for folder, kind in ((PRODUCTION, "LoadBalancer"), (DEV, "NodePort")):
        services = {one["metadata"]["name"]: one["spec"] for one in rendered(folder).of("Service")}
        assert services["api"]["type"] == kind
        assert [port["port"] for port in services["api"]["ports"]] == [80]
        assert {one.get("type", "ClusterIP") for name, one in services.items() if name != "api"} == {"ClusterIP"}


@pytest.mark.parametrize("folder", COMBINATIONS)
def test_no_secret_is_in_the_manifests(folder: str) -> None:
    """There is no Secret, and no setting that looks like one has a value."""
    found = rendered(folder)
    assert found.of("Secret") == []
    for value in walk(list(found.objects)):
        if isinstance(value, dict) and re.search(r"KEY|PASSWORD|AUTH|SECRET", str(value.get("name", ""))):
            assert not value.get("value") or str(value["name"]).endswith("_FILE"), value


@pytest.mark.parametrize("folder", COMBINATIONS)
def test_a_node_can_be_drained_while_redis_is_away(folder: str) -> None:
    """Pods that are not ready for want of Redis do not hold the node that Redis must leave."""
    for budget in rendered(folder).of("PodDisruptionBudget"):
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_redis_keeps_room_for_its_file() -> None:
    """It forgets no job, and what it may hold is well below the pod's limit, since rewriting the file costs memory."""
    found = rendered(PRODUCTION)
    (conf,) = [one["data"]["redis.conf"] for one in found.of("ConfigMap") if "redis.conf" in one.get("data", {})]
    lines = dict(line.split(maxsplit=1) for line in conf.splitlines() if line and not line.startswith("#"))
    assert (lines["appendonly"], lines["maxmemory-policy"]) == ("yes", "noeviction")
    limit = container(found.get("StatefulSet", "redis"))["resources"]["limits"]["memory"]
    assert size(lines["maxmemory"]) <= 0.6 * size(limit)
    assert found.get("StatefulSet", "redis")["spec"]["volumeClaimTemplates"]


def size(text: str) -> float:
    """Bytes, in the way of Redis (1gb) or of Kubernetes (2Gi)."""
    number, unit = re.fullmatch(r"(\d+)([a-zA-Z]+)", text).groups()  # type: ignore[union-attr]
    units: dict[str, Any] = {"mb": 2**20, "gb": 2**30, "mi": 2**20, "gi": 2**30}
    return float(int(number) * units[unit.lower()])
