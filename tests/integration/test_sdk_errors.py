"""What the unchanged openai SDK raises, and that it repeats nothing that would be paid for twice."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import openai
import pytest

from tests.integration.driving import calls_of, chat, messages, unique
from tests.processes import Stack


@pytest.fixture(params=[0, 2])
def sdk(request: pytest.FixtureRequest, stack: Stack) -> Iterator[openai.OpenAI]:
    """The SDK with no retries of its own, and with as many as it has by default."""
    with openai.OpenAI(base_url=f"{stack.api}/v1", api_key=stack.api_key, max_retries=request.param) as client:
        yield client


def test_a_missing_model_is_a_bad_request(sdk: openai.OpenAI) -> None:
    """A body without a model is a BadRequestError that names the parameter."""
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(input="no model", background=True)
    assert (caught.value.status_code, caught.value.param) == (400, "model")
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id.startswith("req_")


def test_the_llms_own_400_is_relayed(sdk: openai.OpenAI, stack: Stack) -> None:
    """The LLM's 400 comes through with its message, code and param, after one LLM call."""
    prompt = unique()
    with pytest.raises(openai.BadRequestError, match="Unsupported value: 'temperature'") as caught:
        sdk.chat.completions.create(**chat(prompt, "sim-400"))
    assert (caught.value.code, caught.value.param) == ("unsupported_value", "temperature")
    assert calls_of(stack, messages(prompt)) == 1


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("sim-401", openai.AuthenticationError),
        ("sim-403", openai.PermissionDeniedError),
        ("sim-404", openai.NotFoundError),
        ("sim-refusal", openai.BadRequestError),
    ],
)
def test_the_llms_refusals_keep_their_class(
    sdk: openai.OpenAI, stack: Stack, model: str, error: type[openai.APIStatusError]
) -> None:
    """A final refusal of the LLM reaches the SDK as what it was, after one LLM call."""
    prompt = unique()
    with pytest.raises(error) as caught:
        sdk.responses.create(model=model, input=prompt)
    assert caught.value.code
    assert calls_of(stack, prompt) == 1


@pytest.mark.parametrize(
    ("model", "error", "code"),
    [
        ("sim-429", openai.RateLimitError, "rate_limit_exceeded"),
        ("sim-500", openai.InternalServerError, None),
        ("sim-cut", openai.InternalServerError, "llm_unreachable"),
        ("sim-garbage", openai.InternalServerError, "llm_bad_answer"),
    ],
)
def test_a_failure_is_repeated_by_the_queue_alone(
    sdk: openai.OpenAI, stack: Stack, model: str, error: type[openai.APIStatusError], code: str | None
) -> None:
    """After ``PROMPTQ_MAX_ATTEMPTS`` calls the failure is final: the SDK's own retries add none."""
    prompt = unique()
    with pytest.raises(error) as caught:
        sdk.chat.completions.create(**chat(prompt, model))
    assert code is None or caught.value.code == code
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert calls_of(stack, messages(prompt)) == 3


def test_an_unknown_response_is_not_found(sdk: openai.OpenAI) -> None:
    """An id that nobody has, and one that cannot be, are NotFoundErrors."""
    for response_id in ("resp_" + "0" * 32, "resp_nonsense", "job_" + "0" * 32):
        with pytest.raises(openai.NotFoundError) as caught:
            sdk.responses.retrieve(response_id)
        assert caught.value.code == "not_found"


def test_a_reused_idempotency_key_is_a_conflict(sdk: openai.OpenAI, stack: Stack) -> None:
    """A key that comes back with another request is a ConflictError, which the SDK does not repeat."""
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    first, other = unique(), unique()
    answer = sdk.responses.create(model="sim", input=first, extra_headers=headers)
    assert sdk.responses.create(model="sim", input=first, extra_headers=headers).id == answer.id
    sent: list[str] = []
    sdk._client.event_hooks = {"request": [lambda request: sent.append(request.url.path)]}
    with pytest.raises(openai.ConflictError) as caught:
        sdk.responses.create(model="sim", input=other, extra_headers=headers)
    assert sent == ["/v1/responses"]
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.code == "idempotency_key_reused"
    assert (calls_of(stack, first), calls_of(stack, other)) == (1, 0)


def test_what_is_too_large_is_a_413(sdk: openai.OpenAI) -> None:
    """A prompt beyond ``PROMPTQ_MAX_PROMPT_BYTES`` and a body beyond ``PROMPTQ_MAX_BODY_BYTES`` are 413s."""
    with pytest.raises(openai.APIStatusError) as caught:
        sdk.responses.create(model="sim", input="x" * (5 * 1024 * 1024), background=True)
    assert (caught.value.status_code, caught.value.param) == (413, "input")
    with pytest.raises(openai.APIStatusError) as caught:
        sdk.responses.create(model="sim", input="x" * (9 * 1024 * 1024), background=True)
    assert (caught.value.status_code, caught.value.code) == (413, "payload_too_large")
