"""Small schemas of kinds for which no package here has one: the fields that are used, as their source has them.

Each object must have no other field, so that a misspelt one is found.
"""

from __future__ import annotations

from typing import Any, Final


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


_TEXT: Final = {"type": "string", "minLength": 1}
_PORT: Final = {"type": "integer", "minimum": 1, "maximum": 65535}
_DURATION: Final = {"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
_METADATA: Final = _object(
    ["name", "namespace", "labels"],
    name=_TEXT,
    namespace=_TEXT,
    labels={"type": "object"},
    annotations={"type": "object"},
)


def _kind(api_version: str, kind: str, spec: Any) -> dict[str, Any]:
    return _object(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": api_version},
        kind={"const": kind},
        metadata=_METADATA,
        spec=spec,
    )


#: Gateway API 1.4, config/crd/standard/gateway.networking.k8s.io_gateways.yaml and _httproutes.yaml, version v1.
_GATEWAY_API: Final = "gateway.networking.k8s.io/v1"
_REDIRECT: Final = _object(
    ["type", "requestRedirect"],
    type={"const": "RequestRedirect"},
    requestRedirect=_object([], scheme={"enum": ["http", "https"]}, statusCode={"enum": [301, 302]}),
)

SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "Gateway": _kind(
        _GATEWAY_API,
        "Gateway",
        _object(
            ["gatewayClassName", "listeners"],
            gatewayClassName=_TEXT,
            listeners=_list(
                _object(
                    ["name", "port", "protocol"],
                    name=_TEXT,
                    hostname=_TEXT,
                    port=_PORT,
                    protocol={"enum": ["HTTP", "HTTPS", "TLS", "TCP", "UDP"]},
                    tls=_object(
                        [],
                        mode={"enum": ["Terminate", "Passthrough"]},
                        certificateRefs=_list(_object(["name"], kind={"const": "Secret"}, name=_TEXT)),
                    ),
                    allowedRoutes=_object(
                        [], namespaces=_object([], **{"from": {"enum": ["All", "Selector", "Same"]}})
                    ),
                )
            ),
        ),
    ),
    "HTTPRoute": _kind(
        _GATEWAY_API,
        "HTTPRoute",
        _object(
            ["parentRefs", "rules"],
            parentRefs=_list(_object(["name"], name=_TEXT, sectionName=_TEXT)),
            hostnames=_list(_TEXT),
            rules=_list(
                _object(
                    [],
                    matches=_list(
                        _object(
                            [],
                            path=_object(
                                ["value"], type={"enum": ["Exact", "PathPrefix", "RegularExpression"]}, value=_TEXT
                            ),
                        )
                    ),
                    filters=_list(_REDIRECT),
                    backendRefs=_list(_object(["name"], name=_TEXT, port=_PORT, weight={"type": "integer"})),
                    timeouts=_object([], request=_DURATION, backendRequest=_DURATION),
                )
            ),
        ),
    ),
}
