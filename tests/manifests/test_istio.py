"""Istio: who must have a certificate, which release of the API a request goes to, and what may be sent twice.

The rules of routes are Istio 1.28's: pilot/pkg/model/virtualservice.go (delegates), pilot/pkg/networking/core/route.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest

from api.app import create_app
from api.openapi import document
from jobs import __version__
from jobs.settings import Settings
from tests.manifests.rendering import PRODUCTION, ROOT, Object, Rendered, container, labels, matches, rendered
from tests.manifests.test_policies import EXPECTED, OUTSIDE, connections

ISTIO, SENTINEL = "k8s/tests/production-istio", "k8s/tests/production-istio-sentinel"
NETWORKING = "networking.istio.io/v1"
HOST = "promptq.example.com"
TUNNEL = 15008
#: What Istio does with a route that says nothing of retries (pilot/pkg/networking/core/route/retry/retry.go).
BY_ITSELF = {"attempts": 2, "retryOn": "connect-failure,refused-stream,unavailable,cancelled,503"}
KEY, NEXT = {"idempotency-key": "order-4711"}, {"x-promptq-version": "next"}
#: Those who get an answer of the API's.
FROM_OUTSIDE, FROM_SIDECARS = (HOST, "promptq"), ("api", "mesh")


@dataclass(frozen=True)
class Sent:
    """What becomes of a request."""

    weights: Mapping[str, int]
    attempts: int
    retried_on: frozenset[str]
    timeout: float


def of(found: Rendered, kind: str, api_version: str = NETWORKING) -> list[Object]:
    """Istio's objects of a kind: Gateway API has a Gateway, too."""
    return [one for one in found.of(kind) if one["apiVersion"] == api_version]


def routes(found: Rendered, host: str, gateway: str) -> list[dict[str, Any]]:
    """The routes of a host at a gateway, in their order; those of a delegate in the place of the one that names it."""
    services = {one["metadata"]["name"]: one["spec"] for one in of(found, "VirtualService")}
    (root,) = [
        one for one in services.values() if host in one.get("hosts", []) and gateway in one.get("gateways", ["mesh"])
    ]
    merged = []
    for route in root["http"]:
        if "delegate" not in route:
            merged.append(route)
            continue
        delegate = services[route["delegate"]["name"]]
        assert not {"hosts", "gateways"} & delegate.keys(), "a delegate has none of its own"
        for inner in delegate["http"]:
            outer = {name: value for name, value in route.items() if name != "delegate"}
            merged.append({**outer, **inner, "match": both(route.get("match", []), inner.get("match", []))})
    return merged


def both(outer: list[Any], inner: list[Any]) -> list[Any]:
    """The matches of a route and its delegate's, merged; what is in both would be a conflict."""
    if not outer or not inner:
        return outer or inner
    for one, other in product(outer, inner):
        assert not (one.keys() & other.keys()) - {"headers"}
        assert not one.get("headers", {}).keys() & other.get("headers", {}).keys()
    return [
        {**one, **other, "headers": one.get("headers", {}) | other.get("headers", {})}
        for one, other in product(outer, inner)
    ]


def text_matches(rule: Object, value: str | None) -> bool:
    """A StringMatch; Envoy's expressions match the whole."""
    if value is None:
        return False
    ((how, wanted),) = rule.items()
    if how == "regex":
        return re.fullmatch(wanted, value) is not None
    return value == wanted if how == "exact" else value.startswith(wanted)


def applies(match: Object, method: str, path: str, headers: Mapping[str, str]) -> bool:
    """Whether one of a route's matches takes the request: all that it names must hold."""
    assert match.keys() <= {"method", "uri", "headers"}
    given = {"method": method, "uri": path}
    return all(text_matches(match[name], given[name]) for name in match.keys() & given.keys()) and all(
        text_matches(rule, headers.get(name)) for name, rule in match.get("headers", {}).items()
    )


def sent(
    method: str, path: str, headers: Mapping[str, str], at: tuple[str, str] = FROM_OUTSIDE, folder: str = ISTIO
) -> Sent:
    """Where a request goes, and when it is sent again: by the first route that takes it."""
    for route in routes(rendered(folder), *at):
        named = route.get("match", [])
        if not named or any(applies(one, method, path, headers) for one in named):
            retries = route.get("retries", BY_ITSELF)
            return Sent(
                {one["destination"]["host"]: one.get("weight", 100) for one in route["route"]},
                retries["attempts"],
                frozenset(retries.get("retryOn", "").split(",")) if retries["attempts"] else frozenset(),
                float(route["timeout"].removesuffix("s")),
            )
    raise AssertionError(f"nobody takes {method} {path}")


def requests() -> list[tuple[str, str, bool]]:
    """Each method and path of the API, and whether it takes an Idempotency-Key."""
    app = create_app(Settings())
    said = document(app)["paths"]
    found = []
    for rule in app.url_map.iter_rules():
        documented = said.get(re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), {})
        for method in sorted(rule.methods or ()):
            headers = [one["name"] for one in documented.get(method.lower(), {}).get("parameters", [])]
            path = re.sub(r"<path:\w+>", "a/b", rule.rule)
            found.append((method, re.sub(r"<\w+>", "x_1", path), "Idempotency-Key" in headers))
    return found


REQUESTS = requests()
each_way_in = pytest.mark.parametrize("at", [FROM_OUTSIDE, FROM_SIDECARS], ids=["outside", "sidecars"])


def test_the_requests_are_those_of_the_api() -> None:
    """The doors that make a job, a batch or a file take a key, and no others do."""
    assert {path for _, path, keyed in REQUESTS if keyed} == {
        *("/generate", "/v1/jobs", "/v1/responses"),
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings"),
        *("/v1/files", "/v1/batches"),
    }
    assert {"GET", "HEAD", "POST", "DELETE", "OPTIONS"} == {method for method, _, _ in REQUESTS}


@each_way_in
@pytest.mark.parametrize("folder", [ISTIO, SENTINEL])
@pytest.mark.parametrize("headers", [{}, NEXT, {"idempotency-key": ""}])
def test_nothing_without_a_key_is_sent_twice(headers: Mapping[str, str], folder: str, at: tuple[str, str]) -> None:
    """Whatever the path, also one that the API does not have: only GET and HEAD may be repeated."""
    others = [(method, "/v1/anything") for method in ("POST", "PUT", "PATCH", "DELETE", "get")]
    for method, path in [*((method, path) for method, path, _ in REQUESTS), *others]:
        if method not in ("GET", "HEAD"):
            assert sent(method, path, headers, at, folder).attempts == 0, (method, path)


def test_what_a_key_makes_safe_is_sent_again() -> None:
    """A POST that makes a job, with a key; not one that ignores the key and would act twice."""
    for method, path, keyed in REQUESTS:
        if method not in ("GET", "HEAD"):
            assert (sent(method, path, KEY).attempts > 0) is keyed, (method, path)


def test_reads_are_sent_again_where_no_answer_came() -> None:
    """After a lost connection; never for a status, since that is the API's answer, and a 504 took five minutes."""
    for method, path, keyed in REQUESTS:
        if method in ("GET", "HEAD") or keyed:
            found = sent(method, path, KEY)
            assert found.attempts == 2
            assert found.retried_on == {"connect-failure", "refused-stream", "reset"}


@each_way_in
def test_whoever_waits_is_waited_for(at: tuple[str, str]) -> None:
    """Longer than PROMPTQ_MAX_WAIT and a stream's LLM call together, on every route, and no single try is shorter."""
    for route in routes(rendered(ISTIO), *at):
        assert float(route["timeout"].removesuffix("s")) > Settings().max_wait + Settings().call_timeout
        assert "perTryTimeout" not in route["retries"]


@each_way_in
def test_a_tenth_goes_to_the_new_release(at: tuple[str, str]) -> None:
    """And all of those who ask for it by header, with the same retries as the others."""
    for method, path, _ in REQUESTS:
        for headers in ({}, KEY):
            shared, asked = sent(method, path, headers, at), sent(method, path, headers | NEXT, at)
            assert shared.weights == {"api": 90, "api-next": 10}
            assert asked.weights == {"api-next": 100}
            assert (asked.attempts, asked.timeout) == (shared.attempts, shared.timeout)
            assert sent(method, path, {**headers, "x-promptq-version": "other"}, at) == shared


def test_the_weights_have_one_place() -> None:
    """They stand in one route of one object, and are a hundred together; docs/deploy/istio.md patches that place."""
    weighted = [
        (one["metadata"]["name"], place, [to["weight"] for to in route["route"]])
        for one in of(rendered(ISTIO), "VirtualService")
        for place, route in enumerate(one["spec"]["http"])
        if any("weight" in to for to in route.get("route", []))
    ]
    ((name, place, weights),) = weighted
    assert (name, sum(weights)) == ("versions", 100)
    page = (ROOT / "docs/deploy/istio.md").read_text()
    for index in range(len(weights)):
        assert f"/spec/http/{place}/route/{index}/weight" in page


def test_routes_lead_to_services_that_are_there() -> None:
    """Each destination is a Service with that port, and each has a rule for its connections."""
    found = rendered(ISTIO)
    services = {one["metadata"]["name"]: one["spec"] for one in found.of("Service")}
    ends = {
        (to["destination"]["host"], to["destination"]["port"]["number"])
        for at in (FROM_OUTSIDE, FROM_SIDECARS)
        for route in routes(found, *at)
        for to in route["route"]
    }
    for host, port in ends:
        (only,) = services[host]["ports"]
        # By its name Istio knows that it is HTTP.
        assert (only["port"], only["name"]) == (port, "http")
    assert {one["spec"]["host"] for one in of(found, "DestinationRule")} == {host for host, _ in ends}


def test_the_api_never_closes_a_connection_that_is_in_use() -> None:
    """The gateway gives up idle connections first: a POST on one that the API closes is lost, and not sent again."""
    (keepalive,) = re.findall(r"^keepalive = (\d+)$", (ROOT / "api/gunicorn_conf.py").read_text(), re.MULTILINE)
    for rule in of(rendered(ISTIO), "DestinationRule"):
        policy = rule["spec"]["trafficPolicy"]
        assert float(policy["connectionPool"]["http"]["idleTimeout"].removesuffix("s")) < float(keepalive)
        assert "tls" not in policy, "it would go before the mesh's own"


def test_there_is_one_way_in_and_it_has_tls() -> None:
    """The gateway's certificate is a Secret's, http is redirected and nothing else, and the API has no load balancer of
    its own."""
    found = rendered(ISTIO)
    assert {one["spec"].get("type", "ClusterIP") for one in found.of("Service")} == {"ClusterIP"}
    (gateway,) = of(found, "Gateway")
    servers = {one["port"]["number"]: one for one in gateway["spec"]["servers"]}
    assert servers[443]["tls"] == {"mode": "SIMPLE", "credentialName": "promptq-tls"}
    assert servers[80]["tls"] == {"httpsRedirect": True}
    assert {host for one in servers.values() for host in one["hosts"]} == {HOST}
    assert routes(found, HOST, gateway["metadata"]["name"])


def test_the_new_release_differs_in_nothing_else() -> None:
    """Another image and another account; the first API, with all that belongs to it, is as it was."""
    found, before = rendered(ISTIO), rendered(PRODUCTION)
    for kind in ("Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget"):
        assert found.get(kind, "api") == before.get(kind, "api")
        its, other = found.get(kind, "api")["spec"], found.get(kind, "api-next")["spec"]
        if kind == "Deployment":
            assert its["template"]["spec"]["serviceAccountName"] == "api"
            assert other["template"]["spec"]["serviceAccountName"] == "api-next"
        else:
            assert renamed(other) == its
    first, second = found.get("Deployment", "api"), found.get("Deployment", "api-next")
    assert container(first)["image"] == f"promptq/api:{__version__}"
    assert container(second)["image"] == "registry.example.com/team/promptq-api:0.2.0"
    as_first = {**container(second), "image": container(first)["image"]}
    assert as_first == container(first)
    (service,) = [one for one in found.of("Service") if one["metadata"]["name"] == "api"]
    assert not service["spec"]["selector"].items() <= labels(second).items()


def test_both_releases_are_scraped() -> None:
    """Prometheus's operator finds the second by its own label, so that the two are told apart."""
    found = rendered("k8s/tests/production-istio-monitoring-tracing")
    (monitor,) = found.of("PodMonitor")
    for name in ("api", "api-next"):
        assert matches(monitor["spec"]["selector"], labels(found.get("Deployment", name)))


def renamed(value: Any) -> Any:
    """The same of the first API."""
    if isinstance(value, dict):
        return {name: renamed(one) for name, one in value.items()}
    if isinstance(value, list):
        return [renamed(one) for one in value]
    return "api" if value == "api-next" else value


def plain(found: Rendered, workload: Object, port: int) -> bool:
    """Whether a pod takes a connection without a certificate: its own PeerAuthentication, or else the namespace's."""
    policies = [one["spec"] for one in found.of("PeerAuthentication")]
    own = [one for one in policies if "selector" in one and matches(one["selector"], labels(workload))]
    # Of two that select it Istio takes the older, which nobody can tell from here.
    assert len(own) <= 1
    (policy,) = own or [one for one in policies if "selector" not in one]
    mode = policy.get("portLevelMtls", {}).get(str(port), policy["mtls"])["mode"]
    return bool(mode == "PERMISSIVE")


def test_all_must_have_a_certificate_but_those_who_cannot() -> None:
    """KEDA at Redis and Prometheus at the metrics: they are not in the mesh. At every other port of every pod nobody is
    let in without."""
    found = rendered(ISTIO)
    assert found.get("Namespace", "promptq")["metadata"]["labels"]["istio.io/dataplane-mode"] == "ambient"
    outside = {one.name for one in OUTSIDE}
    needed = {
        (target, port)
        for source, target, port in connections(PRODUCTION)
        if source in ("keda", "prometheus") and target not in outside and port != 8000
    }
    needed.add(("api-next", 9100))
    taken = {
        (workload["metadata"]["name"], port["containerPort"])
        for workload in found.workloads()
        for port in container(workload)["ports"]
        if plain(found, workload, port["containerPort"])
    }
    assert taken == needed


@pytest.mark.parametrize(
    ("namespace", "port", "refused"),
    [
        ("monitoring", 9100, False),
        ("default", 9100, True),
        ("promptq", 9100, True),
        ("istio-ingress", 9100, True),
        ("default", 8000, False),
        ("istio-ingress", 8000, False),
        # Not in the mesh: the NetworkPolicy's affair.
        (None, 9100, False),
    ],
)
def test_metrics_are_prometheuss_in_the_tunnel_too(namespace: str | None, port: int, refused: bool) -> None:
    """A NetworkPolicy sees port 15008 alone: in the mesh it is Istio that keeps others from the port for metrics."""
    found = rendered(ISTIO)
    for workload in found.workloads():
        assert denied(found, workload, namespace, port) is refused


def denied(found: Rendered, workload: Object, namespace: str | None, port: int) -> bool:
    """Whether an AuthorizationPolicy refuses a connection, from a pod of the mesh in a namespace or from elsewhere."""
    for policy in found.of("AuthorizationPolicy"):
        spec = policy["spec"]
        assert spec["action"] == "DENY"
        if not matches(spec["selector"], labels(workload)):
            continue
        for rule in spec["rules"]:
            (source,), (operation,) = rule["from"], rule["to"]
            assert source["source"]["principals"] == ["*"]
            known = namespace is not None and namespace not in source["source"]["notNamespaces"]
            if known and str(port) in operation["operation"]["ports"]:
                return True
    return False


def test_who_speaks_with_whom_is_as_before() -> None:
    """The second API has the first one's rights; each connection to one of our pods may also go through the tunnel, and
    no other may; the node's probes reach all."""
    probes = {"probes", "probes-6"}
    found = {one for one in connections(ISTIO) if one[0] not in probes}
    own = {one["metadata"]["name"] for one in rendered(ISTIO).workloads()}
    before = {one for one in EXPECTED if one[0] not in probes}
    before |= {
        tuple("api-next" if part == "api" else part for part in one)
        for one in before
        if "api" in one  # type: ignore[misc]
    }
    assert found == before | {(source, target, TUNNEL) for source, target, _ in before if target in own}
    probed = {(source, target) for source, target, _ in connections(ISTIO) if source in probes}
    assert probed == set(product(probes, own))


def test_the_gateway_reaches_both_and_nothing_else() -> None:
    """Its pods are in a namespace of their own."""
    reached = {(target, port) for source, target, port in connections(ISTIO) if source == "gateway"}
    assert reached == {(name, port) for name in ("api", "api-next") for port in (8000, TUNNEL)}
