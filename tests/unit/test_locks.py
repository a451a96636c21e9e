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
    "requirements.txt": _PROJECT["project"]["dependencies"],
    "requirements-dev.txt": [
        *_PROJECT["project"]["dependencies"],
        *_PROJECT["project"]["optional-dependencies"]["local"],
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


def test_both_locks_pin_the_same_versions() -> None:
    """What runs in production is what was tested."""
    pins = [set(re.findall(r"^[a-z0-9-]+==[^ \\]+", (_ROOT / lock).read_text(), re.MULTILINE)) for lock in _NEEDED]
    assert pins[0] <= pins[1]
