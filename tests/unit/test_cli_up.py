"""``promptq up`` as a process, with stand-ins for the parts that are packages of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

import cli
import jobs
from cli.stack import valkey
from cli.stack.ports import Ports
from cli.stack.ready import redis_answers

LIMIT = 20.0

SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = "\\n".join(f"{name}={value}" for name, value in sorted(os.environ.items())).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
def serve(port):
    print("serving", port, flush=True)
    http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
"""
STAND_INS = {
    "server.py": SERVER,
    "simulator.py": "import server, sys\nserver.serve(sys.argv[sys.argv.index('--port') + 1])\n",
    # A grandchild too, as gunicorn's workers are; it ignores SIGTERM, so that only a SIGKILL of the group ends it.
    "gunicorn.py": (
        "import os, pathlib, server, subprocess, sys\n"
        "code = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)'\n"
        "child = subprocess.Popen([sys.executable, '-c', code])\n"
        "pathlib.Path('grandchild').write_text(str(child.pid))\n"
        "server.serve(os.environ['PROMPTQ_PORT'])\n"
    ),
    "worker/__init__.py": "",
    "worker/__main__.py": (
        "import os, pathlib, time\n"
        "print('worker', os.environ['PROMPTQ_WORKER_NAME'], 'consumes', flush=True)\n"
        "pathlib.Path(os.environ['PROMPTQ_WORKER_READY_FILE']).write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    ),
    "worker/dashboard.py": "import os, server\nserver.serve(os.environ['PROMPTQ_FLOWER_PORT'])\n",
    "worker/scheduler.py": (
        "import os, pathlib, time\n"
        "pathlib.Path(os.environ['PROMPTQ_SCHEDULER_READY_FILE']).write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    ),
}


class Up:
    """A running ``promptq up``."""

    def __init__(self, root: Path, *words: str, env: dict[str, str]) -> None:
        self.root = root
        self.ready_file = root / "ready.json"
        self.output = root / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli", "up", "--port=0", "--flower-port=0", "--ready-file=ready.json", *words],
                cwd=root,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def printed(self) -> str:
        return self.output.read_text()

    def ready(self) -> dict[str, object]:
        until(lambda: self.ready_file.exists() or self.process.poll() is not None, "ready")
        assert self.process.poll() is None, self.printed
        until(lambda: "\nready" in self.printed, "the ready line")
        content = json.loads(self.ready_file.read_text())
        assert isinstance(content, dict)
        return content

    def pids(self) -> dict[str, int]:
        content = self.ready()["processes"]
        assert isinstance(content, dict)
        return {str(name): int(pid) for name, pid in content.items()}

    def everything(self) -> list[int]:
        """All processes below this one, by the kernel's account: parts, grandchildren, the guard."""
        found, queue = [], [self.process.pid]
        while queue:
            children = [int(pid) for pid in _children(queue.pop())]
            found += children
            queue += children
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(LIMIT)


def _children(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody reaps (a container without an init) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in {LIMIT} s"
        time.sleep(0.02)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A source tree of our own packages, the parts replaced by stand-ins; with a space in its name."""
    tree = tmp_path / "a tree"
    for name, text in STAND_INS.items():
        file = tree / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    for package in (cli, jobs):
        assert package.__file__ is not None
        (tree / package.__name__).symlink_to(Path(package.__file__).parent)
    return tree


@pytest.fixture
def up(root: Path) -> Iterator[Callable[..., Up]]:
    """Starts ``promptq up`` in a clean environment; whatever is left at the end is killed."""
    started: list[tuple[Up, list[int]]] = []
    outside = ("PROMPTQ_", "OPENAI_", "PYTHONWARNINGS", "PYTHONPATH")
    env = {name: value for name, value in os.environ.items() if not name.startswith(outside)}

    def start(*words: str, **more: str) -> Up:
        running = Up(root, *words, env=env | more)
        started.append((running, []))
        return running

    yield start
    for running, _ in started:
        left = running.everything()
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait(LIMIT)
        for pid in left:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def get(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as answer:
        return str(answer.read().decode())


def test_it_starts_everything_says_so_and_stops_everything(up: Callable[..., Up]) -> None:
    """All parts answer at the addresses in the ready file; SIGTERM ends all of them, with exit code 0."""
    stack = up("--workers", "2", "--concurrency", "7", "--api-workers", "3")
    content = stack.ready()
    pids = stack.pids()
    assert list(pids) == ["redis", "simulator", "api", "worker-1", "worker-2", "scheduler", "flower"]
    assert content["api_key"] == "local"
    assert content["metrics"][0] == f"{content['api']}/metrics"
    assert len(set(content["metrics"])) == 4, "the API, two workers and the scheduler"
    assert stack.ready_file.stat().st_mode & 0o077 == 0, "it may hold a key"
    env = dict(line.split("=", 1) for line in get(f"{content['api']}/anything").splitlines() if "=" in line)
    assert env["PROMPTQ_REDIS_URL"] == content["redis"]
    assert (env["OPENAI_BASE_URL"], env["OPENAI_API_KEY"]) == (content["llm"], "simulator")
    assert (env["PROMPTQ_CONCURRENCY"], env["PROMPTQ_API_WORKERS"]) == ("7", "3")
    assert get(f"{content['flower']}healthcheck")
    assert "SIMULATED" in stack.printed
    assert f"curl -X POST {content['api']}/generate" in stack.printed
    everything = stack.everything()
    assert len(everything) == len(pids) + 2, "the parts, one grandchild and the guard"

    assert stack.stop() == 0
    until(lambda: not any(map(alive, everything)), "end of all processes")
    assert not stack.ready_file.exists()
    assert stack.printed.endswith("stopped\n")


def test_kill_9_of_up_leaves_no_process_and_all_data(up: Callable[..., Up]) -> None:
    """Killed with -9, its children end, and so do theirs that ignore SIGTERM; the next ``up`` has what was stored."""
    stack = up("--no-flower")
    with redis.Redis.from_url(str(stack.ready()["redis"])) as client:
        client.set("key", "kept")
    everything = stack.everything()
    assert int((stack.root / "grandchild").read_text()) in everything
    stack.stop(signal.SIGKILL)
    until(lambda: not any(map(alive, everything)), "end of all processes")

    # The stale ready file must not be taken for the new one.
    assert stack.ready_file.exists()
    again = up("--no-flower")
    until(lambda: "starting redis" in again.printed, "next start")
    with redis.Redis.from_url(str(again.ready()["redis"])) as client:
        assert client.get("key") == b"kept"


def test_a_part_that_dies_is_reported_and_the_others_go_on(up: Callable[..., Up]) -> None:
    """The death of a worker is told with its log and everything else answers on; with nothing left ``up`` ends too."""
    stack = up("--no-flower", "--verbose")
    content, pids = stack.ready(), stack.pids()
    assert content["flower"] is None
    until(lambda: "worker-1 | worker worker-1 consumes" in stack.printed, "what the parts print (--verbose)")
    os.kill(pids.pop("worker-1"), signal.SIGKILL)
    until(lambda: "worker-1 was killed by SIGKILL" in stack.printed, "report")
    assert "worker worker-1 consumes" in stack.printed.partition("was killed by")[2], "the end of its log"
    assert get(f"{content['api']}/readyz")
    assert all(alive(pid) for pid in pids.values())
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    assert stack.process.wait(LIMIT) == 1
    assert "every part has died" in stack.printed


def test_a_part_that_does_not_start_is_shown_and_the_rest_is_stopped(up: Callable[..., Up], root: Path) -> None:
    """A part that dies at the start ends ``up`` with exit code 1 and the end of that part's log."""
    (root / "worker" / "scheduler.py").write_text("raise SystemExit('no scheduler today')\n")
    stack = up("--no-flower")
    assert stack.process.wait(LIMIT) == 1
    assert "error: scheduler exited with code 1 while the stack was starting" in stack.printed
    assert "no scheduler today" in stack.printed
    assert not stack.ready_file.exists()


def test_it_can_be_interrupted_while_starting(up: Callable[..., Up], root: Path) -> None:
    """Ctrl-C during the start stops what was started; the exit code is not 0."""
    (root / "worker" / "scheduler.py").write_text("import time\ntime.sleep(600)\n")
    stack = up("--no-flower")
    until(lambda: "starting api" in stack.printed, "second wave")
    everything = stack.everything()
    assert stack.stop(signal.SIGINT) == 130
    until(lambda: not any(map(alive, everything)), "end of all processes")


def test_a_second_signal_kills_at_once(up: Callable[..., Up], root: Path) -> None:
    """A part that ignores SIGTERM is waited for, until the signal comes again."""
    stubborn = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    worker = root / "worker" / "__main__.py"
    worker.write_text(stubborn + worker.read_text())
    stack = up("--no-flower", "--grace", "600")
    pid = stack.pids()["worker-1"]
    stack.process.send_signal(signal.SIGINT)
    until(lambda: "stopping" in stack.printed, "first signal's effect")
    assert alive(pid)
    assert stack.stop(signal.SIGINT) == 0
    assert not alive(pid)
    assert "had to kill" in stack.printed


def test_a_server_and_a_model_that_are_configured_are_used(up: Callable[..., Up], tmp_path: Path) -> None:
    """With PROMPTQ_REDIS_URL and OPENAI_BASE_URL set, neither a server nor a simulator is started."""
    with Ports() as ports:
        port = ports.take("127.0.0.1", 0, option="--redis-port")
    url = f"redis://:hush@127.0.0.1:{port}/3"
    command = [*valkey.command(valkey.find_server(), port), "--requirepass", "hush"]
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        until(redis_answers(url), "answer of the server")
        keys = {"PROMPTQ_API_KEYS": "alice:secret-1,bob:secret-2", "OPENAI_BASE_URL": "http://llm.example/v1"}
        stack = up("--no-flower", PROMPTQ_REDIS_URL=url, **keys)
        content = stack.ready()
        assert list(stack.pids()) == ["api", "worker-1", "scheduler"]
        assert (content["redis"], content["llm"], content["api_key"]) == (url, "http://llm.example/v1", "secret-1")
        assert "SIMULATED" not in stack.printed
        assert "secret" not in stack.printed
        assert "hush" not in stack.printed
        assert stack.stop() == 0
        assert server.poll() is None, "what we did not start we do not stop"
    finally:
        server.kill()
        server.wait()


def test_the_simulator_can_be_forced_and_no_part_sees_the_key(up: Callable[..., Up]) -> None:
    """With --simulator, a key in the environment is not used, nor given to anybody."""
    stack = up("--no-flower", "--simulator", OPENAI_API_KEY="sk-real", OPENAI_ORG_ID="org-real")
    content = stack.ready()
    assert "simulator" in stack.pids()
    seen = get(f"{content['api']}/env")
    assert "sk-real" not in seen
    assert "org-real" not in seen
    assert "OPENAI_API_KEY=simulator" in seen


def test_webhooks_may_reach_this_machine_where_only_it_reaches_the_api(up: Callable[..., Up]) -> None:
    """On loopback, webhooks may go to loopback, which is said, and there is a key to store their secrets with."""
    stack = up("--no-flower")
    seen = get(f"{stack.ready()['api']}/env")
    assert "PROMPTQ_WEBHOOK_ALLOW=localhost,127.0.0.0/8,::1" in seen
    assert "webhooks  may go to this machine" in stack.printed
    assert (stack.root / ".promptq" / "encryption.key").read_text().strip() in seen


def test_webhooks_do_not_reach_this_machine_where_others_reach_the_api(up: Callable[..., Up]) -> None:
    """On any other address, and where the user has set it, nothing is added to what webhooks may reach."""
    stack = up("--no-flower", "--host=0.0.0.0", PROMPTQ_API_KEYS="ann:k1")
    assert "PROMPTQ_WEBHOOK_ALLOW" not in get(f"{stack.ready()['api']}/env")
    assert "webhooks  may" not in stack.printed
    assert stack.stop() == 0
    stack = up("--no-flower", PROMPTQ_WEBHOOK_ALLOW="10.0.0.0/8")
    assert "PROMPTQ_WEBHOOK_ALLOW=10.0.0.0/8" in get(f"{stack.ready()['api']}/env")
