"""schemathesis over ``/openapi.json``: no server error and no answer that the document does not promise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from api.app import create_app
from api.openapi import document
from jobs.errors import InvalidRequest
from jobs.queues import QUEUES
from jobs.settings import Settings
from jobs.webhook_urls import MAX_URL
from tests.integration.driving import ended, submit, unique
from tests.processes import Stack

EXAMPLES = 15
PATHS = document(create_app(Settings(api_keys={}, api_keys_file=None)))["paths"]
OPERATIONS = [(method.upper(), path) for path, methods in PATHS.items() for method in methods]


def takes(method: str, path: str) -> bool:
    """Whether the operation takes a body or a query."""
    operation = PATHS[path][method.lower()]
    return "requestBody" in operation or any(parameter["in"] == "query" for parameter in operation["parameters"])


@pytest.fixture(scope="module")
def described(stack: Stack) -> Any:
    """The document of the running stack."""
    return schemathesis.openapi.from_url(f"{stack.api}/openapi.json")


@pytest.fixture
def ids(client: httpx2.Client) -> dict[str, str]:
    """Path parameters that name something."""
    body = {"model": "sim", "input": unique(), "background": True}
    response_id = client.post("/v1/responses", json=body).json()["id"]
    job_id = submit(client, prompt=unique(), model="sim")["id"]
    ended(client, response_id)
    ended(client, job_id)
    # The API itself, so that there is an answer to tests.
    endpoint = {"name": "known", "url": f"{client.base_url}/healthz", "event_types": ["response.completed"]}
    endpoint_id = client.post("/v1/webhook_endpoints", json=endpoint).raise_for_status().json()["id"]
    client.post(f"/v1/webhook_endpoints/{endpoint_id}/test", json={"event_type": "response.failed"}).raise_for_status()
    delivery_id = client.get("/v1/webhook_deliveries").json()["first_id"]
    client.post("/v1/webhook_secret")
    file = {"purpose": (None, "user_data"), "file": ("known", b"x")}
    file_id = client.post("/v1/files", files=file).raise_for_status().json()["id"]
    known = {"response_id": response_id, "job_id": job_id, "endpoint_id": endpoint_id, "delivery_id": delivery_id}
    lines = {"purpose": (None, "batch"), "file": ("lines", b'{"custom_id": "a line that is no call"}')}
    input_id = client.post("/v1/files", files=lines).raise_for_status().json()["id"]
    batch = {"input_file_id": input_id, "endpoint": "/v1/responses", "completion_window": "24h"}
    batch_id = client.post("/v1/batches", json=batch).raise_for_status().json()["id"]
    return {**known, "file_id": file_id, "batch_id": batch_id, "name": "sim-hang"}


@pytest.fixture(autouse=True)
def as_before(client: httpx2.Client) -> Iterator[None]:
    """Whatever queue was paused by what is tried here goes on, and no webhook endpoint is left."""
    yield
    for name in QUEUES:
        client.post(f"/v1/queues/{name}/resume").raise_for_status()
    for endpoint in client.get("/v1/webhook_endpoints?limit=100").json()["data"]:
        client.delete(f"/v1/webhook_endpoints/{endpoint['id']}").raise_for_status()


def tame(body: Any) -> Any:
    """The body with a model that answers, and with a URL that webhooks may go to, which no schema can say.

    Hypothesis tries strings of our sources, such as models that fail.
    """
    if not isinstance(body, dict):
        return body
    tamed = {name: tame(value) for name, value in body.items()}
    if str(tamed.get("model")).startswith("sim-"):
        tamed["model"] = "sim"
    for name in ("url", "webhook_url"):
        if isinstance(tamed.get(name), str) and 0 < len(tamed[name]) <= MAX_URL:
            tamed[name] = "http://127.0.0.1:9/"
    return tamed


def limits_time(body: Any) -> bool:
    """Whether the caller itself has said how long the job or an attempt may take."""
    options = body.get("promptq") if isinstance(body, dict) else None
    return isinstance(options, dict) and bool(options.keys() & {"deadline_seconds", "attempt_timeout_seconds"})


def conforms(stack: Stack, cases: Any) -> None:
    """Send the cases and check each answer with all of schemathesis' checks."""

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,  # the same cases each time, as far as the same modules are loaded
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def answers(case: Case) -> None:
        tamed = tame(case.body)
        if tamed != case.body:  # schemathesis takes each form with a file that is set for one that does not fit
            case.body = tamed
        answer = case.call(headers={"Authorization": f"Bearer {stack.api_key}"}, timeout=30)
        # A waiting door relays the LLM's own 400 to what only the LLM judges, such as an empty `input`: that it takes
        # all that fits is ours to promise for our own checks alone. Every other check holds for relayed answers too.
        excluded: list[Any] = []
        if answer.status_code == 400 and answer.json()["error"]["code"] != InvalidRequest.code:
            excluded.append(positive_data_acceptance)
        # A 504 is what a caller asks for whose own limit of time is over before the LLM has answered.
        if answer.status_code == 504 and limits_time(case.body):
            excluded.append(not_a_server_error)
        # A form cannot say an empty list: nothing is sent of what would be wrong.
        if case.media_type == "multipart/form-data" and isinstance(case.body, dict) and [] in case.body.values():
            excluded.append(negative_data_rejection)
        case.validate_response(answer, excluded_checks=excluded)

    answers()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_fits_is_answered_as_the_document_says(stack: Stack, described: Any, method: str, path: str) -> None:
    """What the document allows is answered with a status, type and shape that it names."""
    conforms(stack, described[path][method].as_strategy(generation_mode=GenerationMode.POSITIVE))


# Where there is neither a body nor a query, nothing can be wrong: any text is an id, of nothing.
@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path in OPERATIONS if takes(method, path)])
def test_what_does_not_fit_is_refused_as_the_document_says(
    stack: Stack, described: Any, method: str, path: str
) -> None:
    """What the document forbids is refused, with a status and shape that it names."""
    conforms(stack, described[path][method].as_strategy(generation_mode=GenerationMode.NEGATIVE))


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path in OPERATIONS if "{" in path])
def test_what_exists_is_shown_as_the_document_says(
    stack: Stack, described: Any, ids: dict[str, str], method: str, path: str
) -> None:
    """The same with ids that name something, which random ones never do."""
    known = {name: value for name, value in ids.items() if f"{{{name}}}" in path}
    if path.startswith("/v1/queues/"):
        known["name"] = "bulk"
    conforms(stack, described[path][method].as_strategy(path_parameters=known))


def test_every_operation_is_tried(described: Any) -> None:
    """The document has no operation that the tests above do not know."""
    found = [result.ok() for result in described.get_all_operations() if isinstance(result, Ok)]
    assert sorted((operation.method.upper(), operation.path) for operation in found) == sorted(OPERATIONS)
