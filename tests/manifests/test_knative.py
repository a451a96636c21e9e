"""The API as a Knative Service: the Deployment's pod, in what Knative admits; nobody who waits is cut off."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from jobs.settings import Settings
from tests.manifests.rendering import (
    KNATIVE,
    PRODUCTION,
    ROOT,
    TOOLS,
    Object,
    container,
    grace,
    labels,
    matches,
    pod,
    rendered,
    security,
)
from tests.manifests.schemas import SCHEMAS

FOLDER, MONITORED, SENTINEL = (f"k8s/tests/production-knative{suffix}" for suffix in ("", "-monitoring", "-sentinel"))
SCHEMA = SCHEMAS["serving.knative.dev/v1", "Service"]
#: Seconds without a new request after which queue-proxy lets the container be stopped (pkg/queue/sharedmain/main.go,
#: drainSleepDuration).
QUIET = 30
#: What the pod of the Deployment has and the Service has not, each for a reason that docs/deploy/knative.md gives.
LEFT_OUT = {"securityContext", "topologySpreadConstraints", "terminationGracePeriodSeconds"}
#: What the Service has besides.
ADDED = {"containerConcurrency", "timeoutSeconds", "responseStartTimeoutSeconds"}
SCALING = "autoscaling.knative.dev/"


def service(folder: str = FOLDER) -> Object:
    return rendered(folder).get(KNATIVE, "api")


def annotations() -> dict[str, str]:
    return service()["spec"]["template"]["metadata"]["annotations"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("folder", "without"),
    [
        (FOLDER, PRODUCTION),
        (SENTINEL, "k8s/tests/production-sentinel"),
        ("k8s/tests/production-knative-tracing", "k8s/tests/production-tracing"),
    ],
)
def test_the_pod_is_the_deployments(folder: str, without: str) -> None:
    """Field by field, with what other components make of it; a field that is new there must be here, too, or be one
    that is named above."""
    ours, theirs = service(folder), rendered(without).get("Deployment", "api")
    assert pod(ours).keys() == (pod(theirs).keys() - LEFT_OUT) | ADDED
    for field in pod(theirs).keys() - LEFT_OUT - {"containers"}:
        assert pod(ours)[field] == pod(theirs)[field], field
    assert labels(ours) == labels(theirs)
    mine, its = _unlike(container(ours)), _unlike(container(theirs))
    assert mine == its
    assert security(ours) == {name: value for name, value in security(theirs).items() if name != "fsGroup"}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert _portless(container(ours)[probe]) == _portless(container(theirs)[probe])


def _unlike(one: Object) -> dict[str, Any]:
    differ = {"ports", "securityContext", "startupProbe", "livenessProbe", "readinessProbe"}
    return {name: value for name, value in one.items() if name not in differ}


def _portless(probe: Object) -> dict[str, Any]:
    return {**probe, "httpGet": {name: value for name, value in probe["httpGet"].items() if name != "port"}}


def test_what_it_replaces_is_gone_and_nothing_else() -> None:
    """The API's Deployment, HPA, PDB and Service; a Service of the same name would keep Knative from making its own."""
    before = {(one["kind"], one["metadata"]["name"]) for one in rendered(PRODUCTION).objects}
    after = {(one["apiVersion"], one["kind"], one["metadata"]["name"]) for one in rendered(FOLDER).objects}
    kept = {(kind, name) for version, kind, name in after if version != "serving.knative.dev/v1"}
    assert before - kept == {
        (kind, "api") for kind in ("Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service")
    }
    assert kept < before
    assert len(after) == len(kept) + 1


def test_its_settings_are_the_ones_that_the_others_have() -> None:
    """It names the ConfigMap with its hash, so that a change of it makes a new revision."""
    (source,) = container(service())["envFrom"]
    name = source["configMapRef"]["name"]
    assert re.fullmatch(r"promptq-[a-z0-9]{10}", name)
    worker = container(rendered(FOLDER).get("Deployment", "worker"))
    assert {"configMapRef": {"name": name}} in worker["envFrom"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        # Feature flags that are off.
        (("securityContext",), {"runAsNonRoot": True}),
        (("topologySpreadConstraints",), []),
        (("nodeSelector",), {}),
        # What Knative sets itself.
        (("terminationGracePeriodSeconds",), 60),
        (("containers", 0, "lifecycle"), {}),
        (("automountServiceAccountToken",), True),
        # One port, with a name of Knative's, and none of queue-proxy's.
        (("containers", 0, "ports"), [{"containerPort": 8000}, {"containerPort": 9100}]),
        (("containers", 0, "ports"), [{"name": "http", "containerPort": 8000}]),
        (("containers", 0, "ports"), [{"containerPort": 9090}]),
        (("containers", 0, "readinessProbe", "httpGet", "port"), "http"),
        # More than max-revision-timeout-seconds.
        (("timeoutSeconds",), 601),
    ],
)
def test_what_knative_refuses_is_found(path: tuple[str | int, ...], value: Any) -> None:
    """The schema is as strict as Knative's webhook where we might slip."""
    jsonschema.validate(service(), SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(_with(service(), ("spec", "template", "spec", *path), value), SCHEMA)


def _with(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    if not path:
        return new
    if isinstance(value, list):
        return [_with(one, path[1:], new) if place == path[0] else one for place, one in enumerate(value)]
    return {**value, path[0]: _with(value.get(path[0]), path[1:], new)}


def test_nobody_who_waits_is_cut_off() -> None:
    """Not by a time-out that comes before our own answer, and not by a stop: queue-proxy becomes quiet, then we answer
    who waits, and then the pod is killed."""
    spec, settings = pod(service()), rendered(FOLDER).settings(service())
    # All of an answer, a stream's too: as much as Knative admits by default.
    assert spec["timeoutSeconds"] == 600
    # Without it Knative's default of 300 s for the first byte holds.
    assert spec["responseStartTimeoutSeconds"] > Settings().max_wait
    assert spec["responseStartTimeoutSeconds"] <= spec["timeoutSeconds"]
    stop = QUIET + float(settings["PROMPTQ_DRAIN_SECONDS"]) + float(settings["PROMPTQ_GRACE_SECONDS"])
    assert stop + 5 <= grace(service())


def test_a_pod_with_callers_who_wait_is_not_idle() -> None:
    """What is measured is what is in flight, since who waits sends nothing; and a pod takes all that comes, since who
    waits would else hold a place that a submit needs."""
    assert annotations()[f"{SCALING}metric"] == "concurrency"
    assert pod(service())["containerConcurrency"] == 0
    # Knative's own default is 100: callers who wait cost less.
    assert int(annotations()[f"{SCALING}target"]) > 100


def test_it_goes_to_zero_after_quiet_and_not_beyond_the_autoscalers_number() -> None:
    """Like the workers: to nothing, as late; and the same number at most as without Knative."""
    hpa = rendered(PRODUCTION).get("HorizontalPodAutoscaler", "api")["spec"]
    (scaled,) = rendered(PRODUCTION).of("ScaledObject")
    assert annotations()[f"{SCALING}min-scale"] == "0"
    assert int(annotations()[f"{SCALING}max-scale"]) == hpa["maxReplicas"]
    delay = int(annotations()[f"{SCALING}scale-down-delay"].removesuffix("m")) * 60
    assert delay == hpa["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == scaled["spec"]["cooldownPeriod"]


def test_knatives_own_container_is_bounded() -> None:
    """queue-proxy has requests and limits of CPU and memory, as each container of ours has."""
    given = {name for name in annotations() if name.startswith("queue.sidecar.serving.knative.dev/")}
    assert {name.partition("/")[2] for name in given} == {
        f"{what}-resource-{bound}" for what in ("cpu", "memory") for bound in ("request", "limit")
    }


def test_the_next_apply_ends_a_rollback() -> None:
    """All requests go to the newest revision, and it is said: kubectl apply leaves alone what a manifest does not."""
    assert service()["spec"]["traffic"] == [{"latestRevision": True, "percent": 100}]


def test_prometheus_finds_it_by_the_port_that_is_declared() -> None:
    """At the address of the one port, with our port for metrics in its place; each process has one endpoint."""
    found = rendered(MONITORED)
    (monitor,) = found.of("PodMonitor")
    (others,) = rendered("k8s/tests/monitoring").of("PodMonitor")
    *before, endpoint = monitor["spec"]["podMetricsEndpoints"]
    assert before == others["spec"]["podMetricsEndpoints"]
    assert matches(monitor["spec"]["selector"], labels(service(MONITORED)))
    # v1.UserPortName: whatever the container's port is called.
    assert endpoint["port"] == "user-port"
    (like,) = before
    assert endpoint["path"] == like["path"]
    assert endpoint["interval"] == like["interval"]
    *same, address = endpoint["relabelings"]
    assert same == like["relabelings"]
    assert (address["sourceLabels"], address["targetLabel"]) == (["__address__"], "__address__")
    port = found.settings(service(MONITORED))["PROMPTQ_METRICS_PORT"]
    for given in ("10.0.0.7:8000", "[fd00::7]:8000"):
        found_at = re.fullmatch(address["regex"], given)
        assert found_at
        assert address["replacement"].replace("$1", found_at[1]) == given.replace("8000", port)


KUBECTL = """#!/bin/bash
echo "$*" >>{log}
case "$*" in
  *"create -f -") cat >/dev/null ;;
  kustomize*) exec {kubectl} "$@" ;;
  "api-resources --api-group serving.knative.dev"*) {knative} ;;
  *"get services.serving.knative.dev"*) echo service.serving.knative.dev/api ;;
  *"get revisions.serving.knative.dev"*) printf '%s\\n' {revisions} ;;
  *"get deployment/api"*) echo {left} ;;
  *"get service.serving.knative.dev/api"*) echo service.serving.knative.dev/api ;;
  *"get deployment "*"component=api-next"*) echo {api_next} ;;
  *"get deployment "*"promptq-track=canary"*) echo {canary} ;;
  *"get deployment "*"!serving.knative.dev/revision"*) printf '%s\\n' {deployments} ;;
  *"get deployment "*) echo deployment.apps/worker; echo deployment.apps/api-00002-deployment ;;
  *"get statefulset "*) echo statefulset.apps/redis ;;
  *"rollout history "*) printf '%s\\n' "$5" "REVISION  CHANGE-CAUSE"
    case " {alone} " in *" $5 "*) ;; *) echo "1         <none>" ;; esac
    echo "2         <none>" ;;
  *"rollout undo "*)
    case " {alone} " in *" $5 "*) echo "error: no rollout history found" >&2; exit 1 ;; esac ;;
esac
"""
HAS_KNATIVE = "echo services.serving.knative.dev; echo revisions.serving.knative.dev"


def run(
    script: str,
    folder: Path,
    *,
    knative: bool,
    revisions: str = "",
    left: str = "",
    deployments: str = "worker",
    alone: str = "",
    api_next: str = "",
    canary: str = "",
    **env: str,
) -> tuple[int, str, list[str]]:
    """Run a script of k8s/ with a stand-in for kubectl: its exit, what it complained of, and what kubectl was told. Of
    the Deployments those that are alone have one revision."""
    log, stand_in = folder / "log", folder / "kubectl"
    log.write_text("")
    stand_in.write_text(
        KUBECTL.format(
            log=log,
            kubectl=TOOLS / "kubectl",
            knative=HAS_KNATIVE if knative else ":",
            revisions=" ".join(f"revision.serving.knative.dev/{name}" for name in revisions.split()) or "''",
            left=left,
            deployments=_deployments(deployments),
            alone=_deployments(alone),
            api_next=_deployments(api_next),
            canary=_deployments(canary),
        )
    )
    stand_in.chmod(0o755)
    outside = {"PATH": os.environ["PATH"], "KUBECTL": str(stand_in), "OPENAI_API_KEY": "none", **env}
    ran = subprocess.run([ROOT / script], env=outside, capture_output=True, text=True, timeout=60, check=False)
    return ran.returncode, ran.stderr, log.read_text().splitlines()


def _deployments(names: str) -> str:
    return " ".join(f"deployment.apps/{name}" for name in names.split())


PUSHED = {"REGISTRY": "r.example/team", "PUSHED": "1"}


def test_make_deploy_waits_for_it(tmp_path: Path) -> None:
    """Until it is ready; not for the Deployments that Knative makes."""
    code, complaint, told = run("k8s/deploy", tmp_path, knative=True, OVERLAY=FOLDER, **PUSHED)
    assert code == 0, complaint
    assert "--namespace promptq wait --for condition=Ready service.serving.knative.dev/api --timeout 10m" in told
    waited = [line.split()[4] for line in told if "rollout status" in line]
    assert waited == ["statefulset.apps/redis", "deployment.apps/worker"]


def test_make_deploy_says_what_is_in_the_way(tmp_path: Path) -> None:
    """Of the two that want the Service `api` the other one must go first, whichever way; nothing is applied."""
    for overlay, knative, left in ((FOLDER, True, "deployment.apps/api"), (PRODUCTION, True, "")):
        code, complaint, told = run("k8s/deploy", tmp_path, knative=knative, left=left, OVERLAY=overlay, **PUSHED)
        assert code == 2
        assert "docs/deploy/knative.md" in complaint
        assert not any(" apply " in f" {line}" for line in told)


def test_make_deploy_without_knative_asks_for_none_of_it(tmp_path: Path) -> None:
    """A cluster that has never heard of it is deployed to as ever."""
    code, complaint, told = run("k8s/deploy", tmp_path, knative=False, left="deployment.apps/api", **PUSHED)
    assert code == 0, complaint
    assert not any("get services.serving" in line or " wait " in line for line in told)
    assert sum("rollout status" in line for line in told) == 2


def test_make_rollback_sends_requests_to_the_revision_before(tmp_path: Path) -> None:
    """The last but one, while the others are undone; Knative's own Deployments, which have no history, are left alone.
    It waits for the route alone: the newest revision may be the one that never became ready."""
    code, complaint, told = run("k8s/rollback", tmp_path, knative=True, revisions="api-00001 api-00002 api-00003")
    assert code == 0, complaint
    (patch,) = [line for line in told if " patch " in line]
    assert patch.endswith('--patch {"spec": {"traffic": [{"revisionName": "api-00002", "percent": 100}]}}')
    assert [line for line in told if "undo" in line] == ["--namespace promptq rollout undo deployment.apps/worker"]
    assert [line for line in told if " wait " in line] == [
        "--namespace promptq wait --for condition=RoutesReady service.serving.knative.dev/api --timeout 15m"
    ]


def test_make_rollback_without_a_revision_before_does_nothing(tmp_path: Path) -> None:
    """It says so before anything is undone."""
    code, complaint, told = run("k8s/rollback", tmp_path, knative=True, revisions="api-00001")
    assert code == 1
    assert "no revision before" in complaint
    assert not any("undo" in line or " patch " in line for line in told)


def test_make_rollback_without_knative_is_as_ever(tmp_path: Path) -> None:
    """The Deployments are undone, and nothing else."""
    code, complaint, told = run("k8s/rollback", tmp_path, knative=False)
    assert code == 0, complaint
    assert not any(" patch " in line or " wait " in line for line in told)
    assert sum("undo" in line for line in told) == 1
