"""The supervisor and the guard, with tiny programs as parts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cli.stack.errors import Interrupted, StackError
from cli.stack.guard import Guard
from cli.stack.processes import Child, Part
from cli.stack.ready import file_written
from cli.stack.signals import StopRequests
from cli.stack.supervisor import Supervisor

LIMIT = 15.0


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in {LIMIT} s"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    except ProcessLookupError:
        return False
    return bool(state.stdout.strip()) and not state.stdout.strip().startswith("Z")


def part(name: str, folder: Path, code: str = "time.sleep(600)", *, before: str = "") -> Part:
    """A part that writes its pid when it is ready, and then does ``code``."""
    ready = folder / f"{name}.ready"
    program = f"import os, pathlib, signal, subprocess, sys, time\n{before}\n"
    program += f"pathlib.Path({str(ready)!r}).write_text(str(os.getpid()))\n{code}\n"
    return Part(name, (sys.executable, "-I", "-S", "-c", program), os.environ, file_written(ready))


def spawning(folder: Path) -> str:
    """Code that starts a process of its own and notes its pid."""
    note = str(folder / "child")
    return f"child = subprocess.Popen(['sleep', '600'])\npathlib.Path({note!r}).write_text(str(child.pid))"


class Running:
    """A supervisor with what it needs."""

    def __init__(self, folder: Path, stack: ExitStack, *, grace: float = 10) -> None:
        self.ended: list[str] = []
        self.lines: list[tuple[str, str]] = []
        self.requests = stack.enter_context(StopRequests())
        self.guard = stack.enter_context(Guard())
        self.supervisor = stack.enter_context(
            Supervisor(
                guard=self.guard,
                logs=folder,
                requests=self.requests,
                stages=[["a"], ["b"], ["c"]],
                grace=grace,
                on_line=lambda name, line: self.lines.append((name, line)),
            )
        )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_part_that_dies_is_told_and_the_others_go_on(tmp_path: Path, stack: ExitStack) -> None:
    """Each death is told once, with how it ended and its last lines; nothing is started again."""
    running = Running(tmp_path, stack)
    dies = "print('goodbye', flush=True)\nsys.exit(3)"
    parts = [part("a", tmp_path), part("b", tmp_path, f"time.sleep(0.3)\n{dies}")]
    running.supervisor.start(parts, timeout=LIMIT)
    told: list[str] = []

    def on_death(child: Child) -> None:
        told.append(f"{child.name} {child.describe_end()}: {child.last_lines()}")
        assert alive(running.supervisor.children["a"].pid)
        os.kill(os.getpid(), signal.SIGINT)

    assert running.supervisor.watch(on_death)
    assert told == ["b exited with code 3: ['goodbye']"]
    assert ("b", "goodbye") in running.lines


def test_watching_ends_when_all_have_died(tmp_path: Path, stack: ExitStack) -> None:
    """Without any part left there is nothing to wait for."""
    running = Running(tmp_path, stack)
    running.supervisor.start([part("a", tmp_path)], timeout=LIMIT)
    os.kill(running.supervisor.children["a"].pid, signal.SIGKILL)
    told: list[str] = []
    assert not running.supervisor.watch(lambda child: told.append(child.describe_end()))
    assert told == ["was killed by SIGKILL"]


def test_sigterm_stops_all_in_order(tmp_path: Path, stack: ExitStack) -> None:
    """SIGTERM to the supervisor ends the watch; the stages then stop one after another."""
    running = Running(tmp_path, stack)
    note = tmp_path / "order"
    says = "def bye(*_):\n    with open({!r}, 'a') as f: f.write({!r})\n    os._exit(0)\n"
    says += "signal.signal(signal.SIGTERM, bye)"
    parts = [part(name, tmp_path, before=says.format(str(note), name)) for name in "cab"]
    running.supervisor.start(parts, timeout=LIMIT)
    os.kill(os.getpid(), signal.SIGTERM)
    assert running.supervisor.watch(lambda child: pytest.fail(child.name))
    assert running.supervisor.stop() == []
    assert note.read_text() == "abc"
    assert not any(alive(child.pid) for child in running.supervisor.children.values())


def test_a_part_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path, stack: ExitStack) -> None:
    """After the grace the whole process group goes, and the name is told."""
    running = Running(tmp_path, stack, grace=0.2)
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    running.supervisor.start(
        [part("a", tmp_path, before=deaf + spawning(tmp_path)), part("b", tmp_path)], timeout=LIMIT
    )
    grandchild = int((tmp_path / "child").read_text())
    assert running.supervisor.stop() == ["a"]
    until(lambda: not alive(grandchild), "end of the grandchild")


def test_what_a_dead_leader_leaves_is_ended(tmp_path: Path, stack: ExitStack) -> None:
    """The children of a part that died by itself do not live on."""
    running = Running(tmp_path, stack)
    running.supervisor.start([part("a", tmp_path, before=spawning(tmp_path))], timeout=LIMIT)
    os.kill(running.supervisor.children["a"].pid, signal.SIGKILL)
    assert not running.supervisor.watch(lambda child: print(child.name))
    until(lambda: not alive(int((tmp_path / "child").read_text())), "end of the grandchild")


def test_a_part_that_dies_while_starting_is_an_error_with_its_log(tmp_path: Path, stack: ExitStack) -> None:
    """The error names the part, how it ended and its last lines of this run; the rest is stopped at the end."""
    (tmp_path / "b.log").write_text("of an earlier run\n")
    running = Running(tmp_path, stack)
    parts = [part("a", tmp_path), part("b", tmp_path, before="sys.exit('cannot work like this')")]
    with pytest.raises(StackError) as error:
        running.supervisor.start(parts, timeout=LIMIT)
    assert "b exited with code 1 while the stack was starting\n  | cannot work like this\n" in error.value.message
    assert "earlier" not in error.value.message
    pid = running.supervisor.children["a"].pid
    assert alive(pid)
    stack.close()
    assert not alive(pid)


def test_a_part_that_does_not_answer_is_an_error(tmp_path: Path, stack: ExitStack) -> None:
    """A start that takes too long names the part that is late."""
    running = Running(tmp_path, stack)
    parts = [part("a", tmp_path), part("b", tmp_path, before="print('thinking', flush=True)\ntime.sleep(600)")]
    with pytest.raises(StackError, match=r"b does not answer after 0\.5 s\n  \| thinking"):
        running.supervisor.start(parts, timeout=0.5)


def test_a_program_that_does_not_exist_is_an_error(tmp_path: Path, stack: ExitStack) -> None:
    """The error names the part and the program."""
    running = Running(tmp_path, stack)
    missing = Part("a", ("/nowhere/program",), {}, lambda: True)
    with pytest.raises(StackError, match="a cannot be started: /nowhere/program"):
        running.supervisor.start([missing], timeout=LIMIT)


def test_a_signal_while_starting_interrupts(tmp_path: Path, stack: ExitStack) -> None:
    """Asked to stop, the start does not wait for the rest."""
    running = Running(tmp_path, stack)
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted):
        running.supervisor.start([part("a", tmp_path, before="time.sleep(600)")], timeout=LIMIT)


def test_signals_do_their_old_work_again_afterwards() -> None:
    """The handlers of before are put back."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with StopRequests() as requests:
        os.kill(os.getpid(), signal.SIGHUP)
        assert (requests.stop, requests.hurry) == (True, False)
        os.kill(os.getpid(), signal.SIGINT)
        assert requests.hurry
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


SUPERVISOR = """
import pathlib, sys
sys.path[:0] = {path!r}
from cli.stack.guard import Guard
from cli.stack.signals import StopRequests
from cli.stack.supervisor import Supervisor
from tests.unit import test_cli_supervisor as here
from contextlib import ExitStack
folder = pathlib.Path({folder!r})
with ExitStack() as stack:
    running = here.Running(folder, stack)
    if {without_guard}:
        running.guard._process.kill()
        running.guard._process.wait()
    running.supervisor.start([here.part("a", folder, before={before!r}), here.part("b", folder)], timeout=here.LIMIT)
    (folder / "up").write_text(str(running.guard.pid))
    running.supervisor.watch(print)
"""


@pytest.mark.parametrize("without_guard", [False, True])
def test_kill_9_of_the_supervisor_ends_its_children(tmp_path: Path, without_guard: bool) -> None:
    """The guard ends the whole groups; without it the parent-death signal (Linux) still ends the parts."""
    if without_guard and sys.platform != "linux":
        pytest.skip("the parent-death signal is Linux's")
    code = SUPERVISOR.format(
        path=sys.path, folder=str(tmp_path), before=spawning(tmp_path), without_guard=without_guard
    )
    with (tmp_path / "output").open("wb") as output:
        supervisor = subprocess.Popen([sys.executable, "-c", code], stdout=output, stderr=output)
    until(lambda: (tmp_path / "up").exists() or supervisor.poll() is not None, "start")
    assert supervisor.poll() is None, (tmp_path / "output").read_text()
    parts = [int((tmp_path / f"{name}.ready").read_text()) for name in "ab"]
    grandchild, guard = int((tmp_path / "child").read_text()), int((tmp_path / "up").read_text())
    assert all(map(alive, [*parts, grandchild]))
    supervisor.kill()
    supervisor.wait()
    until(lambda: not any(map(alive, parts)), "end of the parts")
    if without_guard:
        os.kill(grandchild, signal.SIGKILL)
    else:
        until(lambda: not alive(grandchild) and not alive(guard), "end of the grandchild and of the guard")


def test_the_guard_kills_what_is_on_its_list_and_nothing_else() -> None:
    """At the end of the pipe the groups that were added and not removed are gone."""
    added, removed = (subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(2))
    try:
        with Guard() as guard:
            guard.add(added.pid)
            guard.add(removed.pid)
            guard.remove(removed.pid)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(guard.pid, number)
            assert added.poll() is None
        assert added.wait(LIMIT) == -signal.SIGKILL
        assert removed.poll() is None
    finally:
        for process in (added, removed):
            process.kill()
            process.wait()


def test_a_dead_guard_does_not_stop_the_stack(tmp_path: Path, stack: ExitStack) -> None:
    """Somebody may kill the guard; parts are started and stopped as before."""
    running = Running(tmp_path, stack)
    os.kill(running.guard.pid, signal.SIGKILL)
    until(lambda: not alive(running.guard.pid), "end of the guard")
    running.supervisor.start([part("a", tmp_path)], timeout=LIMIT)
    assert running.supervisor.stop() == []
