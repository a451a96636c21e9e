"""The docs and the code say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from api.app import create_app
from jobs import errors
from jobs.settings import Settings, environment_name

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_is_documented_as_it_describes_itself(field: str) -> None:
    """docs/configuration.md has a row for each setting, with its description."""
    row = f"| `{environment_name(field)}` |"
    lines = [line for line in _read("docs/configuration.md").splitlines() if line.startswith(row)]
    assert len(lines) == 1
    description = Settings.model_fields[field].description
    assert description
    assert lines[0].endswith(f"| {description} |")


def test_no_setting_is_documented_that_does_not_exist() -> None:
    """Every variable that the docs name is a setting, or is read by the command line or the tests."""
    known = {environment_name(field) for field in Settings.model_fields}
    others = {"PROMPTQ_URL", "PROMPTQ_API_KEY"}
    named = set(re.findall(r"\bPROMPTQ_[A-Z_]+[A-Z]", "".join(_read(page) for page in _pages())))
    assert named - known <= others


def test_every_route_is_documented() -> None:
    """docs/api.md names the path of every route, however it is shortened."""
    text = _read("docs/api.md")
    app = create_app(Settings())
    paths = {re.sub(r"<[^>]+>", "{id}", rule.rule) for rule in app.url_map.iter_rules()}
    shortened = {"/v1/responses/{id}/input_items": "…/input_items", "/v1/responses/{id}/cancel": "POST …/cancel"}
    shortened["/v1/models/{id}"] = "/v1/models/{name}"
    assert {path for path in paths if shortened.get(path, path) not in text} == set()


def test_every_error_code_is_documented() -> None:
    """docs/api.md names the code of every error that a caller can see."""
    text = _read("docs/api.md")
    classes = [
        value for value in vars(errors).values() if isinstance(value, type) and value.__module__ == "jobs.errors"
    ]
    roots = {"internal_error", "service_unavailable"}
    assert {cls.code for cls in classes if f"`{cls.code}`" not in text} <= roots


def test_every_error_code_of_batches_is_documented() -> None:
    """docs/batches.md names the code of whatever can be wrong with a line, or with a batch as a whole."""
    sources = (
        "jobs/batch_lines.py",
        "worker/batches/tender.py",
        "worker/batches/validation.py",
        "worker/batches/results.py",
    )
    written = r'(?:BadLine\(|bad\(|_problem\()[^"\n]*"([a-z_]+)"|"code": "([a-z_]+)"'
    codes = {"".join(found) for source in sources for found in re.findall(written, _read(source))}
    assert codes >= {"invalid_json_line", "mismatched_url", "too_many_lines", "results_lost", "cancelled"}
    text = _read("docs/batches.md")
    assert {code for code in codes if f"| `{code}` |" not in text} == set()


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (_ROOT / "docs").glob("*.md"))])
def test_links_between_pages_lead_somewhere(page: str) -> None:
    """Each relative link of a page is a file or a folder."""
    folder = (_ROOT / page).parent
    links = [link for link in re.findall(r"\]\(([^)#]+)", _read(page)) if "://" not in link]
    assert [link for link in links if not (folder / link).exists()] == []


def _pages() -> list[str]:
    return ["README.md", *(str(path.relative_to(_ROOT)) for path in (_ROOT / "docs").rglob("*.md"))]


def _read(page: str) -> str:
    return (_ROOT / page).read_text()
