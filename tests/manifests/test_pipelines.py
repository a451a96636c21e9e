"""GitHub's, GitLab's and Jenkins' pipelines run the make targets, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.manifests.rendering import ROOT

#: What a machine with nothing on it needs before make can do the rest.
BOOTSTRAP = "apt-get update && apt-get install --yes --no-install-recommends "
VERIFY = ("check", "test", "test-system")
SHIP = ("images", "push", "deploy")


def github() -> list[str]:
    """All commands of the workflow, in order."""
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    return [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]


def gitlab() -> list[str]:
    """All commands of the pipeline, in the order of its stages."""
    pipeline: dict[str, Any] = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())
    jobs = [job for job in pipeline.values() if isinstance(job, dict) and "script" in job]
    assert all(job["stage"] in pipeline["stages"] for job in jobs)
    before = [command for job in [pipeline["default"], *jobs] for command in job.get("before_script", [])]
    jobs.sort(key=lambda job: pipeline["stages"].index(job["stage"]))
    return before + [command for job in jobs for command in job["script"]]


def jenkins() -> list[str]:
    """All commands of the Jenkinsfile, in order."""
    return re.findall(r"^\s*sh '([^']*)'$", (ROOT / "Jenkinsfile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("pipeline", [github, gitlab, jenkins])
def test_a_pipeline_runs_make_targets(pipeline: Any) -> None:
    """But for the packages that a bare Debian lacks, each command is `make` and a target that exists; it has all of the
    road, from check to roll back."""
    commands = pipeline()
    targets = [command.removeprefix("make ") for command in commands if command.startswith("make ")]
    others = [command for command in commands if not command.startswith("make ")]
    assert all(command.startswith(BOOTSTRAP) and "&&" not in command.removeprefix(BOOTSTRAP) for command in others)
    assert targets == [*VERIFY, *SHIP, "rollback"]
    known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(targets) <= set(known)


def test_ci_runs_the_same() -> None:
    """What this project's own CI calls is what the pipelines call first."""
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert [line.removeprefix("make ") for line in lines if line.startswith("make ")] == list(VERIFY)


def test_nothing_is_shipped_that_was_not_verified() -> None:
    """Images wait for the tests, a deployment for the images."""
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert (jobs["images"]["needs"], jobs["deploy"]["needs"]) == ("verify", "images")
    for name in ("images", "deploy", "rollback"):
        assert jobs[name]["environment"] == "production"
    stages = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())["stages"]
    assert stages == ["verify", "images", "deploy"]
    order = re.findall(r"stage\('([^']+)'\)", (ROOT / "Jenkinsfile").read_text())
    assert order == ["Verify", "Images", "Deploy", "Roll back"]


def test_a_rollback_is_no_end_of_the_environment() -> None:
    """GitLab rolls nothing back when somebody stops the environment, and production goes on after a rollback."""
    jobs = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())
    for name in ("deploy", "rollback"):
        assert jobs[name]["environment"] == {"name": "production"}


def test_what_could_not_be_tested_is_a_failure() -> None:
    """tests/system/run asks for CI, which GitHub and GitLab set, and Jenkins does not."""
    assert '[ -z "${CI:-}" ] || exit 1' in (ROOT / "tests/system/run").read_text()
    stages = re.split(r"(?=stage\(')", (ROOT / "Jenkinsfile").read_text())
    (verify,) = [stage for stage in stages if "sh 'make test-system'" in stage]
    assert re.search(r"^\s*environment \{[^}]*^\s*CI = 'true'$", verify, re.MULTILINE)


def test_variables_are_those_that_the_scripts_read() -> None:
    """What the pipelines set is read by a script of k8s/, or by kubectl."""
    scripts = "".join(
        (ROOT / "k8s" / name).read_text() for name in ("images", "deploy", "rollback", "kubectl", "create-secrets")
    )
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    gitlab_jobs = yaml.safe_load((ROOT / ".gitlab-ci.yml").read_text())
    given = {name for job in jobs.values() for name in job.get("env", {})}
    given |= {name for job in gitlab_jobs.values() if isinstance(job, dict) for name in job.get("variables", {})}
    assert given
    for name in given:
        assert re.search(rf"\b{name}\b", scripts), name
