"""Argo CD."""

from __future__ import annotations

from typing import Final

from tests.manifests.schemas.parts import MAP, TEXT, kind, record, several

#: Argo CD 3.2, manifests/crds/applicationset-crd.yaml, version v1alpha1.
_REQUIREMENT: Final = record(["key", "operator"], key=TEXT, operator={"enum": ["In", "NotIn"]}, values=several(TEXT))
_APPLICATION: Final = record(
    ["project", "source", "destination"],
    project=TEXT,
    source=record(["repoURL"], repoURL=TEXT, targetRevision=TEXT, path=TEXT),
    destination=record([], server=TEXT, namespace=TEXT),
    ignoreDifferences=several(record(["kind"], group=TEXT, kind=TEXT, jsonPointers=several(TEXT))),
    syncPolicy=record(
        [],
        syncOptions=several({"enum": ["ServerSideApply=true", "RespectIgnoreDifferences=true"]}),
    ),
)


SCHEMAS: Final = kind(
    "argoproj.io/v1alpha1",
    "ApplicationSet",
    record(
        ["generators", "template"],
        goTemplate={"type": "boolean"},
        goTemplateOptions=several(TEXT),
        generators=several(record(["clusters"], clusters=record([], selector=record([], matchLabels=MAP)))),
        strategy=record(
            [],
            type={"enum": ["AllAtOnce", "RollingSync"]},
            rollingSync=record(
                ["steps"],
                steps=several(
                    record([], matchExpressions=several(_REQUIREMENT), maxUpdate={"type": ["integer", "string"]})
                ),
            ),
        ),
        template=record(["metadata", "spec"], metadata=record(["name"], name=TEXT, labels=MAP), spec=_APPLICATION),
    ),
)
