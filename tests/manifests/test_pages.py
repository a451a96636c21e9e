"""What the pages say to write into an overlay renders, and arrives."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.rendering import ROOT, TOOLS, Object, pod
from tests.manifests.rendering import Rendered as Manifest

#: What a kustomization of an overlay has. A block of other keys is an object, or a file of another program's.
KEYS = {"apiVersion", "kind", "resources", "components", "configMapGenerator", "images", "patches"}
PAGES = sorted(str(file.relative_to(ROOT)) for file in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
HASH = r"(-[a-z0-9]{10})?"


@dataclass(frozen=True)
class Block:
    """A kustomization of a page."""

    page: str
    line: int
    given: Mapping[str, Any]
    #: The one that it is a part of: the last whole one before it, or one of the production overlay alone.
    whole: Mapping[str, Any]
    #: What stands before it, under the same heading.
    section: str

    @property
    def complete(self) -> dict[str, Any]:
        """With what it leaves unsaid: the components of the whole one, and those that the text before it names."""
        named = [f"../../components/{name}" for name in re.findall(r"`k8s/components/([\w-]+)`", self.section)]
        left = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": self.whole["resources"],
            "components": list(dict.fromkeys([*self.whole.get("components", []), *named])),
        }
        return {**({} if "kind" in self.given else left), **self.given}

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> Iterator[Block]:
    """All kustomizations of all pages, and parts of them."""
    for page in PAGES:
        text = (ROOT / page).read_text()
        whole: Mapping[str, Any] = {"resources": ["../production"]}
        for found in re.finditer(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            documents = list(yaml.safe_load_all(found[1]))
            if len(documents) != 1 or not documents[0].keys() <= KEYS:
                assert "kustomize" not in found[1], found[1]
                continue
            section = re.split(r"^#+ ", text[: found.start()], flags=re.MULTILINE)[-1]
            yield Block(page, text.count("\n", 0, found.start()) + 1, documents[0], whole, section)
            if "kind" in documents[0]:
                whole = documents[0]


BLOCKS = list(blocks())
each_block = pytest.mark.parametrize("block", BLOCKS, ids=str)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what an overlay is beside."""
    top = tmp_path_factory.mktemp("tree")
    for name in ("k8s", "keda"):
        shutil.copytree(ROOT / name, top / name)
    return top


def render(tree: Path, block: Block) -> Manifest:
    """What kustomize makes of it, as k8s/overlays/mine."""
    folder = tree / "k8s/overlays/mine"
    folder.mkdir(exist_ok=True)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(block.complete))
    ran = subprocess.run(
        [TOOLS / "kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return Manifest(tuple(yaml.safe_load_all(ran.stdout)))


def targets(found: Manifest, target: Mapping[str, str]) -> list[Object]:
    """The objects of a patch: kustomize leaves out, without a word, a patch that has none."""
    group, name = target.get("group"), target.get("name", ".*")
    return [
        one
        for one in found.objects
        if re.fullmatch(target["kind"], one["kind"])
        and group in (None, one["apiVersion"].rpartition("/")[0])
        and re.fullmatch(f"({name}){HASH if one['kind'] == 'ConfigMap' else ''}", one["metadata"]["name"])
        and target.get("namespace") in (None, one["metadata"].get("namespace"))
    ]


def at(value: Any, path: str) -> Any:
    """What stands at the path of a JSON patch; for the end of a list all of it."""
    for step in path.removeprefix("/").split("/"):
        if step != "-":
            value = value[int(step)] if isinstance(value, list) else value[step.replace("~1", "/").replace("~0", "~")]
    return value


def within(part: Any, whole: Any) -> bool:
    """Whether a strategic merge patch is in an object: of lists of things with names each by its name."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(key in whole and within(one, whole[key]) for key, one in part.items())
    if isinstance(part, list):
        return isinstance(whole, list) and all(any(within(one, other) for other in whole) for one in part)
    return bool(part == whole)


def test_the_pages_have_what_is_tested() -> None:
    """Blocks are found, of each sort."""
    assert {"docs/deploy/logging.md", "docs/deploy/monitoring.md", "docs/deploy/istio.md"} <= {
        one.page for one in BLOCKS
    }
    assert {"components", "configMapGenerator", "images", "patches"} <= {key for one in BLOCKS for key in one.given}


@each_block
def test_what_a_page_says_to_write_arrives(block: Block, tree: Path) -> None:
    """Settings are in a ConfigMap that pods read, patches in objects that are there, images in containers."""
    found = render(tree, block)
    maps = found.of("ConfigMap")
    for one in block.given.get("configMapGenerator", []):
        (data,) = [
            other["data"] for other in maps if re.fullmatch(re.escape(one["name"]) + HASH, other["metadata"]["name"])
        ]
        for literal in one["literals"]:
            name, _, value = literal.partition("=")
            assert data[name] == value
    for patch in block.given.get("patches", []):
        change, objects = yaml.safe_load(patch["patch"]), targets(found, patch["target"])
        assert objects, patch["target"]
        for one in objects:
            if isinstance(change, dict):
                assert within(change, one)
                continue
            for step in change:
                value = at(one, step["path"])
                assert step["value"] in value if step["path"].endswith("/-") else step["value"] == value, step
    used = {container["image"] for one in found.all_workloads() for container in pod(one)["containers"]}
    for image in block.given.get("images", []):
        assert f"{image['newName']}:{image['newTag']}" in used


@each_block
def test_pods_read_the_settings_that_were_changed(block: Block, tree: Path) -> None:
    """Each ConfigMap that a pod names is there, under the name that the change has given it."""
    found = render(tree, block)
    names = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in found.of("ConfigMap")}
    for workload in found.all_workloads():
        for container in pod(workload)["containers"]:
            for source in container.get("envFrom", []):
                if "configMapRef" in source:
                    name = source["configMapRef"]["name"]
                    assert re.fullmatch(r".+-[a-z0-9]{10}", name)
                    assert (workload["metadata"]["namespace"], name) in names


def test_the_pages_say_what_does_not_go_together(tree: Path) -> None:
    """The page of Knative's component rules out those that lead to the API in another way, or double it: with Istio's
    it does not even render."""
    (said,) = re.findall(r"^Not with .*?:", (ROOT / "docs/deploy/knative.md").read_text(), re.MULTILINE | re.DOTALL)
    assert re.findall(r"`components/(\w+)`", said) == ["gateway", "ingress", "istio"]
    folder = tree / "k8s/overlays/both"
    folder.mkdir()
    components = [f"../../components/{name}" for name in ("istio", "knative")]
    both = {"resources": ["../production"], "components": components}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(both))
    ran = subprocess.run(
        [TOOLS / "kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60, check=False
    )
    assert "multiple matches" in ran.stderr


def test_only_what_names_its_images_is_applied_as_it_is() -> None:
    """`kubectl apply -k` of an overlay without images of one's own takes promptq/api from a public registry, where
    anybody may have put it: everywhere else the pages say `make deploy`. The dev overlay pulls nothing."""
    applied = {
        (page, folder)
        for page in PAGES
        for folder in re.findall(r"kubectl apply -k (\S+)", (ROOT / page).read_text())
        if not re.search(r"/dev\b", folder)
    }
    assert applied == {("docs/deploy/README.md", "k8s/overlays/mine")}
    (named,) = [one for one in BLOCKS if one.page == "docs/deploy/README.md"]
    assert {one["name"] for one in named.given["images"]} == {"promptq/api", "promptq/worker"}
