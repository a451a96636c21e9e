"""``python -m tests.faults.faulty_worker``: a worker that kills itself (SIGKILL) where ``FAULT_POINT`` says.

``taken``: it has a message from the broker, which is written nowhere else yet. ``before_claim``, ``after_claim``,
``before_complete``, ``after_complete``: around those steps of the store. ``in_request``: the LLM has the head of a
call, and not its body. ``before_lease``, ``after_lease``, ``before_settle``: when it has completed a job and would take
the webhook that tells of it, when it has one, when it has sent it. ``before_batch_STEP``, ``after_batch_STEP``: around
any step of ``BatchStore``. ``freeze_before_batch_STEP``: it only stops (SIGSTOP) there, once. ``poison``: whenever it
would send the LLM a body with the poison's marker; the processes that it starts for single jobs (``worker.alone``) do
so, too: they are this module with the job's id as its argument.
"""

# ruff: noqa: I001  # the first import patches the standard library for gevent
from __future__ import annotations

import worker.__main__ as process

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from kombu.transport.virtual import QoS

from jobs.batch_store import BatchStore
from jobs.model import Claim
from jobs.outbox import Outbox
from jobs.store import JobStore
from tests.faults.poison import MARKER
from worker import alone_runs, transport
from worker.llm import LLMClient


def die(*_: Any, **__: Any) -> NoReturn:
    """End as the kernel ends a process that takes too much memory: at once, with nothing tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def after(step: Callable[..., Any], *, when: Callable[[Any], bool]) -> Callable[..., Any]:
    """The step, and the end right after it if its answer is the one."""

    def step_and_die(*args: Any, **kwargs: Any) -> Any:
        answer = step(*args, **kwargs)
        if when(answer):
            die()
        return answer

    return step_and_die


def freeze_once(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step, and a stop before its first time, until somebody lets the process go on."""
    frozen: list[bool] = []

    def freeze_and_step(*args: Any, **kwargs: Any) -> Any:
        if not frozen:
            frozen.append(True)
            os.kill(os.getpid(), signal.SIGSTOP)
        return step(*args, **kwargs)

    return freeze_and_step


def take_no_webhook(complete: Callable[..., Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The completion of a job, and in the place of ``Outbox.lease`` what finds nothing before one, and then ends it."""
    completed: list[Any] = []

    def complete_and_note(*args: Any, **kwargs: Any) -> Any:
        completed.append(complete(*args, **kwargs))
        return completed[-1]

    return complete_and_note, lambda *_, **__: die() if completed else []


def refuse_poison(call: Callable[..., Any]) -> Callable[..., Any]:
    """The LLM's call, which no process survives whose body has the marker."""

    def call_or_die(client: LLMClient, endpoint: Any, body: bytes) -> Any:
        return die() if MARKER.encode() in body else call(client, endpoint, body)

    return call_or_die


def die_before_body(send: Callable[..., Any]) -> Callable[..., Any]:
    """The sending of what belongs to a call's request, and the end where its body would follow."""

    def send_or_die(connection: Any, data: Any) -> Any:
        return die() if data.startswith(b"{") else send(connection, data)

    return send_or_die


class FaultyAlone:
    """In the place of ``subprocess`` where a worker starts a process for one job: starts this module instead."""

    PIPE = alone_runs.subprocess.PIPE

    @staticmethod
    def Popen(command: list[str], **options: Any) -> Any:  # noqa: N802  # it stands in for subprocess.Popen
        """Start the faulty variant of ``worker.alone``."""
        assert command[1:3] == ["-m", "worker.alone"], command
        return _real_popen([command[0], "-m", "tests.faults.faulty_worker", *command[3:]], **options)


_real_popen = alone_runs.subprocess.Popen


def install(point: str) -> None:
    """Set the trap."""
    match point:
        case "taken":
            QoS.append = die
        case "before_claim":
            JobStore.claim = die  # type: ignore[method-assign]
        case "after_claim":
            JobStore.claim = after(JobStore.claim, when=lambda answer: isinstance(answer, Claim))  # type: ignore[method-assign]
        case "in_request":
            transport._Sending.send = die_before_body(transport._Sending.send)  # type: ignore[method-assign]
        case "before_complete":
            JobStore.complete = die  # type: ignore[method-assign]
        case "after_complete":
            JobStore.complete = after(JobStore.complete, when=lambda _: True)  # type: ignore[method-assign]
        case "before_lease":
            JobStore.complete, Outbox.lease = take_no_webhook(JobStore.complete)  # type: ignore[method-assign]
        case "after_lease":
            Outbox.lease = after(Outbox.lease, when=bool)  # type: ignore[method-assign]
        case "before_settle":
            Outbox.settle = die  # type: ignore[method-assign]
        case "poison":
            LLMClient.call = refuse_poison(LLMClient.call)  # type: ignore[method-assign]
            alone_runs.subprocess = FaultyAlone  # type: ignore[attr-defined, assignment]
        case _ if (step := point.removeprefix("freeze_before_batch_")) != point:
            setattr(BatchStore, step, freeze_once(getattr(BatchStore, step)))
        case _ if (step := point.removeprefix("before_batch_")) != point:
            setattr(BatchStore, step, die)
        case _ if (step := point.removeprefix("after_batch_")) != point:
            # A batch that was claimed, not that none was due.
            setattr(BatchStore, step, after(getattr(BatchStore, step), when=lambda answer: step != "claim" or answer))
        case _:
            raise ValueError(point)


if __name__ == "__main__":
    install(os.environ["FAULT_POINT"])
    if sys.argv[1:]:
        from worker import alone

        sys.exit(alone.main(sys.argv[1]))
    sys.exit(process.main())
