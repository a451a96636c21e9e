"""Prompts come through intact, whatever is in them."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from tests.integration.driving import calls_of, chat, ended, messages, submit, unique
from tests.processes import Stack

TEXTS = {
    "nul": "before\x00after\x01\x1f\x7f",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈 family and flag",
    "lone surrogates": "high \ud800 low \udc00 end",
    "rtl": "مرحبا \u202eשלום\u202c עולם",
    "combining": "e\u0301 n\u0303 \u1f02 \u2028 \u2029 \ufeff",
    "json in json": '{"a": "\\u0000", "b": "\\\\"}\r\n\t\'"',
    "placeholders": "%BODY% %TAG% {0} {{x}} %s $(id) ' OR 1=1 \\x00",
    "100 kB": "Grüße, 世界! " * 5000,
}


@pytest.fixture(params=TEXTS)
def text(request: pytest.FixtureRequest) -> str:
    """A text that is easily spoilt, with something of its own."""
    return f"{unique()} {TEXTS[request.param]}"


def forms(text: str) -> list[bytes]:
    """The text as JSON: with escapes, and where it can be, as plain UTF-8."""
    escaped = json.dumps(text).encode()
    try:
        return [escaped, json.dumps(text, ensure_ascii=False).encode()]
    except UnicodeEncodeError:
        return [escaped]


def test_a_job_asks_the_text_that_was_sent(client: httpx2.Client, stack: Stack, text: str) -> None:
    """The LLM is asked exactly the text, and its answer comes back exactly, escaped in JSON or not."""
    for number, form in enumerate(forms(text), 1):
        answer = client.post("/v1/jobs", content=b'{"model": "sim", "prompt": ' + form + b"}")
        assert answer.status_code == 202, answer.text
        job = ended(client, answer.json()["id"])
        assert job["result"]["choices"][0]["message"]["content"] == f"Simulated answer to: {text}"
        assert calls_of(stack, messages(text)) == number


def test_a_response_repeats_the_text_that_was_sent(client: httpx2.Client, stack: Stack, text: str) -> None:
    """Responses and their input items hold exactly the text."""
    body = json.dumps({"model": "sim", "input": text, "background": True, "instructions": text})
    made = client.post("/v1/responses", content=body).raise_for_status().json()
    assert made["instructions"] == text
    ended(client, made["id"])
    response = client.get(f"/v1/responses/{made['id']}").json()
    assert response["output"][0]["content"][0]["text"] == f"Simulated answer to: {text}"
    items: Any = client.get(f"/v1/responses/{made['id']}/input_items").json()
    assert items["data"][0]["content"][0]["text"] == text
    assert calls_of(stack, text) == 1


def test_the_synchronous_doors_answer_the_text_that_was_sent(client: httpx2.Client, stack: Stack, text: str) -> None:
    """A chat completion and ``/generate`` answer with exactly the text."""
    expected = f"Simulated answer to: {text}"
    answer = client.post("/v1/chat/completions", content=json.dumps(chat(text))).raise_for_status().json()
    assert answer["choices"][0]["message"]["content"] == expected
    answer = client.post("/generate", content=json.dumps({"prompt": text})).raise_for_status().json()
    assert answer == {"response": expected}
    assert calls_of(stack, messages(text)) == 2


def test_model_names_and_metadata_may_hold_any_text(client: httpx2.Client) -> None:
    """What stands beside the prompt comes through as well; half a surrogate pair there is refused clearly."""
    name = "modèle \x00 🤖"
    job = submit(client, prompt=unique(), model=name, metadata={name: name})
    done = ended(client, job["id"])
    assert (done["status"], done["model"], done["metadata"]) == ("completed", name, {name: name})
    assert done["result"]["model"] == name
    for param, value in {"model": "\ud800", "metadata": {"a": "\ud800"}}.items():
        refused = client.post("/v1/jobs", content=json.dumps({"prompt": "x", param: value}))
        assert (refused.status_code, refused.json()["error"]["param"].partition(".")[0]) == (400, param)
