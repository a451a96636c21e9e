"""Batches from file to files, on the whole stack."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
import redis

from jobs import queues
from tests.integration.batching import (
    check_books,
    create,
    ended,
    jsonl,
    line,
    read,
    results,
    start,
    upload,
)
from tests.integration.driving import calls_of, messages, unique
from tests.processes import Stack, eventually
from tests.receiving import Receiver, register, unwrap


def answer_to(prompt: str) -> str:
    return f"Simulated answer to: {prompt}"


def test_a_batch_answers_every_line(client: httpx2.Client, stack: Stack) -> None:
    """Each line's answer stands under its custom_id, as the LLM gave it; each is asked for once."""
    prompts = {f"line-{number}": unique() for number in range(120)}
    made = start(client, [line(name, prompt) for name, prompt in prompts.items()], metadata={"team": "a"})
    assert (made["object"], made["status"], made["completion_window"]) == ("batch", "validating", "24h")
    assert made["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    batch = ended(client, made["id"])
    assert (batch["status"], batch["errors"], batch["error_file_id"]) == ("completed", None, None)
    assert batch["metadata"] == {"team": "a"}
    assert batch["created_at"] <= batch["in_progress_at"] <= batch["finalizing_at"] <= batch["completed_at"]
    assert batch["expires_at"] == pytest.approx(batch["created_at"] + 24 * 3600, abs=1)
    done, _ = check_books(client, batch, list(prompts))
    for one in done:
        said = one["response"]["body"]["choices"][0]["message"]["content"]
        assert said == answer_to(prompts[one["custom_id"]])
    stats = stack.stats()["by_prompt"]
    assert all(calls_of(stack, messages(prompt)) == 1 for prompt in list(prompts.values())[:5]), stats


def test_bad_lines_end_in_the_error_file(client: httpx2.Client, stack: Stack) -> None:
    """Each with its line number and custom_id; the others are answered, and none of the bad ones costs a call."""
    good, refused = unique("good"), unique("refused")
    lines = [
        line("good", good),
        b"",
        b'{"custom_id": "broken"',
        b"[1, 2]",
        b'{"custom_id": "latin", "a": "\xe9"}',
        line("elsewhere", unique(), url="/v1/embeddings"),
        line("get", unique(), method="GET"),
        line("no-body", unique(), body={"model": "sim"}),
        {"method": "POST", "url": "/v1/chat/completions", "body": {}},
        line("refused", refused, model="sim-400"),
    ]
    batch = ended(client, start(client, lines)["id"])
    assert batch["status"] == "completed"
    names = ["good", "broken", None, "latin", "elsewhere", "get", "no-body", None, "refused"]
    done, failed = check_books(client, batch, names)
    assert [one["custom_id"] for one in done] == ["good"]
    told = {one["error"]["line"]: one["error"]["code"] for one in failed if one["error"]}
    assert told == {
        3: "invalid_json_line",
        4: "invalid_json_line",
        5: "invalid_encoding",
        6: "mismatched_url",
        7: "invalid_method",
        8: "invalid_request",
        9: "missing_required_parameter",
    }
    (by_the_llm,) = [one for one in failed if one["custom_id"] == "refused"]
    assert by_the_llm["response"]["status_code"] == 400
    assert by_the_llm["response"]["body"]["error"]["param"] == "temperature"
    assert calls_of(stack, messages(refused)) == 1


def test_what_an_llm_cannot_do_for_now_is_tried_again(client: httpx2.Client, stack: Stack) -> None:
    """Errors worth a retry are retried as for any job; what fails for good is told of with our own code."""
    flaky, down = unique(), unique()
    batch = ended(client, start(client, [line("flaky", flaky, "sim-flaky-2"), line("down", down, "sim-500")])["id"])
    done, failed = check_books(client, batch, ["flaky", "down"])
    assert [one["custom_id"] for one in done] == ["flaky"]
    assert failed[0]["response"]["status_code"] == 500
    assert (calls_of(stack, messages(flaky)), calls_of(stack, messages(down))) == (3, 3)


@pytest.mark.parametrize(
    ("endpoint", "body", "member"),
    [
        ("/v1/responses", {"model": "sim", "input": "hi"}, "output"),
        ("/v1/completions", {"model": "sim", "prompt": "hi"}, "choices"),
        ("/v1/embeddings", {"model": "sim", "input": "hi"}, "data"),
    ],
)
def test_other_endpoints(client: httpx2.Client, endpoint: str, body: dict[str, Any], member: str) -> None:
    """Responses, completions and embeddings are asked for in the same way."""
    lines = [line("a", "", url=endpoint, body=body)]
    batch = ended(client, start(client, lines, endpoint=endpoint)["id"])
    done, _ = check_books(client, batch, ["a"])
    assert done[0]["response"]["body"][member]


def test_a_response_that_says_it_failed_has_failed(client: httpx2.Client) -> None:
    """The LLM answers 200 and ``status: failed``: the line stands in the error file, and says so in ``error``, too."""
    bodies = {"good": {"model": "sim", "input": unique()}, "bad": {"model": "sim-failed", "input": unique()}}
    lines = [line(name, "", url="/v1/responses", body=body) for name, body in bodies.items()]
    batch = ended(client, start(client, lines, endpoint="/v1/responses")["id"])
    done, failed = check_books(client, batch, ["good", "bad"])
    assert [one["custom_id"] for one in done] == ["good"]
    assert failed[0]["error"] == {"code": "llm_rejected", "message": "The simulated model failed."}
    assert (failed[0]["response"]["status_code"], failed[0]["response"]["body"]["status"]) == (200, "failed")


@pytest.mark.parametrize(
    ("lines", "code", "number"),
    [
        ([], "empty_file", None),
        ([b"", b"  "], "empty_file", None),
        ([line("a", "1"), line("b", "2"), line("a", "3")], "duplicate_custom_id", 3),
        ([b"prompt", b"another"], "invalid_json_line", 1),
        (["text".encode("utf-16")], "invalid_encoding", 1),
    ],
    ids=["nothing", "blank", "duplicate", "no JSON", "UTF-16"],
)
def test_a_file_that_cannot_be_used_fails_the_batch(
    client: httpx2.Client, lines: list[object], code: str, number: int | None
) -> None:
    """With what is wrong, and without a single call."""
    batch = ended(client, start(client, lines)["id"])
    assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("failed", None, None)
    assert batch["errors"]["object"] == "list"
    assert (batch["errors"]["data"][0]["code"], batch["errors"]["data"][0]["line"]) == (code, number)
    assert batch["request_counts"]["total"] == 0
    assert batch["failed_at"] is not None


def test_more_lines_than_a_batch_may_have(client: httpx2.Client) -> None:
    """50,001 lines fail the batch."""
    content = b"".join(b'{"custom_id":"%d"}\n' % number for number in range(50_001))
    batch = ended(client, create(client, upload(client, content))["id"])
    assert [one["code"] for one in batch["errors"]["data"]] == ["too_many_lines"]


def test_a_line_of_ten_megabytes(client: httpx2.Client) -> None:
    """It ends in the error file under its custom_id; those around it are answered."""
    lines = [line("a", unique()), line("huge", "x" * 10 * 1024 * 1024), line("b", unique())]
    batch = ended(client, start(client, lines)["id"])
    done, failed = check_books(client, batch, ["a", "huge", "b"])
    assert {one["custom_id"] for one in done} == {"a", "b"}
    assert failed[0]["error"]["code"] == "line_too_long"


def test_cancelling_tells_of_every_line(client: httpx2.Client, stack: Stack) -> None:
    """Running calls are aborted; what was answered is in the output, everything else in the error file."""
    quick = [unique() for _ in range(5)]
    hanging = [unique() for _ in range(100)]
    lines = [line(f"quick-{n}", prompt) for n, prompt in enumerate(quick)]
    lines += [line(f"hang-{n}", prompt, model="sim-hang") for n, prompt in enumerate(hanging)]
    made = start(client, lines)
    eventually(lambda: read(client, made["id"])["request_counts"]["completed"] == 5, within=20)
    eventually(lambda: calls_of(stack, messages(hanging[0])) == 1, within=20)
    aborted = stack.stats()["aborted"]
    cancelling = client.post(f"/v1/batches/{made['id']}/cancel").json()
    assert cancelling["status"] in ("cancelling", "cancelled")
    assert client.post(f"/v1/batches/{made['id']}/cancel").status_code == 200
    batch = ended(client, made["id"])
    assert batch["status"] == "cancelled"
    assert batch["cancelling_at"] <= batch["cancelled_at"]
    done, failed = check_books(client, batch, [one["custom_id"] for one in lines])
    assert {one["custom_id"] for one in done} == {f"quick-{n}" for n in range(5)}
    assert {one["error"]["code"] for one in failed} == {"batch_cancelled"}
    eventually(lambda: stack.stats()["aborted"] > aborted, within=10)


def test_a_batch_whose_time_is_over_ends_with_what_it_has(client: httpx2.Client) -> None:
    """The lines that were not done say batch_expired."""
    lines = [line("quick", unique()), *(line(f"hang-{n}", unique(), model="sim-hang") for n in range(3))]
    batch = ended(client, start(client, lines, window="3s")["id"])
    assert batch["status"] == "expired"
    assert batch["expired_at"] is not None
    done, failed = check_books(client, batch, ["quick", "hang-0", "hang-1", "hang-2"])
    assert [one["custom_id"] for one in done] == ["quick"]
    assert {one["error"]["code"] for one in failed} == {"batch_expired"}


def test_a_batch_that_has_ended_cannot_be_cancelled(client: httpx2.Client) -> None:
    """409, and the SDK does not try again."""
    batch = ended(client, start(client, [line("a", unique())])["id"])
    refused = client.post(f"/v1/batches/{batch['id']}/cancel")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "batch_not_cancellable")
    assert refused.headers["x-should-retry"] == "false"


def test_the_input_may_be_deleted_while_the_batch_runs(client: httpx2.Client) -> None:
    """The batch keeps what it needs of it."""
    file_id = upload(client, jsonl([line("a", unique(), model="sim-slow-1"), line("b", unique())]))
    made = create(client, file_id)
    assert client.delete(f"/v1/files/{file_id}").status_code == 200
    assert client.get(f"/v1/files/{file_id}").status_code == 404
    batch = ended(client, made["id"])
    check_books(client, batch, ["a", "b"])


def test_the_files_with_results_are_files(client: httpx2.Client) -> None:
    """They are listed, say what they are for, and expire; nobody else's purpose."""
    kept = {"anchor": "created_at", "seconds": 7200.0}  # an integer, to JSON
    batch = ended(client, start(client, [line("a", unique())], output_expires_after=kept)["id"])
    file = client.get(f"/v1/files/{batch['output_file_id']}").json()
    assert (file["purpose"], file["filename"]) == ("batch_output", f"{batch['id']}_output.jsonl")
    assert file["expires_at"] - file["created_at"] == pytest.approx(7200, abs=1)
    listed = client.get("/v1/files", params={"purpose": "batch_output"}).json()["data"]
    assert file["id"] in {one["id"] for one in listed}


def test_the_same_idempotency_key_makes_one_batch(client: httpx2.Client) -> None:
    """The same request again answers with the same batch; another one is a conflict."""
    file_id, headers = upload(client, jsonl([line("a", unique())])), {"Idempotency-Key": unique()}
    sent = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    first = client.post("/v1/batches", json=sent, headers=headers).json()
    assert client.post("/v1/batches", json=sent, headers=headers).json()["id"] == first["id"]
    assert client.delete(f"/v1/files/{file_id}").status_code == 200
    assert client.post("/v1/batches", json=sent, headers=headers).json()["id"] == first["id"]
    other = client.post("/v1/batches", json=sent | {"completion_window": "1h"}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("changes", "status", "param"),
    [
        ({"input_file_id": "file-none"}, 404, "input_file_id"),
        ({"input_file_id": None}, 400, "input_file_id"),
        ({"endpoint": "/v1/images"}, 400, "endpoint"),
        ({"completion_window": "soon"}, 400, "completion_window"),
        ({"completion_window": "31d"}, 400, "completion_window"),
        ({"metadata": {"a": 1}}, 400, "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, 400, "output_expires_after.seconds"),
    ],
)
def test_a_batch_that_cannot_be_made_is_refused(
    client: httpx2.Client, changes: dict[str, Any], status: int, param: str
) -> None:
    """With the parameter at fault."""
    sent = {
        "input_file_id": upload(client, jsonl([line("a", "1")])),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    answer = client.post("/v1/batches", json=sent | changes)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


def test_a_file_for_something_else_is_no_input(client: httpx2.Client) -> None:
    """Its purpose must be batch."""
    file_id = upload(client, jsonl([line("a", "1")]), purpose="user_data")
    sent = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    assert client.post("/v1/batches", json=sent).json()["error"]["param"] == "input_file_id"


def test_batches_are_their_owners_alone(alice: httpx2.Client, bob: httpx2.Client) -> None:
    """Another owner's file makes no batch, and another's batch is not found, listed or cancelled."""
    file_id = upload(alice, jsonl([line("a", unique())]))
    sent = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    assert bob.post("/v1/batches", json=sent).status_code == 404
    batch = create(alice, file_id)
    assert bob.get(f"/v1/batches/{batch['id']}").status_code == 404
    assert bob.post(f"/v1/batches/{batch['id']}/cancel").status_code == 404
    assert batch["id"] not in {one["id"] for one in bob.get("/v1/batches").json()["data"]}
    done = ended(alice, batch["id"])
    assert bob.get(f"/v1/files/{done['output_file_id']}/content").status_code == 404
    assert len(results(alice, done)[0]) == 1


def test_batches_are_listed_newest_first(client: httpx2.Client) -> None:
    """In pages."""
    file_id = upload(client, jsonl([line("a", unique())]))
    made = [create(client, file_id)["id"] for _ in range(3)]
    first = client.get("/v1/batches", params={"limit": 2}).json()
    assert [one["id"] for one in first["data"]] == made[:0:-1]
    assert (first["has_more"], first["last_id"]) == (True, made[1])
    second = client.get("/v1/batches", params={"limit": 1, "after": made[1]}).json()
    assert [one["id"] for one in second["data"]] == made[:1]
    for batch_id in made:
        ended(client, batch_id)


def test_nothing_is_left_in_redis_but_the_record(client: httpx2.Client, stack: Stack) -> None:
    """No job of a line, no token and none of the batch's own books; and nobody's job list has its lines."""
    batch = ended(client, start(client, [line(f"l{n}", unique()) for n in range(30)])["id"])
    with redis.Redis.from_url(stack.redis) as store:
        names = {key.decode() for key in store.scan_iter(f"{queues.batch_key(batch['id'])}*", count=1000)}
        assert names == {queues.batch_key(batch["id"])}
        eventually(lambda: store.llen(queues.backlog_key(queues.BATCHES)) == 0, within=30)
        number = batch["id"].removeprefix("batch_")[:12]
        assert not list(store.scan_iter(f"{queues.PREFIX}job:job_{number}*", count=1000))
    listed = client.get("/v1/jobs", params={"queue": "bulk", "limit": 100}).json()["data"]
    assert not [one for one in listed if one["id"].startswith(f"job_{number}")]


def test_counts_move_while_it_runs(client: httpx2.Client) -> None:
    """What is done can be seen before all is."""
    lines = [line(f"quick-{n}", unique()) for n in range(10)]
    made = start(client, [*lines, line("slow", unique(), model="sim-slow-4")])
    batch = eventually(
        lambda: read(client, made["id"]), lambda one: one["request_counts"]["completed"] == 10, within=20
    )
    assert batch["status"] == "in_progress"
    assert batch["request_counts"]["total"] == 11
    check_books(client, ended(client, made["id"]), [*(one["custom_id"] for one in lines), "slow"])


def test_prompts_and_answers_reach_no_log(client: httpx2.Client, stack: Stack) -> None:
    """Nor does a bad line's text, or a custom_id."""
    secret = unique("secret")
    lines = [line(secret, secret), json.dumps({"custom_id": secret, "body": secret}).encode()[:-3]]
    ended(client, start(client, lines)["id"])
    assert secret.split()[1] not in stack.logs()


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled", "expired"])
def test_the_end_of_a_batch_is_told(client: httpx2.Client, end: str) -> None:
    """Once, by the event that the SDK has for it; the ends of its lines are nobody's."""
    hanging = [line("a", unique(), model="sim-hang")]
    lines = {"completed": [line("a", unique())], "failed": [b"{"]}.get(end, hanging)
    with Receiver() as receiver:
        hook = register(client, receiver)
        try:
            made = start(client, lines, window="2s" if end == "expired" else "24h")
            if end == "cancelled":
                client.post(f"/v1/batches/{made['id']}/cancel").raise_for_status()
            request = hook.told(made["id"])
            assert ended(client, made["id"])["status"] == end
            event = unwrap(request.body, request.headers, hook.secret)
            assert (event.type, event.data.id) == (f"batch.{end}", made["id"])
            assert [one.about for one in receiver.requests()] == [made["id"]]
        finally:
            client.delete(f"/v1/webhook_endpoints/{hook.endpoint_id}").raise_for_status()
