"""Gateway API."""

from __future__ import annotations

from typing import Final

from tests.manifests.schemas.parts import DURATION, PORT, TEXT, kind, record, several

#: Gateway API 1.4, config/crd/standard/gateway.networking.k8s.io_gateways.yaml and _httproutes.yaml, version v1.
_GATEWAY_API: Final = "gateway.networking.k8s.io/v1"
_REDIRECT: Final = record(
    ["type", "requestRedirect"],
    type={"const": "RequestRedirect"},
    requestRedirect=record([], scheme={"enum": ["http", "https"]}, statusCode={"enum": [301, 302]}),
)


SCHEMAS: Final = kind(
    _GATEWAY_API,
    "Gateway",
    record(
        ["gatewayClassName", "listeners"],
        gatewayClassName=TEXT,
        listeners=several(
            record(
                ["name", "port", "protocol"],
                name=TEXT,
                hostname=TEXT,
                port=PORT,
                protocol={"enum": ["HTTP", "HTTPS", "TLS", "TCP", "UDP"]},
                tls=record(
                    [],
                    mode={"enum": ["Terminate", "Passthrough"]},
                    certificateRefs=several(record(["name"], kind={"const": "Secret"}, name=TEXT)),
                ),
                allowedRoutes=record([], namespaces=record([], **{"from": {"enum": ["All", "Selector", "Same"]}})),
            )
        ),
    ),
) | kind(
    _GATEWAY_API,
    "HTTPRoute",
    record(
        ["parentRefs", "rules"],
        parentRefs=several(record(["name"], name=TEXT, sectionName=TEXT)),
        hostnames=several(TEXT),
        rules=several(
            record(
                [],
                matches=several(
                    record(
                        [],
                        path=record(["value"], type={"enum": ["Exact", "PathPrefix", "RegularExpression"]}, value=TEXT),
                    )
                ),
                filters=several(_REDIRECT),
                backendRefs=several(record(["name"], name=TEXT, port=PORT, weight={"type": "integer"})),
                timeouts=record([], request=DURATION, backendRequest=DURATION),
            )
        ),
    ),
)
