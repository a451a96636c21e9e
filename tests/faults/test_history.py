"""The checker finds each kind of violation, and nothing where there is none."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from simulator.prompts import prompt_hash
from tests.faults.history import History, Record

PROMPT = [{"role": "user", "content": "one"}]
OTHER = [{"role": "user", "content": "other"}]


def digest(prompt: object = PROMPT) -> str:
    """The name of the prompt in the simulator's statistics."""
    return prompt_hash({"messages": prompt})


def record(prompt: object = PROMPT, status: str = "completed", **changes: Any) -> Record:
    """What the store holds of a job that has ended."""
    fields: dict[str, Any] = {
        "request": json.dumps({"model": "sim", "messages": prompt}),
        "status": status,
        "finished": 1000,
        "attempt": 1,
        "strikes": 0,
        **changes,
    }
    return {name: str(value).encode() for name, value in fields.items() if value is not None}


def shown(job_id: str = "job_1", status: str = "completed", **changes: Any) -> dict[str, Any]:
    """What the API shows of a job that has ended."""
    known = {"id": job_id, "status": status, "finished_at": 1.0, "result": None, "error": None, "attempt": 1}
    return {**known, **changes}


@pytest.fixture
def history() -> History:
    """One good prompt, acknowledged once."""
    history = History()
    history.accepted(PROMPT, "job_1")
    return history


def kinds(history: History, records: dict[str, Record], calls: dict[str, int] | None = None) -> set[str]:
    """The kinds of violation that are found."""
    return set(history.check(calls={digest(): 1} if calls is None else calls, records=records).violations)


def test_a_clean_history_has_no_violations(history: History) -> None:
    """A job that was acknowledged, seen twice alike and stands so in the store is as it should be."""
    history.observe(shown(status="in_progress"))
    history.observe(shown(result={"a": 1}))
    history.observe(shown(result={"a": 1}))
    report = history.check(calls={digest(): 1}, records={"job_1": record(result='{"a": 1}')})
    assert (report.clean, str(report)) == (True, "no violations")


def test_a_job_that_expired_after_its_end_was_seen_is_not_lost(history: History) -> None:
    """A record may go when its time is over; what it ended as was seen, and what it cost is checked against that."""
    history.observe(shown(attempt=2))
    assert kinds(history, {}, {digest(): 2}) == set()
    assert kinds(history, {}, {digest(): 3}) == {"overpaid"}


@pytest.mark.parametrize("records", [{}, {"job_1": record(status="queued")}, {"job_1": record(status="in_progress")}])
def test_a_job_that_never_ends_is_lost(history: History, records: dict[str, Record]) -> None:
    """Acknowledged and gone, or acknowledged and still to be done when all is over: lost."""
    assert kinds(history, records) == {"lost"}


def test_a_job_that_nobody_submitted_is_unexpected(history: History) -> None:
    """A job or an LLM call with a foreign prompt is unexpected."""
    assert kinds(history, {"job_1": record(), "job_2": record(OTHER)}) == {"unexpected"}
    assert kinds(history, {"job_1": record()}, {digest(): 1, digest(OTHER): 1}) == {"unexpected"}


def test_a_job_that_was_refused_is_unexpected(history: History) -> None:
    """What was refused for sure must neither be made nor paid for; what is unknown may be either."""
    history.refused(OTHER)
    both = {"job_1": record(), "job_2": record(OTHER)}
    assert kinds(history, {"job_1": record()}) == set()
    assert kinds(history, both) == {"unexpected"}
    assert kinds(history, {"job_1": record()}, {digest(): 1, digest(OTHER): 1}) == {"unexpected"}
    history.unknown(OTHER)
    assert history.undecided() == [str(OTHER)]
    assert kinds(history, both, {digest(): 1, digest(OTHER): 1}) == set()


def test_a_second_job_for_one_submit_is_unexpected(history: History) -> None:
    """Without a key each submit may make one job, and no more."""
    both = {"job_1": record(), "job_2": record()}
    assert kinds(history, both) == {"unexpected"}
    history.unknown(PROMPT)
    assert kinds(history, both) == set()


def test_a_second_terminal_state_is_double(history: History) -> None:
    """Two states, two results, two times of ending, or a job that lives again after its end: double."""
    history.observe(shown(result="a"))
    assert kinds(history, {"job_1": record(result='"a"')}) == set()
    assert kinds(history, {"job_1": record(result='"b"')}) == {"double"}
    assert kinds(history, {"job_1": record(result='"a"', finished=1001)}) == {"double"}
    assert kinds(history, {"job_1": record(status="queued")}) == {"double"}
    history.observe(shown(status="cancelled"))
    assert "double" in kinds(history, {})


def test_two_jobs_for_one_key_are_double() -> None:
    """However often a key is repeated, it names one job; also where the second was never acknowledged."""
    history = History()
    history.unknown(PROMPT, key="k")
    history.accepted(PROMPT, "job_1", key="k")
    history.accepted(PROMPT, "job_1", key="k")
    assert kinds(history, {"job_1": record()}) == set()
    assert kinds(history, {"job_1": record(), "job_2": record()}) == {"double"}
    with pytest.raises(ValueError, match="prompt of its own"):
        history.accepted(PROMPT, "job_1", key="other")


def test_a_good_prompt_that_does_not_complete_is_wrongly_failed(history: History) -> None:
    """Only what was said to be bad may fail or be cancelled."""
    failed = record(status="failed", error='{"code": "worker_crashed"}')
    assert kinds(history, {"job_1": failed}) == {"wrongly_failed"}
    bad = History()
    bad.accepted(PROMPT, "job_1", good=False)
    assert kinds(bad, {"job_1": failed}) == set()


@pytest.mark.parametrize(
    ("counted", "allowed"),
    [
        ({}, 1),
        ({"attempt": 2}, 2),
        ({"strikes": 1}, 2),
        ({"attempt": 2, "strikes": 1, "hand_backs": 3}, 6),
    ],
)
def test_more_calls_than_the_record_explains_are_overpaid(
    history: History, counted: dict[str, int], allowed: int
) -> None:
    """Attempts, crashes and hand-backs each explain one call."""
    records = {"job_1": record(**counted)}
    assert kinds(history, records, {digest(): allowed}) == set()
    assert kinds(history, records, {digest(): allowed + 1}) == {"overpaid"}


def test_many_threads_may_record_at_once() -> None:
    """Nothing that any thread tells is forgotten, and twenty thousand jobs are checked at once."""
    history = History()
    prompts = [[{"role": "user", "content": str(number)}] for number in range(20_000)]

    def tell(number: int) -> None:
        history.accepted(prompts[number], f"job_{number}", key=str(number))
        history.observe(shown(f"job_{number}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tell, range(len(prompts))))
    assert len(history.job_ids()) == len(prompts)
    records = {f"job_{number}": record(prompt) for number, prompt in enumerate(prompts)}
    assert history.check(calls={digest(prompt): 1 for prompt in prompts}, records=records).clean
    del records["job_7"]
    records["job_7x"] = record(prompts[7])
    assert set(history.check(calls={}, records=records).violations) == {"double"}
