"""``promptq queues`` against a small real HTTP server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.test_cli_dead_letters import AWAY, invoke, serving

FORBIDDEN = (403, {"error": {"message": "PROMPTQ_OPERATORS does not name it.", "code": "forbidden"}})


def queue(name: str, **changes: Any) -> dict[str, Any]:
    values = {"id": name, "object": "queue", "paused": False, "waiting": 0, "running": 0, "next_created_at": None}
    return values | changes


class Queues:
    """Keeps three queues, and answers with ``refusal`` if there is one."""

    def __init__(self) -> None:
        self.states = {name: queue(name) for name in ("interactive", "default", "bulk")}
        self.refusal: tuple[int, Any] | None = None
        self.calls: list[tuple[str, str]] = []

    def answer(self, method: str, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        self.calls.append((method, path))
        if self.refusal:
            return self.refusal
        if path == "/v1/queues":
            return 200, {"object": "list", "data": list(self.states.values()), "has_more": False}
        _, _, _, name, action = path.split("/")
        if name not in self.states:
            return 404, {"error": {"message": "The queues are interactive, default, bulk.", "code": "not_found"}}
        self.states[name]["paused"] = action == "pause"
        return 200, self.states[name]


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> Iterator[Queues]:
    """The server that ``promptq`` talks to."""
    queues = Queues()
    with serving(queues.answer) as url:
        monkeypatch.delenv("PROMPTQ_API_KEY", raising=False)
        monkeypatch.setenv("PROMPTQ_URL", url)
        yield queues


def test_the_list_is_a_table(queues: Queues) -> None:
    """With the state in a word and how long the next job has waited; ``list`` may be left out."""
    now = time.time()
    queues.states["interactive"] |= {"running": 4, "next_created_at": now + 5}
    queues.states["default"] |= {"waiting": 7, "next_created_at": now - 90}
    queues.states["bulk"] |= {"paused": True, "waiting": 20000, "next_created_at": now - 3 * 3600}
    for words in (["list"], []):
        result = invoke("queues", *words)
        assert (result.exit_code, result.stderr) == (0, "")
        head, *rows = [line.split() for line in result.stdout.splitlines()]
        assert head == ["queue", "state", "waiting", "running", "next", "has", "waited"]
        assert rows[0] == ["interactive", "running", "0", "4", "0", "s"], "the API's clock may be ahead"
        assert rows[1][:4] == ["default", "running", "7", "0"]
        assert 90 <= int(rows[1][4]) <= 99
        assert rows[2] == ["bulk", "paused", "20000", "0", "3", "h"]
    assert queues.calls == [("GET", "/v1/queues")] * 2
    assert json.loads(invoke("queues", "--json").stdout)["data"] == list(queues.states.values())


@pytest.mark.parametrize(("ago", "shown"), [(121, "2 min"), (7300, "2 h"), (190000, "2 d")])
def test_a_wait_is_told_in_a_unit_that_fits(queues: Queues, ago: float, shown: str) -> None:
    """The largest of which there are at least two."""
    queues.states["bulk"]["next_created_at"] = time.time() - ago
    assert invoke("queues").stdout.rstrip().endswith(shown)


def test_pause_and_resume_show_the_new_state(queues: Queues) -> None:
    """Of each queue that was named; the JSON is a list of them."""
    result = invoke("queues", "pause", "bulk", "default")
    assert queues.calls == [("POST", "/v1/queues/bulk/pause"), ("POST", "/v1/queues/default/pause")]
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split()[:2] for line in result.stdout.splitlines()[1:]] == [["bulk", "paused"], ["default", "paused"]]
    result = invoke("queues", "resume", "bulk", "--json")
    assert json.loads(result.stdout) == [queue("bulk")]
    assert queues.states["default"]["paused"] is True


def test_who_may_not_pause_is_told_why(queues: Queues) -> None:
    """The API's message, once, exit code 1 and nothing on stdout."""
    queues.refusal = FORBIDDEN
    for action in ("pause", "resume"):
        result = invoke("queues", action, "bulk", "default")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == "error: PROMPTQ_OPERATORS does not name it. (forbidden)\n"
    assert len(queues.calls) == 2


def test_a_name_that_no_queue_has_does_not_stop_the_rest(queues: Queues) -> None:
    """It is told, and the exit code is 1."""
    result = invoke("queues", "pause", "a/b", "bulk")
    assert result.exit_code == 1
    assert result.stderr == "error: a/b: The queues are interactive, default, bulk.\n"
    assert queues.calls[0] == ("POST", "/v1/queues/a%2Fb/pause")
    assert queues.states["bulk"]["paused"] is True


def test_trouble_is_one_line(queues: Queues) -> None:
    """``error: message (code)``; a name is needed."""
    queues.refusal = AWAY
    result = invoke("queues")
    assert (result.exit_code, result.stderr) == (1, "error: Redis is away. (store_unavailable)\n")
    assert invoke("queues", "pause").exit_code == 2


@pytest.mark.parametrize("words", [[], ["list"], ["pause"], ["resume"]])
def test_help(words: list[str]) -> None:
    """Every command explains itself."""
    result = invoke("queues", *words, "--help")
    assert result.exit_code == 0
    assert "Usage: main queues" in result.stdout
