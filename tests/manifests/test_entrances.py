"""The ways in: a Gateway or an Ingress with TLS before the API."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.settings import Settings
from tests.manifests.rendering import ROOT, rendered

GATEWAY, INGRESS = "k8s/tests/production-gateway", "k8s/tests/production-ingress"
MAX_WAIT = Settings().max_wait
#: What a stream takes: the wait for its first event, and the LLM call.
LONGEST = MAX_WAIT + Settings().call_timeout


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("folder", [GATEWAY, INGRESS])
def test_the_api_has_no_load_balancer_of_its_own(folder: str) -> None:
    """There is one way in, and it has TLS."""
    assert {one["spec"].get("type", "ClusterIP") for one in rendered(folder).of("Service")} == {"ClusterIP"}


def test_the_gateway_leads_to_the_api_by_https() -> None:
    """Its certificate is a Secret's; http is redirected and nothing else; whoever waits is waited for, and no request
    is sent twice."""
    found = rendered(GATEWAY)
    (gateway,) = found.of("Gateway")
    listeners = {one["name"]: one for one in gateway["spec"]["listeners"]}
    assert listeners["https"]["tls"]["certificateRefs"] == [{"kind": "Secret", "name": "promptq-tls"}]
    routes = {one["metadata"]["name"]: one["spec"] for one in found.of("HTTPRoute")}
    for route in routes.values():
        (parent,) = route["parentRefs"]
        assert parent["name"] == gateway["metadata"]["name"]
        assert route["hostnames"] == [listeners[parent["sectionName"]]["hostname"]]
    (rule,) = routes["api"]["rules"]
    (backend,) = rule["backendRefs"]
    ports = [port["port"] for port in found.get("Service", backend["name"])["spec"]["ports"]]
    assert backend["port"] in ports
    assert seconds(rule["timeouts"]["request"]) > LONGEST
    assert seconds(rule["timeouts"]["backendRequest"]) > LONGEST
    # Istio repeats what a route says nothing about: who reads the file is told.
    assert "retry" not in rule
    assert "istio" in (ROOT / "k8s/components/gateway/httproute.yaml").read_text()
    assert routes["api-redirect"]["parentRefs"][0]["sectionName"] == "http"
    (redirect,) = routes["api-redirect"]["rules"]
    assert "backendRefs" not in redirect


def test_the_ingress_leads_to_the_api_by_https() -> None:
    """The same, in the words of ingress-nginx; bodies that the API takes are let through to it."""
    found = rendered(INGRESS)
    (ingress,) = found.of("Ingress")
    (rule,), (tls,) = ingress["spec"]["rules"], ingress["spec"]["tls"]
    assert tls["hosts"] == [rule["host"]]
    (path,) = rule["http"]["paths"]
    service = path["backend"]["service"]
    assert service["port"]["name"] in [port["name"] for port in found.get("Service", service["name"])["spec"]["ports"]]
    said: dict[str, Any] = {
        name.removeprefix("nginx.ingress.kubernetes.io/"): value
        for name, value in ingress["metadata"]["annotations"].items()
    }
    assert float(said["proxy-read-timeout"]) > MAX_WAIT
    assert said["proxy-next-upstream"] == "off"
    assert int(said["proxy-body-size"].removesuffix("m")) * 2**20 > max(
        Settings().max_body_bytes, Settings().max_file_bytes
    )
    assert said["proxy-request-buffering"] == "off"
