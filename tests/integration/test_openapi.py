"""schemathesis over ``/openapi.json``: no server error and no answer that the document does not promise."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok

from api.app import create_app
from api.openapi import document
from jobs.settings import Settings
from tests.processes import Stack

EXAMPLES = 15
OPERATIONS = [
    (method.upper(), path)
    for path, methods in document(create_app(Settings(api_keys={}, api_keys_file=None)))["paths"].items()
    for method in methods
]


@pytest.fixture(scope="module")
def described(stack: Stack) -> Any:
    """The document of the running stack."""
    return schemathesis.openapi.from_url(f"{stack.api}/openapi.json")


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fitting", "unfitting"])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_are_what_the_document_says(
    stack: Stack, described: Any, method: str, path: str, mode: GenerationMode
) -> None:
    """Whatever is sent, fitting or not, is answered with a status, type and shape that the document names."""
    operation = described[path][method]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
        pytest.skip("nothing that could be wrong")

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,  # the same cases each time
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def answers(case: Case) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {stack.api_key}"}, timeout=30)

    answers()


def test_every_operation_is_tried(described: Any) -> None:
    """The document has no operation that the tests above do not know."""
    found = [result.ok() for result in described.get_all_operations() if isinstance(result, Ok)]
    assert sorted((operation.method.upper(), operation.path) for operation in found) == sorted(OPERATIONS)
