"""Knative Serving, as it is installed: what needs one of its feature flags is not here."""

from __future__ import annotations

from typing import Any, Final

from tests.manifests.schemas.parts import MAP, PORT, TEXT, kind, record, several

#: Knative Serving 1.22 (knative.dev/serving v0.49.0): config/core/300-resources/service.yaml, version v1; of its fields
#: those that pkg/apis/serving/fieldmask.go lets pass, and the values that k8s_validation.go beside it and
#: v1/revision_validation.go accept, with config/core/configmaps/features.yaml and defaults.yaml as they come.
_COUNT: Final = {"type": "integer", "minimum": 0}
_FALSE: Final = {"const": False}
_TRUE: Final = {"const": True}
_FIELD: Final = record(["name", "key"], name=TEXT, key=TEXT, optional={"type": "boolean"})
_MAP_REFERENCE: Final = record(["name"], name=TEXT, optional={"type": "boolean"})
_QUANTITIES: Final = record([], cpu=TEXT, memory=TEXT)
#: ContainerMask, not VolumeDevices and not Lifecycle: Knative has a preStop hook of its own.
_RESERVED: Final = ["PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION"]
_ENV: Final = {
    "type": "object",
    "properties": {
        "name": {**TEXT, "not": {"enum": _RESERVED}},
        "value": {"type": "string"},
        "valueFrom": {
            "oneOf": [
                record(["secretKeyRef"], secretKeyRef=_FIELD),
                record(["configMapKeyRef"], configMapKeyRef=_FIELD),
            ]
        },
    },
    "required": ["name"],
    "additionalProperties": False,
}
#: A name must be the container port's, which in the pod is another (revision/resources/deploy.go): so a number.
_PROBE: Final = record(
    ["httpGet"],
    httpGet=record(["path"], path=TEXT, port=PORT),
    initialDelaySeconds=_COUNT,
    periodSeconds={"type": "integer", "minimum": 1},
    timeoutSeconds={"type": "integer", "minimum": 1},
    failureThreshold={"type": "integer", "minimum": 1},
    successThreshold={"type": "integer", "minimum": 1},
)
#: SecurityContextMask. There is none of the pod: kubernetes.podspec-securitycontext is off.
_SECURITY: Final = record(
    [],
    allowPrivilegeEscalation={"type": "boolean"},
    capabilities=record([], drop=several(TEXT)),
    privileged=_FALSE,
    readOnlyRootFilesystem={"type": "boolean"},
    runAsGroup=_COUNT,
    runAsNonRoot={"type": "boolean"},
    runAsUser=_COUNT,
    seccompProfile=record(["type"], type=TEXT),
)
#: validateContainerPorts: one, of these names; reservedPorts are queue-proxy's.
_PORT: Final = record(
    ["containerPort"],
    containerPort={**PORT, "not": {"enum": [8008, 8012, 8013, 8022, 9090, 9091]}},
    name={"enum": ["http1", "h2c"]},
    protocol={"const": "TCP"},
)
_CONTAINER: Final = record(
    ["image"],
    name={**TEXT, "not": {"const": "queue-proxy"}},
    args=several(TEXT),
    command=several(TEXT),
    env=several(_ENV),
    envFrom=several(
        {
            "oneOf": [
                record(["configMapRef"], configMapRef=_MAP_REFERENCE),
                record(["secretRef"], secretRef=_MAP_REFERENCE),
            ]
        }
    ),
    image=TEXT,
    imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    livenessProbe=_PROBE,
    ports={"type": "array", "items": _PORT, "minItems": 1, "maxItems": 1},
    readinessProbe=_PROBE,
    resources=record([], requests=_QUANTITIES, limits=_QUANTITIES),
    securityContext=_SECURITY,
    startupProbe=_PROBE,
    volumeMounts=several(record(["name", "mountPath"], name=TEXT, mountPath=TEXT, readOnly=_TRUE, subPath=TEXT)),
)
_VOLUME: Final = record(
    ["name"],
    name=TEXT,
    secret=record(["secretName"], secretName=TEXT),
    configMap=record(["name"], name=TEXT),
    emptyDir=record([], medium={"const": "Memory"}, sizeLimit=TEXT),
)
#: pkg/apis/autoscaling/annotation_validation.go, for Knative's own autoscaler; pkg/apis/serving/register.go.
_ANNOTATIONS: Final = record(
    [],
    **{
        "autoscaling.knative.dev/metric": {"enum": ["concurrency", "rps"]},
        "autoscaling.knative.dev/target": {"type": "string", "pattern": r"^[1-9][0-9]*$"},
        "autoscaling.knative.dev/min-scale": {"type": "string", "pattern": r"^[0-9]+$"},
        "autoscaling.knative.dev/max-scale": {"type": "string", "pattern": r"^[0-9]+$"},
        "autoscaling.knative.dev/scale-down-delay": {"type": "string", "pattern": r"^[0-9]+(s|m)$"},
        "queue.sidecar.serving.knative.dev/cpu-resource-request": TEXT,
        "queue.sidecar.serving.knative.dev/cpu-resource-limit": TEXT,
        "queue.sidecar.serving.knative.dev/memory-resource-request": TEXT,
        "queue.sidecar.serving.knative.dev/memory-resource-limit": TEXT,
    },
)
#: max-revision-timeout-seconds.
_TIMEOUT: Final = {"type": "integer", "minimum": 1, "maximum": 600}
_POD: Final = record(
    ["containers"],
    automountServiceAccountToken=_FALSE,
    containerConcurrency={"type": "integer", "minimum": 0, "maximum": 1000},
    containers={"type": "array", "items": _CONTAINER, "minItems": 1, "maxItems": 1},
    enableServiceLinks={"type": "boolean"},
    idleTimeoutSeconds=_TIMEOUT,
    responseStartTimeoutSeconds=_TIMEOUT,
    serviceAccountName=TEXT,
    timeoutSeconds=_TIMEOUT,
    volumes=several(_VOLUME),
)
_PERCENT: Final = {"type": "integer", "minimum": 0, "maximum": 100}
_TRAFFIC: Final = {
    "oneOf": [
        record(["latestRevision"], latestRevision=_TRUE, percent=_PERCENT, tag=TEXT),
        record(["revisionName"], revisionName=TEXT, percent=_PERCENT, tag=TEXT),
    ]
}


SCHEMAS: Final[dict[tuple[str, str], dict[str, Any]]] = kind(
    "serving.knative.dev/v1",
    "Service",
    record(
        ["template"],
        template=record(
            ["spec"],
            metadata=record([], labels=MAP, annotations=_ANNOTATIONS),
            spec=_POD,
        ),
        traffic=several(_TRAFFIC),
    ),
)
