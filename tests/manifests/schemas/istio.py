"""Istio."""

from __future__ import annotations

from typing import Any, Final

from tests.manifests.schemas.parts import DURATION, MAP, PORT, TEXT, kind, record, several

#: istio.io/api 1.28, kubernetes/customresourcedefinitions.gen.yaml, versions v1.
_NETWORKING: Final = "networking.istio.io/v1"
_SECURITY: Final = "security.istio.io/v1"

#: One of them, and no other.
_STRING: Final = {**record([], exact=TEXT, prefix=TEXT, regex=TEXT), "minProperties": 1, "maxProperties": 1}
_LABELS: Final = record(["matchLabels"], matchLabels=MAP)
_MODE: Final = record(["mode"], mode={"enum": ["STRICT", "PERMISSIVE"]})
_DESTINATION: Final = record(["host"], host=TEXT, port=record(["number"], number=PORT), subset=TEXT)
_ROUTE: Final[dict[str, Any]] = {
    **record(
        [],
        name=TEXT,
        match=several(
            record(
                [],
                method=_STRING,
                uri=_STRING,
                headers={
                    "type": "object",
                    "additionalProperties": _STRING,
                    "propertyNames": {"pattern": "^[a-z0-9-]+$"},
                },
            )
        ),
        route=several(record(["destination"], destination=_DESTINATION, weight={"type": "integer", "minimum": 0})),
        delegate=record(["name"], name=TEXT, namespace=TEXT),
        timeout=DURATION,
        retries=record(["attempts"], attempts={"type": "integer", "minimum": 0}, retryOn=TEXT),
    ),
    "oneOf": [{"required": ["route"]}, {"required": ["delegate"]}],
}


SCHEMAS: Final = (
    kind(
        _NETWORKING,
        "Gateway",
        record(
            ["selector", "servers"],
            selector=MAP,
            servers=several(
                record(
                    ["port", "hosts"],
                    port=record(
                        ["number", "name", "protocol"], number=PORT, name=TEXT, protocol={"enum": ["HTTP", "HTTPS"]}
                    ),
                    hosts=several(TEXT),
                    tls=record([], mode={"enum": ["SIMPLE"]}, credentialName=TEXT, httpsRedirect={"type": "boolean"}),
                )
            ),
        ),
    )
    | kind(
        _NETWORKING,
        "VirtualService",
        record(["http"], hosts=several(TEXT), gateways=several(TEXT), http=several(_ROUTE)),
    )
    | kind(
        _NETWORKING,
        "DestinationRule",
        record(
            ["host", "trafficPolicy"],
            host=TEXT,
            trafficPolicy=record([], connectionPool=record([], http=record([], idleTimeout=DURATION))),
        ),
    )
    | kind(
        _SECURITY,
        "PeerAuthentication",
        # Ports need a selector: a rule of the source's own (x-kubernetes-validations).
        {
            **record(
                ["mtls"],
                selector=_LABELS,
                mtls=_MODE,
                portLevelMtls={
                    "type": "object",
                    "additionalProperties": _MODE,
                    "propertyNames": {"pattern": "^[1-9][0-9]{0,4}$"},
                    "minProperties": 1,
                },
            ),
            "dependentRequired": {"portLevelMtls": ["selector"]},
        },
    )
    | kind(
        _SECURITY,
        "AuthorizationPolicy",
        record(
            ["selector", "action", "rules"],
            selector=_LABELS,
            action={"enum": ["ALLOW", "DENY"]},
            rules=several(
                record(
                    [],
                    **{
                        "from": several(
                            record(["source"], source=record([], principals=several(TEXT), notNamespaces=several(TEXT)))
                        )
                    },
                    to=several(record(["operation"], operation=record([], ports=several(TEXT)))),
                )
            ),
        ),
    )
)
