"""Calls in flight, and how they are ended from outside."""

from __future__ import annotations

import gevent
import pytest

from jobs.errors import LLMTimeout
from jobs.model import CHAT_COMPLETIONS, Claim, Job, JobStatus
from worker.calls import Aborted, AbortReason, Calls


def a_claim(claim_id: str, job_id: str = "job_1") -> Claim:
    job = Job(job_id, "ann", CHAT_COMPLETIONS, "default", JobStatus.IN_PROGRESS, "sim", 1, 0.0)
    return Claim(claim_id, job)


def test_a_second_run_of_a_job_ends_the_first() -> None:
    """A job that is claimed here again, after its lease was lost, runs once: its first call is aborted."""
    calls, first, second = Calls(), a_claim("c1"), a_claim("c2")
    calls.enter(first)
    running = gevent.spawn(calls.run, first, lambda: gevent.sleep(30), timeout=30)
    gevent.sleep(0)
    calls.enter(second)
    with pytest.raises(Aborted):
        running.get(timeout=5)
    assert calls.claims() == {"job_1": "c2"}
    calls.leave(first)
    assert calls.run(second, lambda: "answer", timeout=5) == "answer"
    calls.leave(second)
    assert len(calls) == 0


def test_a_claim_is_aborted_alone() -> None:
    """What is lost is a claim: another claim of the same job goes on."""
    calls, lost = Calls(), a_claim("c1")
    calls.enter(lost)
    calls.abort_claim("c2", AbortReason.NOT_OURS)
    assert calls.run(lost, lambda: 1, timeout=5) == 1
    calls.abort_claim("c1", AbortReason.NOT_OURS)
    with pytest.raises(Aborted):
        calls.run(lost, lambda: 1, timeout=5)


def test_a_call_that_takes_too_long_is_ended() -> None:
    """After the time-out the call's greenlet is gone, and its slot is free."""
    calls, ended = Calls(), []

    def hang() -> None:
        try:
            gevent.sleep(30)
        finally:
            ended.append(True)

    claim = a_claim("c1")
    calls.enter(claim)
    with pytest.raises(LLMTimeout):
        calls.run(claim, hang, timeout=0.05)
    assert ended == [True]
