"""Small schemas of kinds for which no package here has one: the fields that are used, as their source has them."""

from __future__ import annotations

from typing import Any, Final

from tests.manifests.schemas import argo_cd, gateway_api, istio, knative

#: By the version of the API and the name of the kind.
SCHEMAS: Final[dict[tuple[str, str], dict[str, Any]]] = (
    argo_cd.SCHEMAS | gateway_api.SCHEMAS | istio.SCHEMAS | knative.SCHEMAS
)
