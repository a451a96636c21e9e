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
_MAP: Final = {"type": "object", "additionalProperties": {"type": "string"}}
_METADATA: Final = _object(["name", "namespace", "labels"], name=_TEXT, namespace=_TEXT, labels=_MAP, annotations=_MAP)


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

#: Argo CD 3.2, manifests/crds/applicationset-crd.yaml, version v1alpha1.
_REQUIREMENT: Final = _object(["key", "operator"], key=_TEXT, operator={"enum": ["In", "NotIn"]}, values=_list(_TEXT))
_APPLICATION: Final = _object(
    ["project", "source", "destination"],
    project=_TEXT,
    source=_object(["repoURL"], repoURL=_TEXT, targetRevision=_TEXT, path=_TEXT),
    destination=_object([], server=_TEXT, namespace=_TEXT),
    ignoreDifferences=_list(_object(["kind"], group=_TEXT, kind=_TEXT, jsonPointers=_list(_TEXT))),
    syncPolicy=_object(
        [],
        automated=_object([], prune={"type": "boolean"}, selfHeal={"type": "boolean"}),
        syncOptions=_list({"enum": ["ServerSideApply=true", "RespectIgnoreDifferences=true"]}),
    ),
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
    "ApplicationSet": _kind(
        "argoproj.io/v1alpha1",
        "ApplicationSet",
        _object(
            ["generators", "template"],
            goTemplate={"type": "boolean"},
            goTemplateOptions=_list(_TEXT),
            generators=_list(_object(["clusters"], clusters=_object([], selector=_object([], matchLabels=_MAP)))),
            strategy=_object(
                [],
                type={"enum": ["AllAtOnce", "RollingSync"]},
                rollingSync=_object(
                    ["steps"],
                    steps=_list(
                        _object([], matchExpressions=_list(_REQUIREMENT), maxUpdate={"type": ["integer", "string"]})
                    ),
                ),
            ),
            template=_object(
                ["metadata", "spec"], metadata=_object(["name"], name=_TEXT, labels=_MAP), spec=_APPLICATION
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
