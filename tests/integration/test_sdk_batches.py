"""Batches by the unchanged openai SDK, sync and async."""

from __future__ import annotations

import io
import json
from typing import Literal

import openai
import pytest
from openai.types import Batch

from tests.integration.batching import jsonl, line
from tests.integration.driving import unique
from tests.integration.test_sdk import Sdk, sdk  # noqa: F401  # a fixture
from tests.processes import eventually

ENDED = {"completed", "failed", "expired", "cancelled"}


def run(
    sdk: Sdk,  # noqa: F811
    lines: list[object],
    endpoint: Literal["/v1/responses", "/v1/chat/completions"] = "/v1/chat/completions",
    within: float = 60,
) -> Batch:
    """The batch of these lines, once it has ended."""
    content = jsonl(lines)
    file = sdk(lambda client: client.files.create(file=("lines.jsonl", io.BytesIO(content)), purpose="batch"))
    made = sdk(
        lambda client: client.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"a": "b"}
        )
    )
    assert isinstance(made, Batch)
    assert (made.status, made.endpoint, made.input_file_id) == ("validating", endpoint, file.id)
    assert made.model is None
    assert made.usage is not None
    assert made.usage.total_tokens == 0
    ended: Batch = eventually(
        lambda: sdk(lambda client: client.batches.retrieve(made.id)), lambda batch: batch.status in ENDED, within=within
    )
    return ended


def test_a_batch_from_upload_to_download(sdk: Sdk) -> None:  # noqa: F811
    """``files.create``, ``batches.create``, ``batches.retrieve``, ``files.content``: typed as the SDK has them."""
    prompts = {f"line-{number}": unique() for number in range(10)}
    batch = run(sdk, [*(line(name, prompt) for name, prompt in prompts.items()), b"{"])
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 11, "completed": 10, "failed": 1}
    assert (batch.metadata, batch.model) == ({"a": "b"}, "sim")
    assert batch.errors is None
    output = sdk(lambda client: client.files.content(batch.output_file_id)).text
    answers = [json.loads(one) for one in output.splitlines()]
    texts = {one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"] for one in answers}
    assert texts == {name: f"Simulated answer to: {prompt}" for name, prompt in prompts.items()}
    spent = [one["response"]["body"]["usage"] for one in answers]
    assert batch.usage is not None
    assert batch.usage.input_tokens == sum(one["prompt_tokens"] for one in spent) > 0
    assert batch.usage.output_tokens == sum(one["completion_tokens"] for one in spent) > 0
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens
    assert batch.usage.input_tokens_details.cached_tokens == 0
    assert batch.usage.output_tokens_details.reasoning_tokens == 0
    errors = sdk(lambda client: client.files.content(batch.error_file_id)).text
    assert json.loads(errors)["error"]["line"] == 11
    assert sdk(lambda client: client.files.retrieve(batch.output_file_id)).purpose == "batch_output"


def test_a_file_that_is_no_batch(sdk: Sdk) -> None:  # noqa: F811
    """``errors`` says why, as the SDK types it."""
    batch = run(sdk, [line("a", "1"), line("a", "2")])
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert (batch.errors.data[0].code, batch.errors.data[0].line) == ("duplicate_custom_id", 2)


def test_cancel_and_list(sdk: Sdk) -> None:  # noqa: F811
    """``batches.cancel`` ends a batch that runs, and is refused for one that has ended; ``batches.list`` pages."""
    content = jsonl([line("a", unique(), model="sim-hang")])
    file = sdk(lambda client: client.files.create(file=("lines.jsonl", io.BytesIO(content)), purpose="batch"))
    made = [
        sdk(
            lambda client: client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        ).id
        for _ in range(3)
    ]
    for batch_id in made:
        assert sdk(lambda client, one=batch_id: client.batches.cancel(one)).status in ("cancelling", "cancelled")
        eventually(
            lambda one=batch_id: sdk(lambda client: client.batches.retrieve(one)).status == "cancelled", within=30
        )
    page = sdk(lambda client: client.batches.list(limit=2))
    assert [one.id for one in page.data] == made[:0:-1]
    assert page.has_next_page()
    with pytest.raises(openai.NotFoundError):
        sdk(lambda client: client.batches.retrieve("batch_none"))
