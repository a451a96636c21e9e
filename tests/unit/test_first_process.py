"""A container that is stopped while it starts."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "entry", ["worker/__main__.py", "worker/scheduler.py", "worker/dashboard.py", "api/gunicorn_conf.py"]
)
def test_sigterm_is_heard_before_anything_else(entry: str) -> None:
    """What an image starts sees to SIGTERM first: all other imports take seconds in which it would be lost."""
    docstring, future, imported, called, *_ = ast.parse((ROOT / entry).read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert ast.unparse(future).startswith("from __future__")
    assert ast.unparse(imported) == "from jobs.first_process import end_on_sigterm"
    assert ast.unparse(called) == "end_on_sigterm()"
