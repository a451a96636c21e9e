"""submit, status, cancel and jobs against a small real HTTP server."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

from cli.client import api
from cli.main import main

CHAT = {"object": "chat.completion", "choices": [{"message": {"role": "assistant", "content": "Räyleigh scattering."}}]}


def job(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "id": "job_1",
        "object": "job",
        "status": "queued",
        "endpoint": "/v1/chat/completions",
        "model": "sim",
        "queue": "default",
        "attempt": 0,
        "created_at": 1700000000.0,
        "started_at": None,
        "finished_at": None,
        "queue_position": 3,
        "result": None,
        "error": None,
        "usage": None,
        "metadata": {},
        "deadline_at": None,
    }
    return values | changes


DONE = job(
    status="completed",
    attempt=1,
    finished_at=1700000001.25,
    queue_position=None,
    result=CHAT,
    usage={"total_tokens": 12},
)
FAILED = job(status="failed", finished_at=1700000002.0, error={"code": "llm_rejected", "message": "No such model."})


@dataclass
class Call:
    """One request that the stub got."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


@dataclass
class Stub:
    """Answers each request with the next of ``answers``, the last one over and over."""

    answers: list[tuple[int, Any]]
    calls: list[Call] = field(default_factory=list)
    url: str = ""

    def next(self) -> tuple[int, Any]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def stub() -> Iterator[Stub]:
    state = Stub([(200, DONE)])

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content = json.loads(body) if body else None
            headers = {name.lower(): value for name, value in self.headers.items()}
            state.calls.append(Call(self.command, url.path, parse_qs(url.query), headers, content))
            status, answer = state.next()
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = answer  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def run(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs ``promptq`` with the stub as its server and a proxy in the environment that must not be used."""
    for name in ("PROMPTQ_API_KEY", "PROMPTQ_QUEUE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PROMPTQ_URL", stub.url)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setattr(api, "_PAUSE", 0.01)

    def run(*words: str, stdin: bytes | None = None) -> Result:
        result = CliRunner().invoke(main, words, input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def test_submit_sends_the_prompt_and_shows_the_job(stub: Stub, run: Callable[..., Result]) -> None:
    """Only what was asked for is sent; the job's id and its place in the queue are shown."""
    stub.answers = [(202, job())]
    result = run("submit", "Why is the sky blue?")
    assert result.exit_code == 0
    (call,) = stub.calls
    assert (call.method, call.path) == ("POST", "/v1/jobs")
    assert call.body == {"prompt": "Why is the sky blue?"}
    assert call.headers["authorization"] == "Bearer local"
    assert "idempotency-key" not in call.headers
    assert "job_1" in result.stdout
    assert "default (position 3)" in result.stdout
    assert "promptq status job_1 --wait" in result.stderr


def test_submit_sends_every_option(stub: Stub, run: Callable[..., Result]) -> None:
    """Each option arrives where the API reads it."""
    words = "--model m --queue bulk --deadline 60 --metadata a=1 --metadata b=x=y --idempotency-key k --api-key s3"
    assert run("submit", "hello", *words.split()).exit_code == 0
    (call,) = stub.calls
    assert call.body == {
        "prompt": "hello",
        "model": "m",
        "queue": "bulk",
        "deadline_seconds": 60,
        "metadata": {"a": "1", "b": "x=y"},
    }
    assert call.headers["idempotency-key"] == "k"
    assert call.headers["authorization"] == "Bearer s3"


def test_a_prompt_comes_through_stdin_as_it_is(stub: Stub, run: Callable[..., Result]) -> None:
    """With ``-`` every character of stdin arrives, NUL and the last newline included."""
    text = "zwei\r\nZeilen \x00 日本語 🎉\n"
    assert run("submit", "-", stdin=text.encode()).exit_code == 0
    assert stub.calls[0].body == {"prompt": text}


@pytest.mark.parametrize("words", [["-"], ["\udcff"]])
def test_a_prompt_that_is_not_utf_8_is_refused(stub: Stub, run: Callable[..., Result], words: list[str]) -> None:
    """A usage error says where it stops being UTF-8; nothing is sent."""
    result = run("submit", *words, stdin=b"\xff")
    assert result.exit_code == 2
    assert "not UTF-8" in result.stderr
    assert stub.calls == []


@pytest.mark.parametrize(
    "words", [["submit", "--wait", "hi"], ["submit", "hi", "--wait"], ["submit", "hi", "--wait=60"]]
)
def test_waiting_prints_the_answer_alone(stub: Stub, run: Callable[..., Result], words: list[str]) -> None:
    """--wait polls until the job ends; stdout is the answer, so that a script can use it."""
    stub.answers = [(202, job()), (200, job(status="in_progress")), (200, DONE)]
    result = run(*words)
    assert result.exit_code == 0
    assert result.stdout == "Räyleigh scattering.\n"
    assert "job_1 · completed · 1.25 s · sim · 12 tokens" in result.stderr
    assert [call.path for call in stub.calls] == ["/v1/jobs", "/v1/jobs/job_1", "/v1/jobs/job_1"]
    assert stub.calls[0].body == {"prompt": "hi"}
    assert float(stub.calls[1].query["wait"][0]) == 30


def test_a_wait_has_an_end(stub: Stub, run: Callable[..., Result]) -> None:
    """--wait SECONDS gives up after that, with exit code 1 and the way on."""
    stub.answers = [(202, job()), (200, job(status="in_progress", attempt=1))]
    result = run("submit", "hi", "--wait", "0.05")
    assert result.exit_code == 1
    assert "in_progress" in result.stdout
    assert "not finished after 0.05 s: promptq status job_1 --wait" in result.stderr
    assert all(float(call.query["wait"][0]) <= 0.05 for call in stub.calls[1:] if call.query)


@pytest.mark.parametrize(
    ("ended", "code"), [(FAILED, 1), (job(status="cancelled"), 1), (DONE | {"status": "incomplete"}, 0)]
)
def test_the_exit_code_tells_how_the_job_ended(
    stub: Stub, run: Callable[..., Result], ended: dict[str, Any], code: int
) -> None:
    """A job that was waited for and has no answer gives 1; one that is incomplete has an answer."""
    stub.answers = [(200, ended)]
    result = run("status", "job_1", "--wait")
    assert result.exit_code == code
    assert ended["status"] in result.stderr
    if ended is FAILED:
        assert "error: No such model. (llm_rejected)" in result.stderr
        assert result.stdout == ""


def test_waiting_outlasts_a_restart_of_the_api(stub: Stub, run: Callable[..., Result]) -> None:
    """A 503 or a 429 while waiting is waited out; the job itself is safe."""
    away = (503, {"error": {"message": "Redis is away.", "code": "store_unavailable"}})
    stub.answers = [(202, job()), away, (429, {"error": {"message": "slow down"}}), away, (200, DONE)]
    result = run("submit", "hi", "--wait")
    assert result.exit_code == 0
    assert len(stub.calls) == 5


def test_an_api_that_stays_away_ends_the_wait(
    stub: Stub, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the error is told."""
    monkeypatch.setattr(api, "_PATIENCE", 0.05)
    stub.answers = [(503, {"error": {"message": "Redis is away.", "code": "store_unavailable"}})]
    result = run("status", "job_1", "--wait")
    assert result.exit_code == 1
    assert "error: Redis is away. (store_unavailable)" in result.stderr
    assert len(stub.calls) > 1


def test_json_is_the_apis_own(stub: Stub, run: Callable[..., Result]) -> None:
    """--json prints what the API answered, on each command, and nothing else on stdout."""
    page = {"object": "list", "data": [job()], "has_more": False, "first_id": "job_1", "last_id": "job_1"}
    for words, answer in [
        (["submit", "hi"], job()),
        (["submit", "hi", "--wait"], DONE),
        (["status", "job_1"], DONE),
        (["status", "job_1", "--wait"], DONE),
        (["cancel", "job_1"], job(status="cancelled")),
        (["jobs"], page),
    ]:
        stub.answers = [(200, answer)]
        result = run(*words, "--json")
        assert result.exit_code == 0, words
        assert json.loads(result.stdout) == answer


def test_status_shows_the_job_and_its_answer(stub: Stub, run: Callable[..., Result]) -> None:
    """Without --wait the job is shown as it is, with exit code 0 even when it failed."""
    result = run("status", "job/1?")
    assert stub.calls[0].path == "/v1/jobs/job%2F1%3F"
    assert stub.calls[0].query == {}
    assert "status    completed" in result.stdout
    assert result.stdout.endswith("\n\nRäyleigh scattering.\n")
    stub.answers = [(200, FAILED)]
    result = run("status", "job_1")
    assert result.exit_code == 0
    assert "error     No such model. (llm_rejected)" in result.stdout


def test_cancel_posts_and_shows_the_job(stub: Stub, run: Callable[..., Result]) -> None:
    """The job's new status is shown."""
    stub.answers = [(200, job(status="cancelled"))]
    result = run("cancel", "job_1")
    assert (stub.calls[0].method, stub.calls[0].path) == ("POST", "/v1/jobs/job_1/cancel")
    assert "cancelled" in result.stdout


def test_jobs_lists_a_page_and_names_the_next(stub: Stub, run: Callable[..., Result]) -> None:
    """Filters are passed on; the cursor of the next page is told."""
    data = [DONE | {"id": "job_2", "model": "[bold]m[/bold]"}, job()]
    stub.answers = [(200, {"object": "list", "data": data, "has_more": True, "first_id": "job_2", "last_id": "job_1"})]
    result = run("jobs", "--status", "queued", "--queue", "bulk", "--limit", "2", "--after", "job_3")
    assert stub.calls[0].query == {"status": ["queued"], "queue": ["bulk"], "limit": ["2"], "after": ["job_3"]}
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["id", "job_2", "job_1"]
    assert "[bold]m[/bold]" in result.stdout, "text from outside is not markup"
    assert "promptq jobs --after job_1" in result.stderr


def test_no_jobs_is_said(stub: Stub, run: Callable[..., Result]) -> None:
    """An empty list is not an empty screen."""
    stub.answers = [(200, {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None})]
    result = run("jobs")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no jobs\n")


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (404, {"error": {"message": "No such job.", "param": None, "code": "not_found"}}, "No such job. (not_found)"),
        (
            400,
            {"error": {"message": "Bad.", "param": "queue", "code": "invalid_request"}},
            "Bad. [queue] (invalid_request)",
        ),
        (401, {"error": {"message": "No.", "type": "authentication_error"}}, "No. (authentication_error)"),
        (500, {"oops": 1}, "answered HTTP 500"),
        (200, b"<html>", "without a JSON object"),
        (502, [1], "answered HTTP 502 without a JSON object"),
    ],
)
def test_a_refusal_is_one_line_on_stderr(
    stub: Stub, run: Callable[..., Result], status: int, answer: Any, expected: str
) -> None:
    """``error: message (code)``, exit code 1, nothing on stdout."""
    stub.answers = [(status, answer)]
    result = run("status", "job_1")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr


def test_no_server_is_said_plainly(run: Callable[..., Result]) -> None:
    """The error names the URL and how to start."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    result = run("submit", "hi", "--url", url)
    assert result.exit_code == 1
    assert f"no PromptQ answers at {url}" in result.stderr
    assert "promptq up" in result.stderr


@pytest.mark.parametrize(
    "words", [["--url", "nonsense"], ["--url", "ftp://x"], ["--url", "http://[x"], ["--api-key", "ключ"]]
)
def test_a_url_or_key_that_is_none_is_an_error(run: Callable[..., Result], words: list[str]) -> None:
    """A sentence, not a traceback."""
    result = run("jobs", *words)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


@pytest.mark.parametrize(
    "words",
    [
        ["submit"],
        ["submit", "--wait", "30"],
        ["submit", "x", "--deadline", "0"],
        ["submit", "x", "--metadata", "a"],
        ["status"],
        ["x"],
    ],
)
def test_wrong_usage_gives_2(stub: Stub, run: Callable[..., Result], words: list[str]) -> None:
    """Nothing is sent."""
    assert run(*words).exit_code == 2
    assert stub.calls == []


def test_help_and_version(run: Callable[..., Result]) -> None:
    """Every command explains itself."""
    assert run("--version").stdout.startswith("promptq")
    for command in ("up", "submit", "status", "cancel", "jobs"):
        assert command in run("--help").stdout
        result = run(command, "--help")
        assert result.exit_code == 0
        assert "Usage: main " + command in result.stdout
