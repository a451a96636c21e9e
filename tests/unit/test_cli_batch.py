"""``promptq batch run``: what it reads, that it goes on after an interruption anywhere, and what it writes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
import pytest
from click.testing import CliRunner, Result

from cli.batches.prompts import MAX_LINES, BadInput, Prompts
from cli.batches.results import Results, failed_ids, tally, to_retry
from cli.batches.run import Run
from cli.batches.state import State
from cli.client import progress, tables
from cli.client.errors import ClientError
from cli.main import main

T = TypeVar("T")
CHAT = "/v1/chat/completions"


def file(folder: Path, content: str | bytes, name: str = "prompts.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def sent(prompts: Prompts) -> list[dict[str, Any]]:
    """The lines that the server would get."""
    return [json.loads(item.line) for item in prompts]


def numbered(uploaded: Iterable[bytes]) -> list[tuple[int, bytes]]:
    """The lines of a file that are not blank, with their numbers."""
    lines = b"".join(uploaded).splitlines(keepends=True)
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


# --- What is read ----------------------------------------------------------------------------------------------------


def test_lines_of_a_batch_are_sent_as_they_are(tmp_path: Path) -> None:
    """OpenAI's own lines go up byte for byte, broken ones too; blank ones and a byte order mark do not."""
    lines = [
        b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings",  "body": {"model": "m", "input": "x"}}',
        b'{"custom_id": "b", broken',
        b'{"custom_id": 7}',
    ]
    prompts = Prompts(file(tmp_path, b"\xef\xbb\xbf" + b"\r\n\n".join(lines)))
    assert (prompts.format, prompts.endpoint) == ("batch", "/v1/embeddings")
    assert [item.line for item in prompts] == [line + b"\n" for line in lines]
    assert [item.custom_id for item in prompts] == ["a", None, None]
    with pytest.raises(click.UsageError, match="--model"):
        Prompts(prompts.path, model="m")


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (None, {"messages": [{"role": "user", "content": "Hi"}]}),
        (CHAT, {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/responses", {"input": "Hi"}),
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/embeddings", {"input": "Hi"}),
    ],
)
def test_each_endpoint_is_asked_in_its_own_way(tmp_path: Path, endpoint: str | None, body: dict[str, Any]) -> None:
    """A prompt becomes what its endpoint takes."""
    (line,) = sent(Prompts(file(tmp_path, "Hi\n", "list.txt"), model="m", endpoint=endpoint))
    assert line == {"custom_id": "line-1", "method": "POST", "url": endpoint or CHAT, "body": {"model": "m", **body}}


def test_objects_with_a_prompt_may_say_more(tmp_path: Path) -> None:
    """An object's model, id and options go into its line; its metadata stays here."""
    content = [
        {"prompt": "one", "temperature": 0.5, "model": "other"},
        {"prompt": "two", "custom_id": "mine", "metadata": {"row": "7"}},
        {"prompt": "three", "custom_id": 3},
    ]
    prompts = Prompts(file(tmp_path, "\n\n".join(map(json.dumps, content))), model="m")
    assert prompts.format == "prompts"
    first, second, third = sent(prompts)
    assert (first["custom_id"], second["custom_id"], third["custom_id"]) == ("line-1", "mine", "3")
    assert (first["body"]["model"], first["body"]["temperature"]) == ("other", 0.5)
    assert second["body"] == {"model": "m", "messages": [{"role": "user", "content": "two"}]}
    assert [item.metadata for item in prompts] == [None, {"row": "7"}, None]


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("A.CSV", ",")])
def test_a_table_needs_a_column_of_prompts(tmp_path: Path, name: str, delimiter: str) -> None:
    """A prompt may have line breaks; other columns come back with the answer."""
    rows = [["id", "prompt", "custom_id", "city"], ["1", '"two\nlines"', "a", "Köln"], ["2", "one", "", ""]]
    content = "\ufeff" + "\r\n".join(delimiter.join(row) for row in rows)
    prompts = Prompts(file(tmp_path, content, name), model="m")
    assert [line["custom_id"] for line in sent(prompts)] == ["a", "row-2"]
    assert sent(prompts)[0]["body"]["messages"][0]["content"] == "two\nlines"
    assert [item.metadata for item in prompts] == [{"id": "1", "city": "Köln"}, {"id": "2", "city": ""}]


def test_a_plain_list_is_a_prompt_on_each_line(tmp_path: Path) -> None:
    """Each line that is not blank is a prompt, whatever it looks like after the first."""
    prompts = Prompts(file(tmp_path, 'Why?\r\n\n  How, "exactly"?\n{"prompt": "no object"}', "list"), model="m")
    assert [line["body"]["messages"][0]["content"] for line in sent(prompts)] == [
        *("Why?", 'How, "exactly"?', '{"prompt": "no object"}'),
    ]
    assert [line["custom_id"] for line in sent(prompts)] == ["line-1", "line-3", "line-4"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", "\n \n", "is empty"),
        ("a.jsonl", "plain text", "--format"),
        ("a.jsonl", '{"other": 1}', "neither"),
        ("a.jsonl", '{"body": {}}', "url"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": 1}', ":2: .*prompt"),
        ("a.jsonl", '{"prompt": "x"}\n\nnot json', ":3: is not JSON"),
        ("a.jsonl", '{"prompt": "x", "metadata": 1}', "metadata"),
        ("a.csv", "question\nx", "no column 'prompt', but question"),
        ("a.csv", "", "no column 'prompt'"),
        ("a.csv", "prompt,b\nx,1\n ,2", ":3: row 2 has no prompt"),
        ("a.csv", b"prompt\n\xff", "UTF-8"),
        ("a.csv", 'prompt\n"x', "is not CSV"),
        ("a.txt", b"fine\n\xff\xfe", ":2: is not UTF-8"),
    ],
)
def test_what_cannot_be_used_is_told_of_by_its_line(tmp_path: Path, name: str, content: str, says: str) -> None:
    """Nothing is sent of a file that is not right, and the place is named."""
    with pytest.raises(BadInput, match=says):
        list(Prompts(file(tmp_path, content, name), model=None if '"body"' in str(content) else "m"))


@pytest.mark.parametrize(
    ("name", "content", "numbers"),
    [
        ("a.jsonl", b'\n\xef\n{"body": {}, "custom_id": "a"}\r\n\n  \n{"broken', [2, 3, 6]),
        ("a.jsonl", b'{"prompt": "x"}\n\n\n{"prompt": "y"}\n', [1, 4]),
        ("a.csv", b'prompt,b\nx,1\n\n"two\nlines",2\nz,3', [2, 5, 6]),
        ("a.txt", b"\n\nx\n\ny", [3, 5]),
    ],
)
def test_a_line_has_the_number_that_it_has_in_the_file(
    tmp_path: Path, name: str, content: bytes, numbers: list[int]
) -> None:
    """What the server says of line N is where that stands here, though there are blank lines, or only some are sent."""
    kind = "batch" if b"broken" in content else "auto"
    model = None if kind == "batch" else "m"
    prompts = Prompts(file(tmp_path, content, name), format=kind, model=model, endpoint=CHAT)
    items = list(prompts)
    assert [item.number for item in items] == numbers
    assert numbered(prompts.upload()) == [(item.number, item.line) for item in items]
    named = next(item for item in reversed(items) if item.custom_id)
    assert numbered(prompts.upload({str(named.custom_id)})) == [(named.number, named.line)]


def test_a_model_is_named_by_somebody(tmp_path: Path) -> None:
    """Without --model each object must name its own."""
    with pytest.raises(BadInput, match="--model"):
        list(Prompts(file(tmp_path, '{"prompt": "x", "model": "m"}\n{"prompt": "y"}')))


def test_a_batch_has_so_many_lines_and_no_more(tmp_path: Path) -> None:
    """The largest batch is read, and one line more is refused before anything is sent."""
    assert sum(1 for _ in Prompts(file(tmp_path, "x\n" * MAX_LINES, "a"), model="m")) == MAX_LINES
    with pytest.raises(BadInput, match="50,000"):
        list(Prompts(file(tmp_path, "x\n" * (MAX_LINES + 1), "a"), model="m"))


# --- A run that is interrupted ---------------------------------------------------------------------------------------


class Interrupted(Exception):
    """Stands for Ctrl-C, or a kill."""


@dataclass
class FakeApi:
    """Keeps files and batches, makes each once for its key, and is interrupted after, or before, its ``at``-th step."""

    fails: Callable[[str], bool] = lambda _prompt: False
    #: What the batch's files do not tell of.
    misses: Callable[[str], bool] = lambda _prompt: False
    url: str = "http://here"
    at: int = -1
    before: bool = False
    steps: int = 0
    uploads: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    status: str = "completed"

    def patiently(self, call: Callable[[], T], *, on_away: Callable[[ClientError], None]) -> T:
        """Call it, and count that as a step."""
        self.steps += 1
        if self.before and self.steps == self.at:
            raise Interrupted
        answer = call()
        if self.steps == self.at:
            raise Interrupted
        return answer

    def upload(
        self, name: str, content: Iterable[bytes], size: int, *, purpose: str, idempotency_key: str
    ) -> dict[str, Any]:
        """Keep it."""
        data = b"".join(content)
        assert (len(data), purpose) == (size, "batch")
        if idempotency_key not in self.known:
            file_id = f"file-{self.uploads}"
            self.uploads += 1
            self.files[file_id] = data
            self.known[idempotency_key] = {"id": file_id}
        return self.known[idempotency_key]

    def create_batch(self, *, idempotency_key: str, input_file_id: str, **about: str) -> dict[str, Any]:
        """Run all of it at once."""
        if idempotency_key not in self.known:
            number = len(self.batches)
            lines = [json.loads(line) for line in self.files[input_file_id].splitlines() if line]
            done = [self._result(line) for line in lines]
            batch = {"id": f"batch_{number}", "status": self.status, "request_counts": {"total": len(lines)}, **about}
            for kind, bad in (("output", False), ("error", True)):
                chosen = [line for line in done if line and (line["error"] is not None) is bad]
                if chosen and self.status != "failed":
                    batch[f"{kind}_file_id"] = f"{kind}-{number}"
                    # Those of a batch come in no order.
                    text = "\n".join(map(json.dumps, reversed(chosen)))
                    self.files[f"{kind}-{number}"] = text.encode() + b"\n"
            if self.status == "failed":
                batch["errors"] = {"data": [{"code": "duplicate_custom_id", "message": "Twice.", "line": 2}]}
            self.batches[batch["id"]] = self.known[idempotency_key] = batch
        return self.known[idempotency_key]

    def batch(self, batch_id: str) -> dict[str, Any]:
        """The batch."""
        return self.batches[batch_id]

    def download(self, file_id: str, target: Path, show: Callable[[int], None]) -> None:
        """The content."""
        target.write_bytes(self.files[file_id])

    def _result(self, line: Mapping[str, Any]) -> dict[str, Any] | None:
        prompt = line["body"]["messages"][0]["content"]
        if self.misses(prompt):
            return None
        bad = self.fails(prompt)
        return {
            "id": f"batch_req_{line['custom_id']}",
            "custom_id": line["custom_id"],
            "response": None if bad else {"status_code": 200, "request_id": "r", "body": {"said": prompt}},
            "error": {"code": "llm_timeout", "message": "No answer."} if bad else None,
        }


def run(api: FakeApi, prompts: Path, results: Path, *, retry_failed: bool = False, window: str = "24h") -> Any:
    with State(results) as state:
        job = Run(api, Prompts(prompts, model="m"), results, state, window)  # type: ignore[arg-type]
        return job.go_on(retry_failed=retry_failed)


def said(results: Path) -> list[tuple[str, Any]]:
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    return [(line["custom_id"], (line["response"] or {}).get("body", {}).get("said")) for line in lines]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Three prompts, the second with something beside it."""
    rows = [{"prompt": "one"}, {"prompt": "two", "metadata": {"n": "2"}}, {"prompt": "three"}]
    return file(tmp_path, "\n".join(map(json.dumps, rows)))


def test_results_stand_in_the_order_of_the_input(tmp_path: Path, prompts: Path) -> None:
    """Answers and errors stand together, in order, each with what stood beside its prompt."""
    results = tmp_path / "out.jsonl"
    run(FakeApi(fails=lambda prompt: prompt == "two"), prompts, results)
    assert said(results) == [("line-1", "one"), ("line-2", None), ("line-3", "three")]
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line.get("metadata") for line in lines] == [None, {"n": "2"}, None]
    assert (tally(results), failed_ids(results)) == ((2, 1), {"line-2"})


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("at", range(1, 7))
def test_a_run_goes_on_wherever_it_was_interrupted(tmp_path: Path, prompts: Path, at: int, before: bool) -> None:
    """An interruption at any step, before or after the server did it, makes no second file and no second batch."""
    results = tmp_path / "out.jsonl"
    api = FakeApi(fails=lambda prompt: prompt == "two", at=at, before=before)
    try:
        run(api, prompts, results)
    except Interrupted:
        assert at <= 5
        run(api, prompts, results)
    assert said(results) == [("line-1", "one"), ("line-2", None), ("line-3", "three")]
    assert len(api.batches) == 1
    assert set(api.files) == {"file-0", "output-0", "error-0"}
    assert run(api, prompts, results) is None
    assert len(api.batches) == 1


@pytest.mark.parametrize("at", range(1, 7))
def test_only_what_failed_is_run_again(tmp_path: Path, prompts: Path, at: int) -> None:
    """A retry sends the failed lines alone, also when it is interrupted, and merges what comes of them."""
    results = tmp_path / "out.jsonl"
    bad = {"one", "three"}
    api = FakeApi(fails=lambda prompt: prompt in bad)
    run(api, prompts, results)
    bad.remove("one")
    api.at = api.steps + at
    try:
        run(api, prompts, results, retry_failed=True)
    except Interrupted:
        run(api, prompts, results, retry_failed=True)
    api.at = -1
    again = [json.loads(line)["custom_id"] if line else "" for line in api.files["file-1"].splitlines()]
    assert again == ["line-1", "", "line-3"]
    assert said(results) == [("line-1", "one"), ("line-2", "two"), ("line-3", None)]
    assert len(api.batches) == 2
    bad.clear()
    run(api, prompts, results, retry_failed=True)
    assert said(results) == [("line-1", "one"), ("line-2", "two"), ("line-3", "three")]
    assert run(api, prompts, results, retry_failed=True) is None
    assert len(api.batches) == 3


def test_an_interrupted_retry_is_gone_on_with_by_either_command(tmp_path: Path, prompts: Path) -> None:
    """Without --retry-failed the same command finishes the retry that was begun, and begins none."""
    results = tmp_path / "out.jsonl"
    bad = {"one"}
    api = FakeApi(fails=lambda prompt: prompt in bad)
    run(api, prompts, results)
    bad.clear()
    api.at = api.steps + 1
    with pytest.raises(Interrupted):
        run(api, prompts, results, retry_failed=True)
    run(api, prompts, results)
    assert said(results) == [("line-1", "one"), ("line-2", "two"), ("line-3", "three")]
    assert len(api.batches) == 2


def test_another_input_is_not_taken_for_the_same_run(tmp_path: Path, prompts: Path) -> None:
    """A changed input, option or server is refused, so that results never mix."""
    results = tmp_path / "out.jsonl"
    api = FakeApi(at=2)
    with pytest.raises(Interrupted):
        run(api, prompts, results)
    with pytest.raises(click.ClickException, match="options"):
        run(api, prompts, results, window="2h")
    with pytest.raises(click.ClickException, match="not at http://there"):
        run(FakeApi(url="http://there"), prompts, results)
    prompts.write_text('{"prompt": "another"}')
    with pytest.raises(click.ClickException, match="input"):
        run(api, prompts, results)
    assert len(api.batches) == 1


def test_two_runs_into_one_output_do_not_meet(tmp_path: Path, prompts: Path) -> None:
    """While one process has the output, another is refused."""
    results = tmp_path / "out.jsonl"
    with State(results), pytest.raises(click.ClickException, match="another"):
        run(FakeApi(), prompts, results)


def test_a_batch_that_was_refused_leaves_nothing_behind(tmp_path: Path, prompts: Path) -> None:
    """After a refusal the input can be mended and the same command begins anew."""
    results = tmp_path / "out.jsonl"
    api = FakeApi(status="failed")
    assert run(api, prompts, results)["status"] == "failed"
    assert not results.exists()
    assert not (tmp_path / "out.jsonl.promptq").exists()
    api.status = "completed"
    prompts.write_text('{"prompt": "mended"}')
    run(api, prompts, results)
    assert said(results) == [("line-1", "mended")]


@pytest.mark.parametrize("without", [("one", "two", "three"), ("two",)])
@pytest.mark.parametrize("status", ["cancelled", "expired"])
def test_a_prompt_that_no_file_tells_of_has_failed(
    tmp_path: Path, prompts: Path, status: str, without: tuple[str, ...]
) -> None:
    """Each prompt has a line, whatever its batch came to; --retry-failed runs those that have no result."""
    results, missed = tmp_path / "out.jsonl", set(without)
    api = FakeApi(status=status, misses=lambda prompt: prompt in missed)
    run(api, prompts, results)
    names = dict(zip(("one", "two", "three"), ("line-1", "line-2", "line-3"), strict=True))
    assert said(results) == [(names[prompt], None if prompt in missed else prompt) for prompt in names]
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert lines[1]["metadata"] == {"n": "2"}
    message = f"The batch ended as {status} without a result for this line."
    assert lines[1]["error"] == {"code": "no_result", "message": message, "line": 2}
    # A retry that brings nothing, either, leaves it so.
    run(api, prompts, results, retry_failed=True)
    assert failed_ids(results) == {names[prompt] for prompt in missed}
    missed.clear()
    api.status = "completed"
    run(api, prompts, results, retry_failed=True)
    assert said(results) == [("line-1", "one"), ("line-2", "two"), ("line-3", "three")]
    assert run(api, prompts, results, retry_failed=True) is None


@pytest.mark.parametrize(
    ("status", "missed", "code"),
    [("completed", "", 0), ("completed", "two", 1), ("cancelled", "two", 1), ("expired", "", 1)],
)
def test_the_exit_code_says_whether_all_is_done(
    tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, status: str, missed: str, code: int
) -> None:
    """0 only for a batch that has completed with an answer to each prompt."""
    api = FakeApi(status=status, misses=lambda prompt: prompt == missed)
    monkeypatch.setattr("cli.commands.batch.Api", lambda *_: contextlib.nullcontext(api))
    answer = promptq("batch", "run", str(prompts), "-o", str(tmp_path / "out"), "-m", "m")
    assert answer.exit_code == code, answer.output
    assert f"{status}: {2 if missed else 3} answered, {1 if missed else 0} failed" in answer.output
    assert ("--retry-failed" in answer.output) is bool(missed)


def test_what_the_server_says_of_a_broken_line_stands_in_its_place(tmp_path: Path) -> None:
    """By its number, whatever name the server has guessed; a line that cannot be answered is not run again."""
    broken, guessed = b'{"body": {}, "url": "/v1/chat/completions", broken', b'{"custom_id": "b", broken'
    path = file(tmp_path, b'{"custom_id": "a", "body": {}}\n\n' + broken + b"\n" + guessed, "prompts.jsonl")
    prompts = Prompts(path, endpoint=CHAT)
    lines = [
        {"custom_id": "b", "response": None, "error": {"code": "invalid_json_line", "line": 4}},
        {"custom_id": None, "response": None, "error": {"code": "invalid_json_line", "line": 3}},
        {"custom_id": "a", "response": {"status_code": 200}, "error": None},
    ]
    out = tmp_path / "out"
    for given in (file(tmp_path, "\n".join(map(json.dumps, lines)), "given"), out):
        found = Results()
        found.add(given)
        found.write(out, prompts, status="completed")
        assert [json.loads(line)["custom_id"] for line in out.read_text().splitlines()] == ["a", None, "b"]
    assert (failed_ids(out), to_retry(out, prompts)) == ({"b"}, set())


def test_a_state_that_cannot_be_read_is_told_of(tmp_path: Path, prompts: Path) -> None:
    """What is no state of ours is not overwritten."""
    results = tmp_path / "out.jsonl"
    folder = tmp_path / "out.jsonl.promptq"
    folder.mkdir()
    (folder / "state.json").write_text('{"version": 99}')
    with pytest.raises(click.ClickException, match="remove it"):
        run(FakeApi(), prompts, results)
    assert (folder / "state.json").read_text() == '{"version": 99}'


def test_nothing_to_retry_is_no_run(tmp_path: Path, prompts: Path) -> None:
    """--retry-failed begins no first run."""
    with pytest.raises(click.ClickException, match="nothing was run"):
        run(FakeApi(), prompts, tmp_path / "out.jsonl", retry_failed=True)
    assert not (tmp_path / "out.jsonl.promptq").exists()


def test_lines_without_an_id_are_kept(tmp_path: Path) -> None:
    """What the server could not name stands at the end of the results, each line once."""
    lines = [
        {"custom_id": None, "response": None, "error": {"code": "invalid_json_line", "line": 2}},
        {"custom_id": "b", "response": {"status_code": 200}, "error": None},
        {"custom_id": None, "response": None, "error": {"code": "invalid_json_line", "line": 5}},
        {"custom_id": "a", "response": {"status_code": 400}, "error": None},
    ]
    given = file(tmp_path, "\n".join(map(json.dumps, lines)), "given")
    found = Results()
    found.add(given)
    names = [json.dumps({"custom_id": name, "body": {}, "url": CHAT}) for name in "ab"]
    prompts = file(tmp_path, "\n".join(names))
    found.write(tmp_path / "out", Prompts(prompts), status="completed")
    written = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [line["custom_id"] for line in written] == ["a", "b", None, None]
    assert [line["error"]["line"] for line in written[2:]] == [2, 5]
    assert (tally(tmp_path / "out"), failed_ids(tmp_path / "out")) == ((1, 3), {"a"})


def test_a_response_that_says_it_failed_is_no_answer(tmp_path: Path) -> None:
    """The LLM says so with HTTP 200; a member of that name in another answer means nothing."""

    def line(name: str, **body: str) -> dict[str, Any]:
        return {"custom_id": name, "response": {"status_code": 200, "body": body}, "error": None}

    lines = [
        line("a", object="response", status="completed"),
        line("b", object="response", status="failed"),
        line("c", object="response", status="cancelled"),
        line("d", object="response", status="incomplete"),
        line("e", object="chat.completion", status="failed"),
    ]
    given = file(tmp_path, "\n".join(map(json.dumps, lines)), "given")
    assert (tally(given), failed_ids(given)) == ((3, 2), {"b", "c"})


def test_bars_are_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes, counts and states come to the bars, also where the total is known only later."""
    monkeypatch.setattr(progress, "shown", lambda: True)
    with progress.bytes_bar("uploading", 100) as show_bytes:
        show_bytes(50)
        show_bytes(100)
    with progress.bytes_bar("downloading", None) as show_bytes:
        show_bytes(7)
    with progress.counts_bar() as show_counts:
        show_counts("validating", 0, 0)
        show_counts("in_progress", 10, 40)
        show_counts("completed", 40, 40)
    told = capsys.readouterr()
    assert told.out == ""
    assert "100/100 bytes" in told.err
    assert "completed" in told.err
    assert "40/40" in told.err


@pytest.mark.parametrize(
    ("usage", "said"),
    [({"input_tokens": 1200, "output_tokens": 7}, "1,200 read, 7 written"), ({"input_tokens": 0}, None), (None, None)],
)
def test_a_batch_shows_what_it_has_cost(
    capsys: pytest.CaptureFixture[str], usage: dict[str, int] | None, said: str | None
) -> None:
    """Its model and its tokens, where there are any."""
    tables.batch({"id": "batch_1", "status": "completed", "model": "sim", "usage": usage})
    shown = dict(row.split(maxsplit=1) for row in capsys.readouterr().out.splitlines())
    assert (shown["model"], shown.get("tokens")) == ("sim", said)


def promptq(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def test_the_command_line_says_what_is_missing(tmp_path: Path, prompts: Path) -> None:
    """A file that is not there, no output, an unknown endpoint: usage errors, and nothing is made."""
    for words in (["nothing.jsonl", "-o", "out"], [str(prompts)], [str(prompts), "-o", "out", "--endpoint", "/v1/x"]):
        assert promptq("batch", "run", *words).exit_code == 2
    answer = promptq("batch", "run", str(prompts), "-o", str(tmp_path / "out"), "--url", "http://127.0.0.1:1")
    assert answer.exit_code == 1
    assert "--model" in answer.output
    assert list(tmp_path.iterdir()) == [prompts]
