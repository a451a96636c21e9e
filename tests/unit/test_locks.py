"""The locks fit the project, and name packages only."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

_ROOT = Path(__file__).parents[2]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())
_NEEDED = {
    "requirements-api.txt": _PROJECT["dependency-groups"]["image-api"],
    "requirements-worker.txt": _PROJECT["dependency-groups"]["image-worker"],
    "requirements-checkov.txt": _PROJECT["dependency-groups"]["checkov"],
    "requirements-dev.txt": [
        *_PROJECT["project"]["dependencies"],
        *_PROJECT["project"]["optional-dependencies"]["local"],
        *_PROJECT["project"]["optional-dependencies"]["tracing"],
        *_PROJECT["dependency-groups"]["dev"],
    ],
}


@pytest.mark.parametrize("lock", _NEEDED)
def test_the_lock_satisfies_the_project(lock: str) -> None:
    """Each dependency is pinned to a version that pyproject.toml allows; otherwise: make lock."""
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^ \\]+)", (_ROOT / lock).read_text(), re.MULTILINE))
    needed = [Requirement(text) for text in _NEEDED[lock]]
    assert [str(one) for one in needed if pins.get(one.name) is None or pins[one.name] not in one.specifier] == []


@pytest.mark.parametrize("lock", _NEEDED)
def test_the_lock_holds_hashes_and_no_addresses(lock: str) -> None:
    """Every pin has a hash, and nothing says from where it comes."""
    text = (_ROOT / lock).read_text()
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text)
    pins = re.split(r"^(?=[a-z0-9-]+==)", text, flags=re.MULTILINE)[1:]
    assert pins
    assert [pin.split()[0] for pin in pins if "--hash=sha256:" not in pin] == []


@pytest.mark.parametrize("image", ["api", "worker"])
def test_an_image_holds_what_was_tested(image: str) -> None:
    """What an image needs are dependencies of the project, in the versions that the tests ran with."""
    project = _PROJECT["project"]
    extras = [text for extra in ("tracing", "s3") for text in project["optional-dependencies"][extra]]
    named = {Requirement(text).name for text in [*project["dependencies"], *extras]}
    assert {Requirement(text).name for text in _PROJECT["dependency-groups"][f"image-{image}"]} <= named
    ours, tested = (
        set(re.findall(r"^[a-z0-9-]+==[^ \\]+", (_ROOT / f"requirements-{which}.txt").read_text(), re.MULTILINE))
        for which in (image, "dev")
    )
    assert ours <= tested
