"""``promptq dead-letters`` against a small real HTTP server that keeps dead letters."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

from cli.client import api, confirm, letters
from cli.main import main

AWAY = (503, {"error": {"message": "Redis is away.", "code": "store_unavailable"}})
CUT = (0, None)
Run = Callable[..., Result]


def letter(number: int, **changes: Any) -> dict[str, Any]:
    values = {
        "id": f"job_{number}",
        "object": "job",
        "status": "failed",
        "queue": "bulk",
        "model": "sim",
        "attempt": 3,
        "created_at": 1700000000.0,
        "finished_at": 1700000002.0,
        "error": {"code": "llm_unavailable", "message": "The LLM is down."},
    }
    return values | changes


def rejected(number: int, **changes: Any) -> dict[str, Any]:
    return letter(number, error={"code": "llm_rejected", "message": "No."}, attempt=1, **changes)


@dataclass
class Stub:
    """Lists, retries and deletes ``letters``, newest first, and does first what ``trouble`` says, None being nothing.

    A trouble is the answer to one request, or what is called before it is answered as usual.
    """

    letters: list[dict[str, Any]] = field(default_factory=list)
    trouble: list[tuple[int, Any] | Callable[[], object] | None] = field(default_factory=list)
    refused: dict[str, tuple[int, Any]] = field(default_factory=dict)
    calls: list[tuple[str, str, dict[str, list[str]]]] = field(default_factory=list)
    url: str = ""

    def answer(self, method: str, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        self.calls.append((method, path, query))
        trouble = self.trouble.pop(0) if self.trouble else None
        if isinstance(trouble, tuple):
            return trouble
        if trouble is not None:
            trouble()
        if path == "/v1/dead_letters":
            return self._page(**{name: values[0] for name, values in query.items()})
        job_id = path.split("/")[3]
        if job_id in self.refused:
            return self.refused[job_id]
        if not any(job["id"] == job_id for job in self.letters):
            return 404, {"error": {"message": "No such job.", "code": "not_found"}}
        self.letters = [job for job in self.letters if job["id"] != job_id]
        return (200, {"deleted": True}) if method == "DELETE" else (202, letter(0, id=f"{job_id}_again"))

    def _page(self, limit: str = "20", after: str = "", queue: str = "") -> tuple[int, Any]:
        ids = [job["id"] for job in self.letters]
        if after and after not in ids:
            return 404, {"error": {"message": "No such job.", "code": "not_found"}}
        rest = [job for job in self.letters[ids.index(after) + 1 if after else 0 :] if queue in ("", job["queue"])]
        data = rest[: int(limit)]
        last = data[-1]["id"] if data else None
        return 200, {"object": "list", "data": data, "has_more": len(rest) > len(data), "last_id": last}

    def acted(self) -> list[str]:
        """The ids that something was done to, in order."""
        return [path.split("/")[3] for method, path, _ in self.calls if method != "GET"]


@contextlib.contextmanager
def serving(answer: Callable[[str, str, dict[str, list[str]]], tuple[int, Any]]) -> Iterator[str]:
    """A server that answers each request with this; a status of 0 cuts the connection. Yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            url = urlsplit(self.path)
            status, content = answer(self.command, url.path, parse_qs(url.query))
            if status == 0:
                self.close_connection = True
                return
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(data)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def invoke(*words: str, stdin: str | None = None) -> Result:
    """Run ``promptq``; what is no exit is raised."""
    result = CliRunner().invoke(main, words, input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """The server that ``promptq`` talks to, with pages of two where it goes through all of them."""
    stub = Stub()
    with serving(stub.answer) as stub.url:
        monkeypatch.delenv("PROMPTQ_API_KEY", raising=False)
        monkeypatch.setenv("PROMPTQ_URL", stub.url)
        monkeypatch.setattr(api, "_PAUSE", 0.01)
        monkeypatch.setattr(letters, "_PAGE", 2)
        yield stub


@pytest.fixture
def run(stub: Stub) -> Run:
    """Runs ``promptq dead-letters``."""
    return lambda *words, stdin=None: invoke("dead-letters", *words, stdin=stdin)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if somebody sat there."""
    monkeypatch.setattr(confirm, "on_terminal", lambda: True)


def ids(result: Result) -> list[str]:
    return [line.split()[0] for line in result.stdout.splitlines()]


def test_the_list_is_a_table_and_names_the_next_page(stub: Stub, run: Run) -> None:
    """Filters are passed on, text from outside is not markup, and the hint keeps the filters."""
    stub.letters = [letter(3), letter(2, model="[bold]m[/bold]"), letter(1)]
    result = run("list", "-q", "bulk", "-n", "2")
    assert result.exit_code == 0
    assert stub.calls == [("GET", "/v1/dead_letters", {"queue": ["bulk"], "limit": ["2"]})]
    head, first, second = result.stdout.splitlines()
    assert head.split() == ["id", "code", "queue", "model", "attempts", "failed", "at"]
    assert first.split()[:5] == ["job_3", "llm_unavailable", "bulk", "sim", "3"]
    assert "[bold]m[/bold]" in second
    assert result.stderr == "older ones: promptq dead-letters -q bulk --after job_2\n"
    assert ids(run("list", "-q", "bulk", "--after", "job_2")) == ["id", "job_1"]


def test_without_a_command_it_lists(stub: Stub, run: Run) -> None:
    """Options of the list may stand right behind the group's name; --help is the group's."""
    stub.letters = [letter(2), letter(1)]
    assert ids(run()) == ["id", "job_2", "job_1"]
    assert ids(run("-n", "1")) == ["id", "job_2"]
    assert "retry" in run("--help").stdout
    assert run("nonsense").exit_code == 2


def test_no_dead_letters_is_said(run: Run) -> None:
    """An empty list is not an empty screen; and there is nothing to ask about."""
    for words in ([], ["--code", "x"], ["retry", "--all", "--yes"], ["purge", "--yes"]):
        result = run(*words)
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no dead letters\n"), words


def test_a_code_is_looked_for_on_every_page(stub: Stub, run: Run) -> None:
    """Pages are read until the limit is reached, and no further than it takes to know whether there is more."""
    stub.letters = [letter(9), rejected(8), letter(7), letter(6), rejected(5), letter(4), rejected(3), letter(2)]
    result = run("--code", "llm_rejected", "-n", "2")
    assert ids(result) == ["id", "job_8", "job_5"]
    assert "--code llm_rejected --after job_5" in result.stderr
    assert len(stub.calls) == 4
    page = json.loads(run("--code", "llm_rejected", "--after", "job_5", "--json").stdout)
    assert page == {
        "object": "list",
        "data": [rejected(3)],
        "has_more": False,
        "first_id": "job_3",
        "last_id": "job_3",
    }


def test_the_lists_json_is_the_apis_own(stub: Stub, run: Run) -> None:
    """--json prints what the API answered, and nothing else on stdout."""
    stub.letters = [letter(1)]
    page = {"object": "list", "data": [letter(1)], "has_more": False, "last_id": "job_1"}
    assert json.loads(run("--json").stdout) == page


def test_several_are_retried_and_each_pair_is_shown(stub: Stub, run: Run) -> None:
    """In the order given; one that is named twice is retried once."""
    stub.letters = [letter(2), letter(1)]
    result = run("retry", "job_1", "job_2", "job_1")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "job_1 -> job_1_again\njob_2 -> job_2_again\n"
    assert [call[:2] for call in stub.calls] == [
        ("POST", "/v1/jobs/job_1/retry"),
        ("POST", "/v1/jobs/job_2/retry"),
    ]


def test_one_that_cannot_be_retried_does_not_stop_the_rest(stub: Stub, run: Run) -> None:
    """It is told on stderr and in the JSON; the exit code is 1."""
    stub.refused = {"job_2": (409, {"error": {"message": "It is completed.", "code": "not_retryable"}})}
    words = ("retry", "job_9", "job_2", "job_1")
    stub.letters = [letter(2), letter(1)]
    result = run(*words)
    assert (result.exit_code, result.stdout) == (1, "job_1 -> job_1_again\n")
    assert result.stderr == "error: job_9: No such job.\nerror: job_2: It is completed.\n"
    stub.letters = [letter(2), letter(1)]
    assert json.loads(run(*words, "--json").stdout) == [
        {"id": "job_9", "error": {"code": "not_found", "message": "No such job."}},
        {"id": "job_2", "error": {"code": "not_retryable", "message": "It is completed."}},
        {"id": "job_1", "retried_as": "job_1_again"},
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["retry"],
        ["retry", "--all", "job_1"],
        ["retry", "-q", "bulk", "job_1"],
        ["purge", "job_1"],
        ["purge", "--older-than", "-1"],
    ],
)
def test_wrong_usage_gives_2(stub: Stub, run: Run, words: list[str]) -> None:
    """Nothing is sent."""
    assert run(*words).exit_code == 2
    assert stub.calls == []


@pytest.mark.parametrize("words", [["retry", "--all"], ["purge"]])
def test_where_nobody_can_be_asked_yes_is_needed(stub: Stub, run: Run, words: list[str]) -> None:
    """Without a terminal and without --yes nothing is done, whatever stdin says."""
    stub.letters = [letter(1)]
    result = run(*words, stdin="y\n")
    assert result.exit_code == 2
    assert "no terminal to ask on: agree with --yes" in result.stderr
    assert stub.calls == []
    assert run(*words, "--yes").exit_code == 0
    assert stub.acted() == ["job_1"]


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("words", "past"), [(["retry", "--all"], "retried"), (["purge"], "deleted")])
def test_it_asks_before_it_begins(stub: Stub, run: Run, words: list[str], past: str) -> None:
    """How many there are is told first; no is the default; nothing but the result is on stdout."""
    stub.letters = [letter(number) for number in (5, 4, 3, 2, 1)]
    for refusal in ("\n", "n\n"):
        result = run(*words, stdin=refusal)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "5 dead letters\n" in result.stderr
        assert f"nothing was {past}" in result.stderr
    assert run(*words, stdin="").exit_code == 130, "Ctrl-C, or the end of stdin"
    assert stub.acted() == []
    result = run(*words, stdin="y\n")
    assert (result.exit_code, result.stdout) == (0, f"5 {past}\n")
    assert stub.acted() == ["job_1", "job_2", "job_3", "job_4", "job_5"], "the oldest first"


def test_all_of_a_queue_and_a_code_are_retried(stub: Stub, run: Run) -> None:
    """Over all pages, and no others; one that fails is counted apart."""
    others = [letter(9), rejected(8, queue="default")]
    stub.letters = [*others, rejected(7), rejected(6), letter(5), rejected(4)]
    stub.refused = {"job_6": (404, {"error": {"message": "Gone.", "code": "not_found"}})}
    result = run("retry", "--all", "-q", "bulk", "--code", "llm_rejected", "-y")
    assert (result.exit_code, result.stdout) == (1, "2 retried, 1 could not be\n")
    assert result.stderr == "3 dead letters\nerror: job_6: Gone.\n"
    assert stub.acted() == ["job_4", "job_6", "job_7"]


def test_a_page_whose_beginning_is_deleted_meanwhile_is_found_again(stub: Stub, run: Run) -> None:
    """Somebody else may work on the same list."""
    stub.letters = [letter(number) for number in (5, 4, 3, 2, 1)]

    def delete() -> None:
        stub.letters = [job for job in stub.letters if job["id"] != "job_4"]

    stub.trouble = [None, delete]
    result = run("retry", "--all", "-y", "--json")
    assert [outcome["id"] for outcome in json.loads(result.stdout)] == ["job_1", "job_2", "job_3", "job_4", "job_5"]
    assert result.exit_code == 1
    assert "error: job_4: No such job." in result.stderr
    assert run("--code", "x", "--after", "job_nobody_has").exit_code == 1


@pytest.mark.parametrize("away", [AWAY, CUT, (502, {"error": {"message": "Bad gateway."}})])
def test_an_api_that_goes_away_is_waited_for(stub: Stub, run: Run, away: tuple[int, Any]) -> None:
    """While pages are read and while jobs are retried; it is told once each time."""
    stub.letters = [letter(number) for number in (3, 2, 1)]
    stub.trouble = [None, away, away, None, None, away, away]
    result = run("retry", "--all", "-y")
    assert (result.exit_code, result.stdout) == (0, "3 retried\n")
    assert result.stderr.count("waiting for the API: ") == 2


@pytest.mark.parametrize("away", [AWAY, CUT])
def test_an_api_that_stays_away_ends_it(
    stub: Stub, run: Run, away: tuple[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done is told, and that the command can be repeated; repeated, it does the rest."""
    monkeypatch.setattr(api, "_PATIENCE", 0.05)
    stub.letters = [letter(number) for number in (3, 2, 1)]
    stub.trouble = [None, None, None, *[away] * 100]
    result = run("retry", "--all", "-y")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "1 of 3 retried; the same command again goes on where this one stopped" in result.stderr
    stub.trouble = []
    result = run("retry", "--all", "-y")
    assert (result.exit_code, result.stdout) == (0, "2 retried\n")
    assert list(dict.fromkeys(stub.acted())) == ["job_1", "job_2", "job_3"]


def test_an_api_that_was_never_there_is_not_waited_for(run: Run) -> None:
    """Its address may be wrong."""
    with serving(lambda *_: AWAY) as url:
        pass
    begun = time.monotonic()
    for words in (["retry", "job_1"], ["retry", "--all", "-y"], ["purge", "-y"], []):
        result = run(*words, "--url", url)
        assert (result.exit_code, result.stdout) == (1, ""), words
        assert f"no PromptQ answers at {url}" in result.stderr
    assert time.monotonic() - begun < 10


def test_a_key_that_is_refused_ends_it(stub: Stub, run: Run) -> None:
    """The rest would be refused, too."""
    stub.trouble = [(401, {"error": {"message": "No.", "code": "invalid_api_key"}})]
    result = run("retry", "job_1", "job_2")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: No. (invalid_api_key)\n0 of 2 retried")
    assert stub.acted() == ["job_1"]


def test_purge_deletes_what_is_old_enough(stub: Stub, run: Run) -> None:
    """Days count from the failure; one whose end is unknown is kept; one that is gone already is done."""
    old, young = time.time() - 3 * 86400, time.time() - 86400
    stub.letters = [letter(4, finished_at=None), letter(3, finished_at=young), letter(2, finished_at=old), letter(1)]
    stub.refused = {"job_1": (404, {"error": {"message": "Gone.", "code": "not_found"}})}
    result = run("purge", "--older-than", "2", "-q", "bulk", "--code", "llm_unavailable", "--yes", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == [{"id": "job_1", "deleted": True}, {"id": "job_2", "deleted": True}]
    assert [call[:2] for call in stub.calls if call[0] == "DELETE"] == [
        ("DELETE", "/v1/jobs/job_1"),
        ("DELETE", "/v1/jobs/job_2"),
    ]


def test_ctrl_c_tells_what_was_done(stub: Stub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 130, also while pages are read; --json still prints what was done."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    stub.letters = [letter(number) for number in (3, 2, 1)]
    retry = api.Api.retry
    monkeypatch.setattr(api.Api, "retry", lambda self, job: retry(self, job) if job == "job_1" else interrupt())
    result = run("retry", "--all", "-y", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (130, [{"id": "job_1", "retried_as": "job_1_again"}])
    assert "interrupted: 1 of 3 retried; the same command again goes on" in result.stderr
    monkeypatch.setattr(api.Api, "dead_letters", interrupt)
    result = run("purge", "-y")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted: nothing was deleted\n")


def on_a_terminal(stub: Stub, *words: str, answer: bytes, started: list[int] | None = None) -> tuple[int, str, str]:
    """Run the real ``promptq`` with stdin and stderr on a terminal; answer exit code, stdout and stderr."""
    ours, theirs = pty.openpty()
    environ = os.environ | {"PROMPTQ_URL": stub.url, "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-m", "cli", "dead-letters", *words]
    process = subprocess.Popen(command, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, env=environ, text=True)
    os.close(theirs)
    if started is not None:
        started.append(process.pid)
    shown = b""
    with contextlib.suppress(OSError):  # Linux' end of file of a terminal
        while part := os.read(ours, 4096):
            shown += part
            if answer and b"[y/N]" in shown:
                os.write(ours, answer)
                answer = b""
    os.close(ours)
    stdout, _ = process.communicate(timeout=20)
    return process.returncode, stdout, shown.decode()


def test_on_a_terminal_there_is_a_bar(stub: Stub) -> None:
    """On stderr, with errors above it; stdout, a pipe here, has the count alone."""
    stub.letters = [letter(number) for number in range(30, 0, -1)]
    stub.refused = {"job_7": (409, {"error": {"message": "[red]No.", "code": "not_retryable"}})}
    code, stdout, stderr = on_a_terminal(stub, "retry", "--all", answer=b"y\n")
    assert (code, stdout) == (1, "29 retried, 1 could not be\n")
    assert "is paid for. Retry them all?" in stderr
    assert "retrying" in stderr
    assert "30/30" in stderr
    assert "/s" in stderr
    assert "error: job_7: [red]No." in stderr


def test_a_real_ctrl_c_ends_it_in_the_middle(stub: Stub) -> None:
    """The bar goes, the message comes; repeated, the command does the rest."""
    stub.letters = [letter(number) for number in range(30, 0, -1)]
    started: list[int] = []

    def interrupt() -> None:
        os.kill(started[0], signal.SIGINT)
        time.sleep(0.5)  # the answer comes too late

    stub.trouble = [None, None, None, interrupt]
    code, stdout, stderr = on_a_terminal(stub, "purge", answer=b"y\n", started=started)
    assert (code, stdout) == (130, "")
    assert "interrupted: 2 of 30 deleted; the same command again goes on where this one stopped" in stderr
    assert "Traceback" not in stderr
    code, stdout, _ = on_a_terminal(stub, "purge", "--yes", answer=b"")
    assert (code, stub.letters) == (0, [])
    assert stdout in ("27 deleted\n", "28 deleted\n"), "the one in between may have been deleted, or not yet"
