"""What the manifests name is what the code has: settings, keys, ports, files, Secrets, other objects."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from jobs import __version__, queues
from jobs.settings import Settings, environment_name
from tests.manifests.rendering import (
    COMBINATIONS,
    DEV,
    PER_QUEUE,
    PRODUCTION,
    ROOT,
    TOOLS,
    component,
    container,
    is_knative,
    labels,
    matches,
    pod,
    rendered,
    walk,
)

KNOWN = {environment_name(field) for field in Settings.model_fields}
#: Read by the programs themselves: valkey-cli.
OTHERS = {"REDISCLI_AUTH", "OTEL_EXPORTER_OTLP_ENDPOINT"}
#: Programs that are not ours, and read variables of their own: tests/manifests/test_logging.py.
FOREIGN = {"elasticsearch", "kibana"}
SCALED = [folder for folder in COMBINATIONS if rendered(folder).of("ScaledObject")]
every_combination = pytest.mark.parametrize("folder", COMBINATIONS)


@every_combination
def test_each_variable_is_a_setting(folder: str) -> None:
    """No pod gets a variable that nobody reads, and each that has a value has one that the settings accept."""
    for workload in rendered(folder).workloads():
        if component(workload) in FOREIGN:
            continue
        named = {one["name"] for one in container(workload).get("env", [])}
        plain = rendered(folder).settings(workload)
        assert named | plain.keys() <= KNOWN | OTHERS, workload["metadata"]["name"]
        if component(workload) != "redis":
            fields = {environment_name(field): field for field in Settings.model_fields}
            Settings.model_validate({fields[name]: value for name, value in plain.items() if value and name in fields})


@every_combination
def test_each_secret_that_is_named_is_made(folder: str, tmp_path: Path) -> None:
    """k8s/create-secrets makes each Secret and each key that a pod or KEDA reads."""
    made = secrets(tmp_path, **({"REDIS_SENTINELS": "a:1,b:2"} if "sentinel" in folder else {}))
    if "logging" in folder:
        made |= logging_secret(tmp_path)
    wanted = {"openai-secret": {"api-key"}}
    for one in walk(list(rendered(folder).objects)):
        if not isinstance(one, dict):
            continue
        reference = one.get("secretKeyRef") or (one if {"parameter", "name", "key"} <= one.keys() else None)
        if reference:
            wanted.setdefault(reference["name"], set()).add(reference["key"])
        elif "secretRef" in one or "secret" in one:
            name = one["secretRef"]["name"] if "secretRef" in one else one["secret"]["secretName"]
            wanted.setdefault(name, set())
    for name, keys in wanted.items():
        assert keys <= made[name].keys(), name
    assert {"FLOWER_BASIC_AUTH"} == made["promptq-flower"].keys()
    api = rendered(folder).workload("api")
    assert pod(api)["volumes"][0]["secret"]["secretName"] == "promptq-api-keys"
    path = rendered(folder).settings(api)["PROMPTQ_API_KEYS_FILE"]
    assert Path(path).name in made["promptq-api-keys"]


def secrets(folder: Path, **env: str) -> dict[str, dict[str, str]]:
    """The Secrets that k8s/create-secrets makes in an empty cluster, whose kubectl is a stand-in here."""
    made = folder / "made.yaml"
    kubectl = folder / "kubectl"
    kubectl.write_text(f'#!/bin/sh\ncase "$*" in *create*) cat >>{made}; echo --- >>{made};; esac\n')
    kubectl.chmod(0o755)
    outside = {"PATH": os.environ["PATH"], "KUBECTL": str(kubectl), "OPENAI_API_KEY": "sk-test", **env}
    subprocess.run([ROOT / "k8s/create-secrets"], env=outside, check=True, capture_output=True, timeout=30)
    found = [one for one in yaml.safe_load_all(made.read_text()) if one]
    assert {one["kind"] for one in found} == {"Secret"}
    return {one["metadata"]["name"]: one["data"] for one in found}


def logging_secret(folder: Path, **env: str) -> dict[str, dict[str, str]]:
    """The Secret that k8s/components/logging/create-secret makes where there is none."""
    made = folder / "logging.yaml"
    kubectl = folder / "kubectl-logging"
    kubectl.write_text(f'#!/bin/sh\ncase "$*" in *create*) cat >>{made};; esac\n')
    kubectl.chmod(0o755)
    outside = {"PATH": os.environ["PATH"], "KUBECTL": str(kubectl), **env}
    script = ROOT / "k8s/components/logging/create-secret"
    subprocess.run([script], env=outside, check=True, capture_output=True, timeout=30)
    (one,) = yaml.safe_load_all(made.read_text())
    assert (one["kind"], one["metadata"]["namespace"]) == ("Secret", "promptq-logging")
    return {one["metadata"]["name"]: one["data"]}


def test_secrets_that_are_made_are_accepted(tmp_path: Path) -> None:
    """The settings take their values, which are fresh each time, and one that is there is left alone."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = secrets(tmp_path / "a"), secrets(tmp_path / "b")
    plain = {
        name: {key: base64.b64decode(value).decode() for key, value in data.items()} for name, data in first.items()
    }
    redis = plain["promptq-redis"]
    settings = Settings.model_validate(
        {
            "redis_url": redis["url"],
            "redis_password": redis["password"],
            "encryption_keys": plain["promptq-encryption"]["keys"],
            "api_keys": plain["promptq-api-keys"]["keys"],
            "openai_api_key": plain["openai-secret"]["api-key"],
        }
    )
    assert settings.redis_login_url == f"redis://:{redis['password']}@{redis['address']}/0"
    assert set(settings.api_keys.values()) == {"team"}
    for name in ("promptq-redis", "promptq-encryption", "promptq-api-keys", "promptq-flower"):
        assert first[name] != second[name]


def test_without_a_key_no_secret_is_made(tmp_path: Path) -> None:
    """create-secrets says what is missing before it makes anything, and passes on what kubectl says when that fails."""
    kubectl = tmp_path / "kubectl"
    kubectl.touch(0o755)
    outside = {"PATH": os.environ["PATH"], "KUBECTL": str(kubectl)}

    def ran() -> tuple[int, str]:
        done = subprocess.run([ROOT / "k8s/create-secrets"], env=outside, capture_output=True, timeout=30, check=False)
        return done.returncode, done.stderr.decode()

    kubectl.write_text("#!/bin/sh\n")
    code, said = ran()
    assert code == 2
    assert "OPENAI_API_KEY" in said
    kubectl.write_text("#!/bin/sh\necho 'Unable to connect to the server' >&2\nexit 1\n")
    code, said = ran()
    assert code == 1
    assert said.strip() == "Unable to connect to the server"


@pytest.mark.parametrize(
    ("given", "password"),
    [
        ({}, True),
        ({"REDIS_ADDRESS": "r:6379"}, False),
        ({"REDIS_SENTINELS": "a:1"}, False),
        ({"REDIS_ADDRESS": "r:6379", "REDIS_PASSWORD": "p"}, True),
    ],
)
def test_only_the_redis_in_the_cluster_gets_a_password_of_ours(
    tmp_path: Path, given: dict[str, str], password: bool
) -> None:
    """Another Redis has its own, or none."""
    made = secrets(tmp_path, **given)["promptq-redis"]
    assert bool(made["password"]) is password
    assert ("sentinels" in made) is ("REDIS_SENTINELS" in given)


@pytest.mark.parametrize("folder", [one for one in COMBINATIONS if "files-volume" in one])
def test_files_on_a_volume_are_where_api_and_workers_look(folder: str) -> None:
    """API and workers, and nobody else, have the claim, which many nodes may write to, and files are in it."""
    found = rendered(folder)
    (claim,) = found.of("PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    having = {}
    for workload in found.workloads():
        volumes = {one["name"]: one.get("persistentVolumeClaim") for one in pod(workload).get("volumes", [])}
        mounts = {one["name"]: one["mountPath"] for one in container(workload).get("volumeMounts", [])}
        if volumes.get("files"):
            assert volumes["files"] == {"claimName": claim["metadata"]["name"]}
            assert found.settings(workload)["PROMPTQ_STORAGE"].startswith(f"{mounts['files']}/")
            assert pod(workload)["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
            having[workload["metadata"]["name"]] = component(workload)
    named = {one["metadata"]["name"] for one in found.workloads() if component(one) in ("api", "worker")}
    assert set(having) == named


@pytest.mark.parametrize("folder", [one for one in COMBINATIONS if "files-s3" in one])
def test_files_in_a_bucket_have_their_key_from_a_secret(folder: str) -> None:
    """API and workers, and nobody else, have the store's key, and everybody is told of the same bucket."""
    found = rendered(folder)
    names = {"PROMPTQ_S3_ACCESS_KEY_ID", "PROMPTQ_S3_SECRET_ACCESS_KEY"}
    for workload in found.workloads():
        having = names & {one["name"] for one in container(workload)["env"]}
        assert having == (names if component(workload) in ("api", "worker") else set())
        if having:
            assert Settings(storage=found.settings(workload)["PROMPTQ_STORAGE"]).storage.startswith("s3://")


def test_without_a_component_there_are_no_files() -> None:
    """A pod whose disk is its own alone keeps no files: they would not be found elsewhere."""
    for folder in (PRODUCTION, DEV, PER_QUEUE):
        for workload in rendered(folder).workloads():
            assert rendered(folder).settings(workload).get("PROMPTQ_STORAGE", "none") == "none"


@pytest.mark.parametrize("folder", [one for one in COMBINATIONS if "sentinel" in one])
def test_with_sentinels_everybody_asks_them(folder: str) -> None:
    """Each process that needs Redis knows the Sentinels, may reach them, and KEDA asks them, too."""
    found = rendered(folder)
    for workload in found.workloads():
        named = {one["name"] for one in container(workload)["env"]}
        assert {"PROMPTQ_REDIS_SENTINELS", "PROMPTQ_REDIS_MASTER"} <= named, workload["metadata"]["name"]
    triggers = [trigger for one in found.of("ScaledObject") for trigger in one["spec"]["triggers"]]
    assert {trigger["type"] for trigger in triggers} == {"redis-sentinel"}
    (login,) = found.of("TriggerAuthentication")
    parameters = {one["parameter"] for one in login["spec"]["secretTargetRef"]}
    # KEDA 2.20, pkg/scalers/redis_scaler.go
    assert {"addresses", "sentinelMaster", "sentinelUsername", "sentinelPassword", "username", "password"} == parameters
    for policy in found.of("NetworkPolicy"):
        if policy["metadata"]["name"] in ("api", "worker", "scheduler", "flower"):
            ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule.get("ports", [])}
            assert 26379 in ports


@every_combination
def test_selectors_find_their_pods(folder: str) -> None:
    """Deployments, Services, budgets and policies select pods that are there; a Deployment no other's. Knative selects
    its own, and has no budget: that would hold the node of a pod that is the only one."""
    found = rendered(folder)
    pods = {one["metadata"]["name"]: labels(one) for one in found.workloads()}
    by_knative = {one["metadata"]["name"] for one in found.workloads() if is_knative(one)}
    everybody = [(one["metadata"]["namespace"], labels(one)) for one in found.all_workloads()]
    for workload in found.workloads():
        if workload["metadata"]["name"] in by_knative:
            continue
        selected = [name for name, its in pods.items() if matches(workload["spec"]["selector"], its)]
        assert selected == [workload["metadata"]["name"]]
    for service in found.of("Service"):
        selected = [name for name, its in pods.items() if service["spec"]["selector"].items() <= its.items()]
        assert selected == [service["metadata"]["name"]]
    for budget in found.of("PodDisruptionBudget"):
        selected = [name for name, its in pods.items() if matches(budget["spec"]["selector"], its)]
        assert selected == [budget["metadata"]["name"]]
    assert {one["metadata"]["name"] for one in found.of("PodDisruptionBudget")} == set(pods) - by_knative
    for policy in found.of("NetworkPolicy"):
        assert any(
            place == policy["metadata"]["namespace"] and matches(policy["spec"]["podSelector"], its)
            for place, its in everybody
        ), policy["metadata"]["name"]


@every_combination
def test_ports_have_names_that_are_there(folder: str) -> None:
    """Services, probes and policies name ports of the containers that they are about."""
    found = rendered(folder)
    ports = {one["metadata"]["name"]: {port["name"] for port in container(one)["ports"]} for one in found.workloads()}
    for service in found.of("Service"):
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports[service["metadata"]["name"]]
    for workload in found.workloads():
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            handler = container(workload)[probe]
            for kind in ("httpGet", "tcpSocket"):
                if kind in handler and is_knative(workload):
                    # The name is another one in the pod that Knative makes.
                    assert handler[kind]["port"] == container(workload)["ports"][0]["containerPort"]
                elif kind in handler:
                    assert handler[kind]["port"] in ports[workload["metadata"]["name"]]
    for policy in found.of("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            for port in rule.get("ports", []):
                if isinstance(port["port"], str):
                    selected = [
                        one["metadata"]["name"]
                        for one in found.workloads()
                        if matches(policy["spec"]["podSelector"], labels(one))
                    ]
                    assert selected
                    assert all(port["port"] in ports[name] for name in selected)


@every_combination
def test_ports_are_those_that_the_settings_name(folder: str) -> None:
    """What a container declares is what its process binds, on all addresses."""
    for workload in rendered(folder).workloads():
        settings = rendered(folder).settings(workload)
        declared = {port["name"]: str(port["containerPort"]) for port in container(workload).get("ports", [])}
        match component(workload):
            case "api" | "api-next":
                if is_knative(workload):
                    assert declared == {"http1": settings["PROMPTQ_PORT"]}, "it admits one"
                else:
                    assert declared == {"http": settings["PROMPTQ_PORT"], "metrics": settings["PROMPTQ_METRICS_PORT"]}
                assert settings["PROMPTQ_METRICS_HOST"] == "0.0.0.0"
                assert settings["PROMPTQ_HOST"] == "0.0.0.0"
            case "worker" | "scheduler":
                assert declared == {"metrics": settings["PROMPTQ_METRICS_PORT"]}
                assert settings["PROMPTQ_METRICS_HOST"] == "0.0.0.0"
            case "flower":
                assert declared == {"http": settings["PROMPTQ_FLOWER_PORT"]}
                assert settings["PROMPTQ_FLOWER_HOST"] == "0.0.0.0"
            case "redis":
                assert declared == {"redis": "6379"}


def test_arguments_are_modules_of_the_image() -> None:
    """What a container runs is in its image, and is what `promptq up` runs."""
    for workload in rendered(PRODUCTION).of("Deployment"):
        for module in container(workload).get("args", []):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
            assert f'"{module}"' in (ROOT / "cli/stack/plan.py").read_text()


@pytest.mark.parametrize("folder", SCALED)
def test_triggers_measure_the_backlogs(folder: str) -> None:
    """Each backlog has one trigger, by the key that the store uses; it is summed in a formula, or stands alone."""
    triggers = [trigger for one in rendered(folder).of("ScaledObject") for trigger in one["spec"]["triggers"]]
    names = (*queues.QUEUES, queues.WEBHOOKS, queues.BATCHES)
    assert sorted(one["metadata"]["listName"] for one in triggers) == sorted(map(queues.backlog_key, names))
    for trigger in triggers:
        assert trigger["metadata"]["listName"] == queues.backlog_key(trigger["name"])
        assert trigger["metadata"]["activationListLength"] == "0", "the first job wakes a pod"
        database = Settings(redis_url="redis://redis:6379/0").redis_url.rpartition("/")[2]
        assert trigger["metadata"]["databaseIndex"] == database
        assert rendered(folder).get("TriggerAuthentication", trigger["authenticationRef"]["name"])
    for scaled in rendered(folder).of("ScaledObject"):
        formula = scaled["spec"]["advanced"].get("scalingModifiers", {}).get("formula")
        named = {trigger["name"] for trigger in scaled["spec"]["triggers"]}
        assert formula is not None or len(named) == 1, "several triggers without a formula give the maximum"
        if formula is not None:
            # What KEDA's expressions make of it is what Python does: sums and min.
            numbers = dict(zip(sorted(named), (300, 20, 5, 7, 1000), strict=False))
            target = int(scaled["spec"]["advanced"]["scalingModifiers"]["target"])
            value = eval(formula, {"__builtins__": {}, "min": min}, numbers)  # noqa: S307  # it is our own
            jobs = sum(number for name, number in numbers.items() if name != queues.WEBHOOKS)
            assert value == jobs + min(numbers.get(queues.WEBHOOKS, 0), target)


@pytest.mark.parametrize("folder", SCALED)
def test_what_is_scaled_is_there_and_scaled_by_one(folder: str) -> None:
    """Targets exist, no workload has two that scale it, and none has replicas of its own beside one that does."""
    found = rendered(folder)
    targets = [one["spec"]["scaleTargetRef"]["name"] for one in found.of("ScaledObject", "HorizontalPodAutoscaler")]
    assert len(set(targets)) == len(targets)
    for name in targets:
        assert "replicas" not in found.get("Deployment", name)["spec"]
    # A canary's number is its share of the queue, which nobody scales.
    workers = [one["metadata"]["name"] for one in found.workloads() if labels(one).get("promptq-track") == "stable"]
    assert sorted(one["spec"]["scaleTargetRef"]["name"] for one in found.of("ScaledObject")) == sorted(workers)
    for one in found.workloads():
        # Knative's autoscaler has its numbers in annotations: test_knative.py.
        assert is_knative(one) or one["metadata"]["name"] in targets or one["spec"]["replicas"] >= 1


@pytest.mark.parametrize("folder", SCALED)
def test_numbers_of_the_scaling_fit_the_worker(folder: str) -> None:
    """An integer target below the worker's slots (but for bulk, which may wait), to zero and back, quickly up, slowly
    down, and no collapse when Redis is away."""
    found = rendered(folder)
    for scaled in found.of("ScaledObject"):
        spec = scaled["spec"]
        worker = found.get("Deployment", spec["scaleTargetRef"]["name"])
        slots = int(found.settings(worker)["PROMPTQ_CONCURRENCY"])
        modifiers = spec["advanced"].get("scalingModifiers")
        target = modifiers["target"] if modifiers else spec["triggers"][0]["metadata"]["listLength"]
        assert re.fullmatch(r"[0-9]+", target)
        assert int(target) <= slots or scaled["metadata"]["name"] == "worker-bulk"
        if modifiers:
            assert modifiers["activationTarget"] == "0"
            assert modifiers["metricType"] == "AverageValue"
        assert spec["minReplicaCount"] == (1 if scaled["metadata"]["name"] == "worker-interactive" else 0)
        assert spec["fallback"]["replicas"] >= 1
        assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
        assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300


def test_each_queue_has_its_workers() -> None:
    """With a Deployment for each queue each is served by one, and webhooks by the one that is scaled by them, too."""
    found = rendered(PER_QUEUE)
    workers = [one for one in found.workloads() if component(one) == "worker"]
    served = {one["metadata"]["name"]: found.settings(one)["PROMPTQ_WORKER_QUEUES"] for one in workers}
    assert served == {f"worker-{name}": name for name in queues.QUEUES}
    senders = [
        one["metadata"]["name"]
        for one in workers
        if found.settings(one).get("PROMPTQ_WEBHOOK_CONCURRENCY", "100") != "0"
    ]
    webhooks = [
        one["spec"]["scaleTargetRef"]["name"]
        for one in found.of("ScaledObject")
        if any(trigger["name"] == queues.WEBHOOKS for trigger in one["spec"]["triggers"])
    ]
    assert senders == webhooks


def dry_run(**given: str) -> subprocess.CompletedProcess[str]:
    """make deploy DRY_RUN=1."""
    outside = {"PATH": f"{TOOLS}:{os.environ['PATH']}", "DRY_RUN": "1", **given}
    return subprocess.run([ROOT / "k8s/deploy"], env=outside, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("given", ["/tmp", "nothing"])
def test_a_deployment_of_an_overlay_that_is_none_is_refused(given: str) -> None:
    """It says which."""
    ran = dry_run(OVERLAY=given)
    assert ran.returncode == 2
    assert ("OVERLAY" if given == "/tmp" else given) in ran.stderr


@pytest.mark.parametrize(
    ("folder", "registry", "refused"),
    [
        (PRODUCTION, "", {"promptq/api", "promptq/worker"}),
        # Those that name an image name but one more.
        ("k8s/tests/production-istio", "", {"promptq/api", "promptq/worker"}),
        ("k8s/tests/production-worker-canary", "", {"promptq/api", "promptq/worker"}),
        ("k8s/tests/production-istio", "r.example/team", set()),
        ("k8s/tests/production-worker-canary", "r.example/team", set()),
        ("k8s/tests/production-knative", "", {"promptq/api", "promptq/worker"}),
        ("k8s/tests/production-knative", "r.example/team", set()),
        # And this one does not.
        ("k8s/tests/production-istio-sentinel", "r.example/team", {"promptq/api-next"}),
        (DEV, "", set()),
        ("k8s/tests/dev-keda", "", set()),
    ],
)
def test_no_image_of_ours_is_pulled_from_a_public_registry(folder: str, registry: str, refused: set[str]) -> None:
    """promptq/api may be anybody's there: what is left of such a name is refused, unless nodes pull nothing."""
    ran = dry_run(OVERLAY=folder, REGISTRY=registry)
    assert ran.returncode == (2 if refused else 0), ran.stderr
    for name in refused:
        assert f"{name}:{__version__}" in ran.stderr
    assert ("REGISTRY" in ran.stderr) is bool(refused)
    assert (ran.stdout == "") is bool(refused)
    for one in yaml.safe_load_all(ran.stdout):
        if one["kind"] == "Deployment" and container(one)["image"].startswith("promptq/"):
            assert container(one)["imagePullPolicy"] == "Never"


def test_what_is_not_pushed_is_not_pulled() -> None:
    """On a laptop, where images are loaded onto the node, none of the same name comes from elsewhere."""
    for one in rendered(DEV).of("Deployment"):
        assert container(one)["imagePullPolicy"] == "Never"


def test_a_canary_is_a_small_share_of_the_workers() -> None:
    """Another image, a few slots and a name of its own in Flower, beside the workers as they are; else the same."""
    found = rendered("k8s/tests/production-worker-canary")
    stable, canary = (found.get("Deployment", name) for name in ("worker", "worker-canary"))
    assert stable == rendered(PRODUCTION).get("Deployment", "worker")
    assert container(stable)["image"] == f"promptq/worker:{__version__}"
    assert container(canary)["image"] == "registry.example.com/team/promptq-worker:0.2.0"
    settings, others = found.settings(canary), found.settings(stable)
    assert canary["spec"]["replicas"] == 1
    assert int(settings["PROMPTQ_CONCURRENCY"]) * 10 <= int(others["PROMPTQ_CONCURRENCY"])
    differ = {name for name in settings if settings[name] != others.get(name)}
    assert differ == {"PROMPTQ_CONCURRENCY", "PROMPTQ_WORKER_NAME"}


def test_a_deployment_takes_its_images_from_the_registry(tmp_path: Path) -> None:
    """make deploy with DRY_RUN prints the overlay with the registry's images, and changes no file of the tree."""
    outside = {"PATH": f"{TOOLS}:{os.environ['PATH']}", "DRY_RUN": "1", "REGISTRY": "r.example/team/", "TAG": "1.2.3"}
    ran = subprocess.run(
        [ROOT / "k8s/deploy"], env=outside, capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path
    )
    objects = list(yaml.safe_load_all(ran.stdout))
    used = {container(one)["image"] for one in objects if one["kind"] == "Deployment"}
    assert used == {"r.example/team/promptq-api:1.2.3", "r.example/team/promptq-worker:1.2.3"}


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_images_are_built_and_pushed_by_whatever_is_there(tmp_path: Path, engine: str) -> None:
    """make images and make push take the engine that works, the project's version, and the registry that is named."""
    log, stand_in = tmp_path / "log", tmp_path / engine
    stand_in.write_text(f'#!/bin/sh\necho "$@" >>{log}\n')
    stand_in.chmod(0o755)
    # None of this machine's own engines: what the script needs besides is there.
    for tool in ("bash", "sed", "dirname", "git", "env"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "")
    outside = {"PATH": str(tmp_path), "REGISTRY": "r.example/team", "PYTHON_IMAGE": "local/python:3.13"}
    for step in ("build", "push"):
        subprocess.run([ROOT / "k8s/images", step], env=outside, check=True, capture_output=True, timeout=30)
    said = log.read_text().splitlines()
    builds = [line for line in said if line.startswith("build ")]
    assert [line.partition("--tag ")[2].split()[0] for line in builds] == [
        f"promptq/{name}:{__version__}" for name in ("api", "worker")
    ]
    assert all("--build-arg PYTHON_IMAGE=local/python:3.13" in line for line in builds)
    pushed = [line for line in said if line.startswith("push ")]
    assert pushed == [f"push r.example/team/promptq-{name}:{__version__}" for name in ("api", "worker")]
    stand_in.unlink()
    ran = subprocess.run([ROOT / "k8s/images", "build"], env=outside, capture_output=True, timeout=30, check=False)
    assert ran.returncode == 1
    assert b"none of docker, podman and buildah" in ran.stderr


def test_the_version_is_the_projects(tmp_path: Path) -> None:
    """Without a tag the images are of the version that the code has."""
    for folder in (PRODUCTION, DEV):
        for one in rendered(folder).of("Deployment"):
            assert container(one)["image"].endswith(f":{__version__}")
