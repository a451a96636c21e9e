"""Debian's Prometheus on the rules, the dashboard and a real stack.

``tests/system/run`` names this file; its own name keeps it out of ``make test``. It takes Debian's
``prometheus``.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests import processes
from tests.integration.driving import ended, submit, unique
from tests.processes import Stack, end, eventually, free_port
from tests.receiving import Receiver, Reply, register

FOLDER = Path(__file__).parents[2] / "k8s/components/monitoring"
NAME = re.compile(r"\bpromptq_[a-z_]+")
#: What a healthy stack has nothing to tell of, or the same all the time.
STILL = {
    *("promptq_redis_up", "promptq_worker_slots", "promptq_redis_memory_limit_bytes", "promptq_jobs_handed_back_total"),
    "promptq_results_discarded_total",
}


def expressions() -> list[str]:
    """All that the dashboard and the rules ask."""
    board = json.loads((FOLDER / "dashboard.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    rules = yaml.safe_load((FOLDER / "rules.yml").read_text())
    return asked + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def names() -> set[str]:
    """All metrics that they name."""
    return {name for expression in expressions() for name in NAME.findall(expression)}


def test_the_rules_are_what_prometheus_takes() -> None:
    """promtool accepts them, and their own unit tests."""
    for command in (["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]):
        ran = subprocess.run(
            ["promtool", *command], cwd=FOLDER, capture_output=True, text=True, timeout=60, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_each_rule_has_a_test_that_it_passes_and_one_that_it_does_not(tmp_path: Path) -> None:
    """Each alert fires in the unit tests, and a rule that cannot fire fails them."""
    rules = yaml.safe_load((FOLDER / "rules.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    tests = (FOLDER / "rules_test.yml").read_text()
    (tmp_path / "rules_test.yml").write_text(tests)
    for rule in alerts:
        was = rule["expr"]
        rule["expr"] = f"({was}) > 1e12"
        (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
        rule["expr"] = was
        command = ["promtool", "test", "rules", "rules_test.yml"]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode != 0, rule["alert"]
        assert rule["alert"] in ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that is soon full, so that there is something to see."""
    arguments = ("--concurrency", "4", "--simulator-latency", "0.3", "--no-flower")
    # Retries wait for long enough to be seen by a scrape a second.
    settings = {"PROMPTQ_RETRY_IN_SLOT": "0", "PROMPTQ_RETRY_BASE": "5", "PROMPTQ_RETRY_MAX": "5"}
    # On a Redis of its own: workers of other tests would take its jobs, and count them.
    settings |= {"PROMPTQ_WEBHOOK_RETRIES": "2,2", "PROMPTQ_REDIS_URL": ""}
    with processes.stack(tmp_path_factory.mktemp("stack"), *arguments, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """A Prometheus that scrapes the stack each second and evaluates the rules."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    targets = [url.removeprefix("http://").removesuffix("/metrics") for url in stack.metrics]
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(FOLDER / "rules.yml")],
        "scrape_configs": [{"job_name": "promptq", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [
        *("prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=20) as client:
            eventually(lambda: _up(client) == len(targets) or server.poll() is not None, within=40)
            assert server.poll() is None, (folder / "log").read_text()
            yield client
    finally:
        end(server)


def query(client: httpx2.Client, expression: str) -> list[dict[str, Any]]:
    """The samples that an expression gives now."""
    answer = client.get("/query", params={"query": expression})
    assert answer.status_code == 200, (expression, answer.text)
    found: list[dict[str, Any]] = answer.json()["data"]["result"]
    return found


def value(client: httpx2.Client, expression: str) -> float:
    """The one value that an expression gives; 0 where there is none."""
    found = query(client, expression)
    return float(found[0]["value"][1]) if found else 0.0


def _up(client: httpx2.Client) -> float:
    try:
        ready = client.get("/query", params={"query": "1"}).status_code == 200
    except httpx2.HTTPError:
        return 0.0
    return value(client, "sum(up)") if ready else 0.0


@pytest.mark.timeout(300)
def test_what_the_dashboard_and_the_rules_name_is_there_and_moves(stack: Stack, prometheus: httpx2.Client) -> None:
    """Jobs run, wait, fail, are retried, and tell a receiver that is down: each metric that is named exists there, each
    expression can be asked, and all but those that stand still in a healthy stack move."""

    def seen() -> dict[str, float]:
        return {name: value(prometheus, f"sum(max_over_time({name}[2m]))") for name in names()}

    before = seen()
    # A receiver that takes its time: what is being sent is seen by a scrape a second.
    with Receiver(Reply(delay=3)) as receiver, stack.client() as client:
        register(client, receiver)
        made = [
            submit(client, prompt=unique(), model=model, queue=queue)["id"]
            for model in ("sim", "sim-flaky-1", "sim-400", "sim-slow-1")
            for queue in ("interactive", "default", "bulk")
            for _ in range(3)
        ]
        client.post("/v1/responses", json={"model": "sim", "input": unique(), "background": True}).raise_for_status()
        client.get("/v1/jobs/none")
        for job_id in made:
            ended(client, job_id)
        receiver.stop()
        last = submit(client, prompt=unique(), model="sim")["id"]
        ended(client, last)
        client.post("/v1/queues/bulk/pause").raise_for_status()
        eventually(lambda: value(prometheus, "max(promptq_queue_paused)") == 1, within=20)
        client.post("/v1/queues/bulk/resume").raise_for_status()
        missing = eventually(
            lambda: {name for name in names() if not query(prometheus, f"count({name})")},
            lambda found: not found,
            within=40,
        )
        assert missing == set()
        still = eventually(
            lambda: {name for name, now in seen().items() if name not in STILL and not now > before[name]},
            lambda found: not found,
            within=60,
        )
    assert still == set()
    for expression in expressions():
        query(prometheus, expression)


def test_a_healthy_stack_alerts_nobody(prometheus: httpx2.Client, stack: Stack) -> None:
    """The rules are loaded, evaluate without error, and nothing critical is wrong."""
    groups = prometheus.get("/rules").raise_for_status().json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == 14
    assert {rule["health"] for rule in rules} == {"ok"}
    # Neither firing nor about to: they wait for minutes before they fire.
    critical = query(prometheus, 'ALERTS{severity="critical"}')
    assert [one["metric"]["alertname"] for one in critical] == []
