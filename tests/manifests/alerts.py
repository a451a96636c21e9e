"""``python -m tests.manifests.alerts``: write the PrometheusRule anew from rules.yml, which Prometheus itself reads."""

from __future__ import annotations

from tests.manifests.rendering import ROOT

FOLDER = ROOT / "k8s/components/monitoring"


def prometheus_rule() -> str:
    """The operator's object, with the groups of rules.yml in it, word for word."""
    file = (FOLDER / "prometheusrule.yaml").read_text()
    head = file[: file.index("spec:\n") + len("spec:\n")]
    rules = (FOLDER / "rules.yml").read_text()
    groups = rules[rules.index("groups:\n") :].splitlines()
    return head + "".join(f"  {line}\n" if line else "\n" for line in groups)


if __name__ == "__main__":
    (FOLDER / "prometheusrule.yaml").write_text(prometheus_rule())
