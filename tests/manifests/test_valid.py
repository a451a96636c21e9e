"""Every overlay and combination renders, and is valid in the eyes of those who know the kinds."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as prometheus

from tests.manifests.rendering import COMBINATIONS, PER_QUEUE, PRODUCTION, ROOT, TOOLS, Object, rendered, text
from tests.manifests.schemas import SCHEMAS

KUBERNETES = "1.34.1"
KEDA_KINDS = ("ScaledObject", "TriggerAuthentication")
PROMETHEUS_KINDS = ("PodMonitor", "PrometheusRule")
#: What KEDA has got since the models' 2.16, by field: the values that it may have
#: (KEDA 2.20, config/crd/bases/keda.sh_scaledobjects.yaml, spec.fallback.behavior).
NEWER = {
    ".spec.fallback.behavior": {
        *("static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower", "scalingModifiers"),
    }
}
#: An environment of its own, which `make setup` makes, too.
CHECKOV = ROOT / ".venv/checkov/bin/checkov"


def kind(one: Object) -> tuple[str, str]:
    """The version of its API and the name of its kind: ``Service`` and ``Gateway`` are more than one thing."""
    return one["apiVersion"], one["kind"]


def test_all_that_can_be_applied_is_rendered() -> None:
    """Overlays and combinations are found, and every component is in one of them."""
    assert {PRODUCTION, "k8s/overlays/dev", PER_QUEUE} <= set(COMBINATIONS)
    used = "".join(file.read_text() for place in ("k8s", "keda") for file in (ROOT / place).rglob("kustomization.yaml"))
    components = [
        file.parent.relative_to(ROOT)
        for file in ROOT.glob("k*/**/kustomization.yaml")
        if "kind: Component" in file.read_text()
    ]
    assert len(components) >= 6
    for folder in components:
        parent = ROOT / folder.parent / "kustomization.yaml"
        inside = parent.exists() and f"- {folder.name}\n" in parent.read_text()
        assert inside or f"../{folder}" in used or f"/{folder.name}\n" in used, folder


@pytest.mark.parametrize("folder", COMBINATIONS)
def test_kubernetes_own_kinds_are_valid(folder: str) -> None:
    """Each object is what its kind's schema says, and has no field that the schema does not know."""
    others = {*KEDA_KINDS, *PROMETHEUS_KINDS}
    known = [one for one in rendered(folder).objects if one["kind"] not in others and kind(one) not in SCHEMAS]
    assert len(known) > 15
    for one in known:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)


def test_the_validation_finds_what_is_wrong() -> None:
    """A field that is misspelt is refused, so that the test above can fail."""
    one = rendered(PRODUCTION).get("Deployment", "api")
    wrong = {**one, "spec": {**one["spec"], "minReadySecond": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("folder", "kinds"),
    [
        pytest.param(folder, kinds, id=f"{folder}:{kinds[0]}")
        for folder in COMBINATIONS
        for kinds in (KEDA_KINDS, PROMETHEUS_KINDS)
        if rendered(folder).of(*kinds)
    ],
)
def test_operators_read_what_is_written(folder: str, kinds: tuple[str, ...]) -> None:
    """KEDA's and the Prometheus operator's models take each object, and give back exactly what was put in: no field is
    unknown to them, but for those that are newer, whose values are checked here."""
    found = rendered(folder).of(*kinds)
    assert {one["kind"] for one in found} == set(kinds)
    for one in found:
        model = getattr(keda if kinds is KEDA_KINDS else prometheus, one["kind"]).model_validate(one)
        dump = model.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
        differences = list(_differences(one, dump, ""))
        for path, value in differences:
            assert path in NEWER, (one["metadata"]["name"], path)
            assert value in NEWER[path]


@pytest.mark.parametrize("folder", [one for one in COMBINATIONS if SCHEMAS.keys() & map(kind, rendered(one).objects)])
def test_other_kinds_have_fields_that_they_have(folder: str) -> None:
    """Objects of kinds without a package's schema are what ours says, field by field, with its source."""
    for one in rendered(folder).objects:
        if kind(one) in SCHEMAS:
            jsonschema.validate(one, SCHEMAS[kind(one)])


def test_a_field_that_a_kind_does_not_have_is_found() -> None:
    """The schemas are strict."""
    (route, *_) = rendered("k8s/tests/production-gateway").of("HTTPRoute")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**route, "spec": {**route["spec"], "hostname": "x"}}, SCHEMAS[kind(route)])


def _differences(given: Any, dump: Any, path: str) -> Any:
    if isinstance(given, dict) and isinstance(dump, dict):
        for name in given.keys() | dump.keys():
            if name in given and name in dump:
                yield from _differences(given[name], dump[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}", given.get(name, dump.get(name))
    elif isinstance(given, list) and isinstance(dump, list) and len(given) == len(dump):
        for place, pair in enumerate(zip(given, dump, strict=True)):
            yield from _differences(*pair, f"{path}[{place}]")
    elif given != dump:
        yield path, given


@pytest.mark.parametrize("folder", COMBINATIONS)
def test_each_object_is_there_once_and_in_the_namespace(folder: str) -> None:
    """No two objects have one kind and name; all but the namespaces are in one, and have the project's label. What
    handles logs has a namespace of its own, since Fluent Bit reads files of the node, and nothing else is there."""
    objects = rendered(folder).objects
    names = [(kind(one), one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects]
    assert len(set(names)) == len(names)
    logs = {"default-deny", "dns", "logging", "fluent-bit", "logging-setup", "elasticsearch", "kibana"}
    for one in objects:
        if one["kind"] != "Namespace" and one["metadata"]["namespace"] == "promptq-logging":
            name = re.sub(r"-[a-z0-9]{10}$", "", one["metadata"]["name"])
            assert name in logs, one["metadata"]
            assert "logging" in folder
        elif one["kind"] != "Namespace":
            assert one["metadata"]["namespace"] == "promptq", one["metadata"]
        assert one["metadata"]["labels"]["app.kubernetes.io/part-of"] == "promptq", one["metadata"]


def test_the_files_are_well_formed() -> None:
    """yamllint finds nothing."""
    places = ["k8s", "keda", "compose", "compose.yaml", ".checkov.yaml", ".yamllint.yaml", ".github", ".gitlab-ci.yml"]
    ran = subprocess.run(
        [TOOLS / "yamllint", "--strict", *places], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("name", ["Dockerfile.api", "Dockerfile.worker"])
def test_the_dockerfiles_are_well_formed(name: str) -> None:
    """hadolint finds nothing."""
    ran = subprocess.run([TOOLS / "hadolint", name], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_checkov_finds_nothing_in_the_manifests(tmp_path: Path) -> None:
    """Each of its checks holds, but for those that .checkov.yaml names with the reason."""
    for folder in COMBINATIONS:
        (tmp_path / f"{folder.replace('/', '-')}.yaml").write_text(text(folder))
    assert _checkov("kubernetes", "--directory", str(tmp_path)) > 300 * len(COMBINATIONS)


@pytest.mark.parametrize("name", ["Dockerfile.api", "Dockerfile.worker"])
def test_checkov_finds_nothing_in_the_dockerfiles(name: str) -> None:
    """The same of the images."""
    assert _checkov("dockerfile", "--file", str(ROOT / name)) > 50


def _checkov(framework: str, *words: str) -> int:
    """Run checkov offline; answer how many checks passed."""
    assert CHECKOV.exists(), "checkov is not installed: make setup"
    command = [CHECKOV, *words, "--framework", framework, "--config-file", str(ROOT / ".checkov.yaml")]
    options = ["--compact", "--quiet", "--skip-download", "--output", "json"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PROMPTQ_")}
    ran = subprocess.run([*command, *options], capture_output=True, text=True, timeout=110, check=False, env=env)
    found: Any = json.loads(ran.stdout)
    assert ran.returncode == 0, [one["check_id"] for one in found["results"]["failed_checks"]]
    return int(found["summary"]["passed"])
