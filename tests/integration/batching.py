"""How the tests drive batches: files of lines, and what became of each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import httpx2

from tests.processes import eventually

CHAT = "/v1/chat/completions"
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


def line(custom_id: str, prompt: str, model: str = "sim", **changes: Any) -> dict[str, Any]:
    """A line that asks for a chat completion."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body} | changes


def jsonl(lines: Iterable[object]) -> bytes:
    """A file of these lines; bytes stand in it as they are."""
    return b"".join((one if isinstance(one, bytes) else json.dumps(one).encode()) + b"\n" for one in lines)


def upload(client: httpx2.Client, content: bytes, purpose: str = "batch") -> str:
    """The id of the file that it becomes."""
    answer = client.post("/v1/files", files={"file": ("lines.jsonl", content)}, data={"purpose": purpose})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def create(
    client: httpx2.Client, file_id: str, endpoint: str = CHAT, window: str = "24h", **more: Any
) -> dict[str, Any]:
    """The batch that is made of it."""
    sent = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": window, **more}
    answer = client.post("/v1/batches", json=sent)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def start(client: httpx2.Client, lines: Iterable[object], **more: Any) -> dict[str, Any]:
    """A batch of these lines."""
    return create(client, upload(client, jsonl(lines)), **more)


def read(client: httpx2.Client, batch_id: str) -> dict[str, Any]:
    """The batch as it stands."""
    answer = client.get(f"/v1/batches/{batch_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def ended(client: httpx2.Client, batch_id: str, *, within: float = 60.0) -> dict[str, Any]:
    """The batch once it has ended."""
    return eventually(lambda: read(client, batch_id), lambda batch: batch["status"] in ENDED, within=within)


def content(client: httpx2.Client, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a file with results."""
    if file_id is None:
        return []
    answer = client.get(f"/v1/files/{file_id}/content")
    assert answer.status_code == 200, answer.text
    return [json.loads(one) for one in answer.content.splitlines()]


def results(client: httpx2.Client, batch: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What stands in its output file, and in its error file."""
    return content(client, batch["output_file_id"]), content(client, batch["error_file_id"])


def check_books(
    client: httpx2.Client, batch: dict[str, Any], custom_ids: Sequence[str | None]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Every line stands exactly once in the two files, and the counts and the usage say so. Answers the files."""
    done, failed = results(client, batch)
    counts = batch["request_counts"]
    assert counts == {"total": len(custom_ids), "completed": len(done), "failed": len(failed)}
    assert Counter(one["custom_id"] for one in done + failed) == Counter(custom_ids)
    assert all(one["response"]["status_code"] == 200 and one["error"] is None for one in done)
    # What the LLM answered with an error has no error of ours; all else has one, also a response that says it failed.
    refused = [one["response"] is not None and one["response"]["status_code"] != 200 for one in failed]
    assert [one["error"] is None for one in failed] == refused
    bodies = [one["response"]["body"] for one in done + failed if one["response"]]
    spent = sum((body.get("usage") or {}).get("total_tokens", 0) for body in bodies)
    assert batch["usage"]["total_tokens"] == spent, "each answer is paid for once"
    ids = [one["id"] for one in done + failed]
    assert len(set(ids)) == len(ids)
    return done, failed
