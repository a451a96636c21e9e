"""Who may speak with whom, computed from the rendered NetworkPolicies as Kubernetes reads them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.manifests.rendering import (
    PER_QUEUE,
    PRODUCTION,
    Object,
    Rendered,
    container,
    is_knative,
    labels,
    matches,
    rendered,
)


@dataclass(frozen=True)
class Peer:
    """A pod, in a namespace with labels; or, without labels of its own, an address."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: Mapping[str, str] = field(default_factory=dict)
    address: str = "10.4.5.6"
    ports: Mapping[str, int] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        """Whether the policies are about it."""
        return self.place in ("promptq", "promptq-logging")

    @property
    def place(self) -> str | None:
        """The name of its namespace."""
        return self.namespace.get("kubernetes.io/metadata.name")


def namespace(name: str, **more: str) -> dict[str, str]:
    return {"kubernetes.io/metadata.name": name, **more}


DNS = Peer("dns", {"k8s-app": "kube-dns"}, namespace("kube-system"))
KEDA = Peer("keda", {"app": "keda-operator"}, namespace("keda"))
PROMETHEUS = Peer("prometheus", {"app.kubernetes.io/name": "prometheus"}, namespace("monitoring"))
INGRESS = Peer("ingress", {"app.kubernetes.io/name": "ingress-nginx"}, namespace("ingress-nginx"))
STRANGER = Peer("stranger", {"app": "other"}, namespace("default"))
COLLECTOR = Peer("collector", {"app": "otel-collector"}, namespace("observability"))
LLM = Peer("llm", {"promptq-llm": "true"}, namespace("models", **{"promptq-llm": "true"}))
INTERNET = Peer("internet", address="93.184.216.34")
INTERNET_6 = Peer("internet-6", address="2606:4700::1111")
METADATA = Peer("metadata", address="169.254.169.254")
METADATA_6 = Peer("metadata-6", address="fd00:ec2::254")
PRIVATE = Peer("private", address="192.168.1.1")
#: Istio's ingress gateway, and the addresses from which a node's probes come in its mesh.
GATEWAY = Peer("gateway", {"istio": "ingress"}, namespace("istio-ingress"))
PROBES = Peer("probes", address="169.254.7.127")
PROBES_6 = Peer("probes-6", address="fd16:9254:7127:1337:ffff:ffff:ffff:ffff")
#: Knative Serving 1.22, config/core/deployments/activator.yaml and autoscaler.yaml; only asked about where it is there.
KNATIVE = (
    Peer("activator", {"app": "activator"}, namespace("knative-serving")),
    Peer("autoscaler", {"app": "autoscaler"}, namespace("knative-serving")),
    Peer("kourier", {"app": "3scale-kourier-gateway"}, namespace("kourier-system")),
)
#: What it puts beside the container: pkg/networking/constants.go, pkg/reconciler/revision/resources/queue.go.
QUEUE_PROXY = {
    "queue-port": 8012,
    "https-port": 8112,
    "admin": 8022,
    "http-autometric": 9090,
    "http-usermetric": 9091,
}
OUTSIDE = (
    *(DNS, KEDA, PROMETHEUS, INGRESS, GATEWAY, STRANGER, COLLECTOR, LLM),
    *(INTERNET, INTERNET_6, METADATA, METADATA_6, PRIVATE, PROBES, PROBES_6),
)


def pods(found: Rendered) -> list[Peer]:
    """Our own pods."""
    return [
        Peer(
            one["metadata"]["name"],
            labels(one),
            namespace(one["metadata"]["namespace"]),
            ports=_knative_ports(one)
            if is_knative(one)
            else {port["name"]: port["containerPort"] for port in container(one).get("ports", [])},
        )
        for one in found.all_workloads()
    ]


def _knative_ports(service: Object) -> dict[str, int]:
    (port,) = container(service)["ports"]
    return {"user-port": port["containerPort"], **QUEUE_PROXY}


def allowed(found: Rendered, source: Peer, target: Peer, port: int) -> bool:
    """Whether a TCP connection passes: what the source may call, and who may call the target."""
    return _passes(found, source, target, "Egress", port) and _passes(found, target, source, "Ingress", port)


def _passes(found: Rendered, about: Peer, other: Peer, direction: str, port: int) -> bool:
    if not about.ours:
        return True
    policies = [
        one
        for one in found.of("NetworkPolicy")
        if one["metadata"]["namespace"] == about.place
        and direction in one["spec"]["policyTypes"]
        and matches(one["spec"]["podSelector"], about.labels)
    ]
    assert policies, "the default is to deny, which is a policy as well"
    return any(_rule_allows(rule, direction, about, other, port) for rule in _rules(policies, direction))


def _rules(policies: list[Object], direction: str) -> Iterator[Object]:
    for policy in policies:
        yield from policy["spec"].get(direction.lower(), [])


def _rule_allows(rule: Object, direction: str, about: Peer, other: Peer, port: int) -> bool:
    peers = rule.get("from" if direction == "Ingress" else "to")
    if peers is not None and not any(_is(peer, about, other) for peer in peers):
        return False
    target = about if direction == "Ingress" else other
    ports = rule.get("ports")
    return ports is None or any(_port(one["port"], target) == port for one in ports if one["protocol"] == "TCP")


def _port(named: Any, target: Peer) -> int | None:
    return target.ports.get(named) if isinstance(named, str) else named


def _within(address: Any, network: str) -> bool:
    return address in ipaddress.ip_network(network)


def _is(peer: Object, about: Peer, other: Peer) -> bool:
    if "ipBlock" in peer:
        address = ipaddress.ip_address(other.address)
        inside, without = peer["ipBlock"]["cidr"], peer["ipBlock"].get("except", [])
        return _within(address, inside) and not any(_within(address, one) for one in without)
    if not other.labels:
        return False
    if "namespaceSelector" in peer:
        if not matches(peer["namespaceSelector"], other.namespace):
            return False
    elif other.place != about.place:
        return False
    return matches(peer.get("podSelector", {}), other.labels)


def connections(folder: str) -> set[tuple[str, str, int]]:
    """All that may be opened between our pods, and from and to others, at the ports that matter."""
    found = rendered(folder)
    everybody = [*pods(found), *OUTSIDE, *(KNATIVE if any(map(is_knative, found.workloads())) else ())]
    others = {53, 80, 443, 4318, 5601, 6379, 8080, 9200, 15008, 26379}
    ports = sorted({port for one in pods(found) for port in one.ports.values()} | others)
    return {
        (source.name, target.name, port)
        for source in everybody
        for target in everybody
        for port in ports
        if source is not target and (source.ours or target.ours) and allowed(found, source, target, port)
    }


OUR_OWN = ("api", "worker", "scheduler", "flower")
EXPECTED = {
    *((name, "dns", 53) for name in (*OUR_OWN, "redis")),
    *((name, "redis", 6379) for name in OUR_OWN),
    *((source, "api", 8000) for source in ("keda", "prometheus", "ingress", "stranger", "llm", "internet", "dns")),
    *((source, "api", 8000) for source in ("metadata", "metadata-6", "private", "internet-6", "collector")),
    *((source, "api", 8000) for source in ("gateway", "probes", "probes-6")),
    ("prometheus", "api", 9100),
    ("prometheus", "worker", 9100),
    ("prometheus", "scheduler", 9100),
    ("ingress", "flower", 5555),
    *((source, target, 443) for source in ("api", "worker") for target in ("internet", "internet-6")),
    ("keda", "redis", 6379),
}


def test_nobody_speaks_with_anybody_but_those_who_must() -> None:
    """Each connection that is possible is one that somebody needs, and the other way round."""
    assert connections(PRODUCTION) == EXPECTED


def test_an_llm_in_the_cluster_is_reached_by_those_who_call_it() -> None:
    """With the component, API and workers reach labelled pods in labelled namespaces, and nobody else does."""
    more = connections("k8s/tests/production-in-cluster-llm") - EXPECTED
    assert {(source, target) for source, target, _ in more} == {("api", "llm"), ("worker", "llm")}


def test_the_collector_is_reached_by_those_who_trace() -> None:
    """With the component, API and workers reach it at OTLP's port, or in a tunnel of Istio's, are told where it is, and
    nobody else does."""
    without: set[tuple[str, str, int]]
    for folder, without, tracing in (
        ("k8s/tests/production-tracing", EXPECTED, {"api", "worker"}),
        ("k8s/tests/production-knative-tracing", connections("k8s/tests/production-knative"), {"api", "worker"}),
        (
            "k8s/tests/production-istio-monitoring-tracing",
            connections("k8s/tests/production-istio"),
            {"api", "api-next", "worker"},
        ),
    ):
        more = {(name, "collector", port) for name in tracing for port in (4318, 15008)}
        assert connections(folder) - without == more
        assert without <= connections(folder)
        for name in tracing:
            _is_told_where_to_trace(rendered(folder), name)


def _is_told_where_to_trace(found: Rendered, name: str) -> None:
    settings = found.settings(found.workload(name))
    assert settings["PROMPTQ_TRACING"] == "true"
    assert settings["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel-collector.observability:4318"


def test_workers_of_their_own_have_the_same_rights() -> None:
    """Each Deployment of workers speaks with the same as the one for all."""
    found = connections(PER_QUEUE)
    for name in ("worker-interactive", "worker-default", "worker-bulk"):
        its = {(source.replace(name, "worker"), target.replace(name, "worker"), port) for source, target, port in found}
        assert {one for one in EXPECTED if "worker" in one} <= its


def test_flower_reaches_who_says_who_somebody_is() -> None:
    """With the component for OAuth Flower reaches the internet, and nothing else than before."""
    assert connections("k8s/tests/production-flower-oauth") - EXPECTED == {
        ("flower", "internet", 443),
        ("flower", "internet-6", 443),
    }


@pytest.mark.parametrize("folder", ["k8s/tests/production-external-redis", "k8s/tests/production-sentinel"])
def test_a_redis_outside_is_reached(folder: str) -> None:
    """Everybody who needs Redis reaches it at private addresses, and no metadata service."""
    found = connections(folder)
    for name in OUR_OWN:
        assert (name, "private", 6379) in found
        assert not any(source == name and target.startswith("metadata") for source, target, _ in found)


def test_knative_is_reached_by_its_proxy_alone() -> None:
    """Everybody may send requests to queue-proxy, nobody past it; the autoscaler alone asks it for its numbers, and
    Prometheus alone us for ours. All else is as without Knative."""
    outside = {source for source, target, port in EXPECTED if (target, port) == ("api", 8000)}
    assert connections("k8s/tests/production-knative") == {
        *(one for one in EXPECTED if one[1:] != ("api", 8000)),
        *((source, "api", port) for source in outside | {one.name for one in KNATIVE} for port in (8012, 8112)),
        ("autoscaler", "api", 9090),
    }


def test_logs_go_to_elasticsearch_alone() -> None:
    """With an Elasticsearch that is elsewhere, Fluent Bit reaches it at its ports, and the setup Job Kibana, too; no
    metadata service; nobody reaches either of them, and what PromptQ's own pods may do is the same as before."""
    more = connections("k8s/tests/production-logging")
    assert more >= EXPECTED
    for source, target, port in more - EXPECTED:
        assert source in ("fluent-bit", "logging-setup")
        assert target == "dns" or not target.startswith("metadata")
        assert port in {53, 443, 9200, *([5601] if source == "logging-setup" else [])}
    for target, port in (("private", 9200), ("internet", 443), ("dns", 53)):
        assert {("fluent-bit", target, port), ("logging-setup", target, port)} <= more
    assert ("logging-setup", "private", 5601) in more


def test_with_an_elasticsearch_of_its_own_the_logs_stay_inside() -> None:
    """Each of the four reaches whom it must, and nothing outside; what PromptQ's own pods may do is the same."""
    assert connections("k8s/tests/production-logging-elastic") - EXPECTED == {
        *((name, "dns", 53) for name in ("fluent-bit", "logging-setup", "elasticsearch", "kibana")),
        *((name, "elasticsearch", 9200) for name in ("fluent-bit", "logging-setup", "kibana")),
        ("logging-setup", "kibana", 5601),
    }
