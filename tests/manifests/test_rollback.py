"""make rollback: what can go back goes back, and nothing stops half way. With Knative: test_knative.py."""

from __future__ import annotations

from pathlib import Path

from tests.manifests.rendering import Object, matches, rendered
from tests.manifests.test_knative import run


def undone(told: list[str]) -> list[str]:
    return [line.rpartition("/")[2] for line in told if " rollout undo " in line]


def test_what_is_new_in_the_release_does_not_stop_the_others(tmp_path: Path) -> None:
    """A Deployment of one revision is named and left alone, wherever it stands in the list, and not waited for."""
    for deployments in ("api flower worker", "flower api worker", "api worker flower"):
        code, said, told = run("k8s/rollback", tmp_path, knative=False, deployments=deployments, alone="flower")
        assert code == 0, said
        assert undone(told) == [name for name in deployments.split() if name != "flower"]
        assert "deployment.apps/flower stays as it is" in said
        assert not any("rollout status deployment.apps/flower" in line for line in told)


def test_all_is_asked_before_anything_is_undone(tmp_path: Path) -> None:
    """Of each Deployment whether it has a revision before."""
    _, _, told = run("k8s/rollback", tmp_path, knative=False, deployments="api worker")
    asked = [place for place, line in enumerate(told) if "rollout history" in line]
    first = next(place for place, line in enumerate(told) if "rollout undo" in line)
    assert len(asked) == 2
    assert max(asked) < first


def test_a_first_release_has_nothing_to_go_back_to(tmp_path: Path) -> None:
    """It says so, and does nothing."""
    code, said, told = run("k8s/rollback", tmp_path, knative=False, deployments="api worker", alone="api worker")
    assert code == 1
    assert "nothing has a revision before" in said
    assert undone(told) == []


def test_what_the_overlay_chooses_stays(tmp_path: Path) -> None:
    """api-next and worker-canary have images of their own, which no release has brought; it says how to take them
    back."""
    code, said, told = run("k8s/rollback", tmp_path, knative=False, api_next="api-next", canary="worker-canary")
    assert code == 0
    assert undone(told) == ["worker"]
    for name, page in (("api-next", "docs/deploy/istio.md"), ("worker-canary", "docs/deploy/canary.md")):
        (line,) = [line for line in said.splitlines() if f"deployment.apps/{name} stays as it is" in line]
        assert page in line


def test_the_selectors_tell_the_two_from_the_others(tmp_path: Path) -> None:
    """By labels that the Deployments have."""
    _, _, told = run("k8s/rollback", tmp_path, knative=False)
    given = [line.split("--selector ")[1].split()[0] for line in told if "get deployment " in line]
    for folder, own in (("k8s/tests/production-istio", "api-next"), ("k8s/tests/production-worker-canary", None)):
        found = rendered(folder).of("Deployment")
        chosen = [[one["metadata"]["name"] for one in found if selects(selector, one)] for selector in given]
        assert chosen[0] == [
            one["metadata"]["name"] for one in found if one["metadata"]["name"] not in ("api-next", "worker-canary")
        ]
        assert chosen[1:] == ([["api-next"], []] if own else [[], ["worker-canary"]])


def selects(selector: str, one: Object) -> bool:
    """A selector as kubectl has it."""
    rules = []
    for part in selector.split(","):
        if part.startswith("!"):
            rules.append({"key": part[1:], "operator": "DoesNotExist"})
            continue
        name, _, value = part.partition("=")
        rules.append(
            {"key": name.removesuffix("!"), "operator": "NotIn" if name.endswith("!") else "In", "values": [value]}
        )
    return matches({"matchExpressions": rules}, one["metadata"]["labels"])
