"""Several clusters by Argo CD: the overlay that is here, in each of them."""

from __future__ import annotations

import jsonschema
import yaml

from jobs import __version__
from tests.manifests.rendering import PRODUCTION, ROOT, rendered
from tests.manifests.schemas import SCHEMAS

SET = yaml.safe_load((ROOT / "k8s/multi-cluster/applicationset.yaml").read_text())


def test_the_application_set_has_fields_that_it_has() -> None:
    """It is what Argo CD takes, field by field."""
    jsonschema.validate(SET, SCHEMAS["argoproj.io/v1alpha1", "ApplicationSet"])


def test_each_cluster_gets_the_production_overlay_of_this_version() -> None:
    """The path is one that renders, in the namespace that it is for, at the tag of the code."""
    spec = SET["spec"]["template"]["spec"]
    assert spec["source"]["path"] == PRODUCTION
    assert spec["source"]["targetRevision"] == f"v{__version__}"
    assert spec["destination"]["namespace"] == rendered(PRODUCTION).of("Namespace")[0]["metadata"]["name"]


def test_what_is_scaled_is_not_scaled_back() -> None:
    """Argo CD leaves the numbers to KEDA and the HPA, and deletes nothing by itself: Redis' volume is a queue."""
    spec = SET["spec"]["template"]["spec"]
    assert {"group": "apps", "kind": "Deployment", "jsonPointers": ["/spec/replicas"]} in spec["ignoreDifferences"]
    assert "RespectIgnoreDifferences=true" in spec["syncPolicy"]["syncOptions"]
    assert "defaultPrune" not in SET["spec"]["strategy"]["rollingSync"]


def test_nothing_is_synced_but_wave_by_wave() -> None:
    """Argo CD turns automated syncs off under RollingSync; where that is not enabled they would reach all at once."""
    assert SET["spec"]["strategy"]["type"] == "RollingSync"
    assert "automated" not in SET["spec"]["template"]["spec"]["syncPolicy"]


def test_a_release_goes_through_one_cluster_first() -> None:
    """The first wave is one label's, the second everybody else's, one at a time."""
    first, second = SET["spec"]["strategy"]["rollingSync"]["steps"]
    (one,), (others,) = first["matchExpressions"], second["matchExpressions"]
    assert (one["key"], one["values"]) == (others["key"], others["values"])
    assert (one["operator"], others["operator"], second["maxUpdate"]) == ("In", "NotIn", 1)
    assert one["key"] in SET["spec"]["template"]["metadata"]["labels"]
