"""The metrics of every process of a real stack, as Prometheus would scrape them."""

from __future__ import annotations

import re

import httpx2
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.driving import ended, submit, unique
from tests.processes import Stack, eventually

#: Labels whose values are few: names of ours, statuses, error codes, bucket bounds.
BOUNDED = {
    *("method", "route", "status", "endpoint", "queue", "outcome", "kind", "code", "reason", "step", "le"),
}


def scrape(stack: Stack) -> list[Metric]:
    """All metrics of all processes."""
    families: list[Metric] = []
    for url in stack.metrics:
        families += text_string_to_metric_families(httpx2.get(url, timeout=10).raise_for_status().text)
    return families


def total(stack: Stack, name: str, **labels: str) -> float:
    """A sample's value, over all processes and all other labels."""
    samples = [sample for family in scrape(stack) for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def test_every_process_exports_its_metrics(stack: Stack) -> None:
    """API, worker and scheduler each have an address of their own, and what they tell moves when jobs run and fail."""
    assert len(stack.metrics) == 3
    names = {
        "ended": ("promptq_jobs_ended_total", {"status": "completed"}),
        "failed": ("promptq_jobs_ended_total", {"status": "failed"}),
        "calls": ("promptq_llm_call_duration_seconds_count", {"outcome": "ok"}),
        "retries": ("promptq_job_retries_total", {}),
        "tokens": ("promptq_llm_tokens_total", {}),
        "submitted": ("promptq_jobs_submitted_total", {}),
        "dead": ("promptq_dead_letters", {}),
    }

    def reading() -> dict[str, float]:
        return {key: total(stack, name, **labels) for key, (name, labels) in names.items()}

    before = reading()
    with stack.client() as client:
        for model, status in (("sim", "completed"), ("sim-flaky-1", "completed"), ("sim-400", "failed")):
            assert ended(client, submit(client, prompt=unique(), model=model)["id"])["status"] == status
    after = eventually(reading, lambda now: now["ended"] >= before["ended"] + 2)
    moved = {key: after[key] - before[key] for key in after}
    tokens = moved.pop("tokens")
    assert tokens > 0
    assert moved == {"ended": 2, "failed": 1, "calls": 2, "retries": 1, "submitted": 3, "dead": 1}
    assert total(stack, "promptq_worker_slots") > 0
    assert total(stack, "promptq_redis_up") == 1


def test_names_and_labels_follow_the_conventions_of_prometheus(stack: Stack) -> None:
    """promptq_, snake case, counters end in total, no label has values without bound, each metric says what it is."""
    families = scrape(stack)
    assert len(families) > 20
    for family in families:
        assert re.fullmatch(r"promptq_[a-z_]+[a-z]", family.name), family.name
        assert family.documentation.endswith((".", "own")) or ":" in family.documentation, family.name
        for sample in family.samples:
            assert set(sample.labels) <= BOUNDED, sample
            assert family.type != "counter" or sample.name.endswith(("_total", "_created"))
