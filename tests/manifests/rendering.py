"""What kustomize makes of each overlay and combination, and how tests find their way in it."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
#: Each folder that a user may apply, and each combination that the docs name.
COMBINATIONS = sorted(
    str(file.parent.relative_to(ROOT))
    for place in ("k8s/overlays", "k8s/tests")
    for file in (ROOT / place).glob("*/kustomization.yaml")
)
PRODUCTION, DEV, PER_QUEUE = "k8s/overlays/production", "k8s/overlays/dev", "k8s/tests/per-queue"
#: A Knative Service makes pods of a template like theirs; which of its fields Knative admits is in schemas/knative.py.
KNATIVE = "Service.serving.knative.dev"
WORKLOADS = ("Deployment", "StatefulSet", KNATIVE)
#: Those that run on each node, or once: not spread, not drained, and not asked by anybody.
OTHER_WORKLOADS = ("DaemonSet", "Job")

Object = Mapping[str, Any]


@functools.cache
def text(folder: str) -> str:
    """The rendered manifest, as ``kubectl apply -k`` would send it."""
    command = [TOOLS / "kubectl", "kustomize", ROOT / folder]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    # A word about what is deprecated, for example.
    assert ran.stderr == ""
    return ran.stdout


def kind(one: Object) -> str:
    """Its kind, with the group where the kind alone would be taken for Kubernetes' own, as kubectl has it."""
    group, _, _ = one["apiVersion"].rpartition("/")
    return f"{one['kind']}.{group}" if one["kind"] == "Service" and group else str(one["kind"])


@dataclass(frozen=True)
class Rendered:
    """The objects of one combination."""

    objects: tuple[Object, ...]

    def of(self, *kinds: str) -> list[Object]:
        """All objects of these kinds."""
        return [one for one in self.objects if kind(one) in kinds]

    def get(self, kind: str, name: str) -> Object:
        """The one object of this name."""
        (found,) = [one for one in self.of(kind) if one["metadata"]["name"] == name]
        return found

    def workloads(self) -> list[Object]:
        """All that make pods which serve."""
        return self.of(*WORKLOADS)

    def workload(self, name: str) -> Object:
        """The one of this name that makes pods, of whatever kind."""
        (found,) = [one for one in self.workloads() if one["metadata"]["name"] == name]
        return found

    def all_workloads(self) -> list[Object]:
        """All that make pods."""
        return self.of(*WORKLOADS, *OTHER_WORKLOADS)

    def settings(self, workload: Object) -> dict[str, str]:
        """What its container's environment says in plain text."""
        given: dict[str, str] = {}
        for source in container(workload).get("envFrom", []):
            if "configMapRef" in source:
                given |= self.get("ConfigMap", source["configMapRef"]["name"])["data"]
        return given | {one["name"]: one["value"] for one in container(workload).get("env", []) if "value" in one}


@functools.cache
def rendered(folder: str) -> Rendered:
    """The objects of a combination."""
    return Rendered(tuple(yaml.safe_load_all(text(folder))))


def pod(workload: Object) -> Object:
    """The pod's spec."""
    return workload["spec"]["template"]["spec"]  # type: ignore[no-any-return]


def labels(workload: Object) -> Mapping[str, str]:
    """The labels of its pods."""
    return workload["spec"]["template"]["metadata"]["labels"]  # type: ignore[no-any-return]


def container(workload: Object) -> Object:
    """Its one container."""
    (only,) = pod(workload)["containers"]
    return only  # type: ignore[no-any-return]


def is_knative(workload: Object) -> bool:
    """Whether Knative makes its pods: there are fields that it does not admit."""
    return kind(workload) == KNATIVE


def security(workload: Object) -> Object:
    """What holds for its one container: the pod's security context, and what the container's own says beside it."""
    return {**pod(workload).get("securityContext", {}), **container(workload)["securityContext"]}


def grace(workload: Object) -> float:
    """Seconds between the order to stop and being killed. Knative takes the time-out of a request for it."""
    spec = pod(workload)
    return float(spec["timeoutSeconds" if is_knative(workload) else "terminationGracePeriodSeconds"])


def component(workload: Object) -> str:
    """Which part of PromptQ it is."""
    return labels(workload)["app.kubernetes.io/component"]


def matches(selector: Object, pod_labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects pods with these labels (Kubernetes, meta/v1 LabelSelector)."""
    if not selector.get("matchLabels", {}).items() <= pod_labels.items():
        return False
    for rule in selector.get("matchExpressions", []):
        value, values = pod_labels.get(rule["key"]), rule.get("values", [])
        holds = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not holds[rule["operator"]]:
            return False
    return True


def walk(value: Any) -> Iterator[Any]:
    """A value and all that is in it."""
    yield value
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    for child in children:
        yield from walk(child)
