"""The dashboard and the alerts name metrics that the processes export, everywhere the same."""

from __future__ import annotations

import json
import re

import yaml

from api.metrics import Metrics
from jobs.queue_control import QueueState, Totals
from tests.manifests.alerts import FOLDER, prometheus_rule
from tests.manifests.rendering import PRODUCTION, ROOT, container, labels, matches, rendered
from worker.metrics import SchedulerMetrics, WorkerMetrics

MONITORED = "k8s/tests/monitoring"
NAME = re.compile(r"\bpromptq_[a-z_]+")


class Still:
    """Queues in which nothing happens."""

    def states(self) -> list[QueueState]:
        return [QueueState("default", False, 0, 0, None, None)]

    def totals(self) -> Totals:
        return Totals(0, {"default": 0}, 0, 0, 0, 0, {"completed": 1}, 1, 0)


def exported() -> set[str]:
    """The names of all samples that API, worker and scheduler can export."""
    scheduler = SchedulerMetrics()
    scheduler.watch(Still())  # type: ignore[arg-type]
    families = [
        *Metrics()._registry.collect(),
        *WorkerMetrics().registry.collect(),
        *scheduler.registry.collect(),
    ]
    names = set()
    for family in families:
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


def test_the_dashboard_asks_for_what_is_exported() -> None:
    """Each expression names metrics that exist, and all that the issue of sight is about is asked for."""
    board = json.loads((FOLDER / "dashboard.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel.get("targets", [])
        for name in NAME.findall(target["expr"])
    }
    assert asked <= exported()
    # Nothing is exported that nobody looks at, but for what Prometheus itself is watched by.
    unseen = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exported() - asked}
    seen = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked}
    assert unseen - seen <= {
        *("promptq_scheduler_ticks_total", "promptq_scheduler_last_tick_timestamp_seconds", "promptq_queue_paused"),
        "promptq_queue_running_jobs",
    }


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    """Panels have ids and places of their own, targets a data source that whoever looks chooses."""
    board = json.loads((FOLDER / "dashboard.json").read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 25
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["type"] == "row" or panel["targets"]
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
    (variable,) = board["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")


def test_alerts_ask_for_what_is_exported_and_say_what_to_do() -> None:
    """Each names metrics that exist, a severity, and what it means and what to do."""
    rules = [rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 12
    for rule in rules:
        names = set(NAME.findall(rule["expr"]))
        assert names
        assert names <= exported(), rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert len(rule["annotations"]["description"]) > 60
        assert rule["annotations"]["summary"].endswith(".")


def test_the_cluster_has_the_same_alerts() -> None:
    """The operator's object is rules.yml word for word: python -m tests.manifests.alerts"""
    assert (FOLDER / "prometheusrule.yaml").read_text() == prometheus_rule()
    (rule,) = rendered(MONITORED).of("PrometheusRule")
    assert rule["spec"] == yaml.safe_load((FOLDER / "rules.yml").read_text())


def test_the_cluster_has_the_same_dashboard() -> None:
    """Grafana's sidecar finds it by its label."""
    found = rendered(MONITORED).get("ConfigMap", "promptq-dashboard")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["data"]["promptq.json"] == (FOLDER / "dashboard.json").read_text()


def test_each_process_that_exports_is_scraped() -> None:
    """The monitor selects API, workers and scheduler, by a port that they have; nobody else."""
    (monitor,) = rendered(MONITORED).of("PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for workload in rendered(PRODUCTION).workloads():
        exports = any(port["name"] == endpoint["port"] for port in container(workload)["ports"])
        assert matches(monitor["spec"]["selector"], labels(workload)) is exports


def test_compose_has_the_same_rules_and_dashboard() -> None:
    """The very files of the component are mounted."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert "./k8s/components/monitoring/rules.yml:/etc/prometheus/rules.yml:ro" in services["prometheus"]["volumes"]
    board = "./k8s/components/monitoring/dashboard.json:/etc/grafana/dashboards/promptq.json:ro"
    assert board in services["grafana"]["volumes"]
    assert yaml.safe_load((ROOT / "compose/prometheus.yml").read_text())["rule_files"] == ["rules.yml"]
    provider = yaml.safe_load((ROOT / "compose/grafana/dashboards.yml").read_text())["providers"][0]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
