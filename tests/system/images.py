"""Both images, really built without a container engine, and run as their user on a root that cannot be written to.

``tests/system/run`` names this file; its own name keeps it out of ``make test``. It takes root,
buildah and debootstrap.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis

from cli.stack import valkey
from tests.processes import end, eventually, free_port

ROOT = Path(__file__).parents[2]
BASE = "localhost/promptq-test/python:3.13-slim"
#: Where the shell that starts a process makes the image's own file system its root, which it then cannot write to.
ENTER = """
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount --bind /dev "$0/dev"
for folder in $WRITABLE; do mkdir -p "$0$folder"; mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$0$folder"; done
mount -o remount,bind,ro "$0"
exec chroot --userspec="$RUN_AS" "$0" /usr/bin/env --chdir="$WORKDIR" -i "$@"
"""


def buildah(*words: str, env: Mapping[str, str]) -> str:
    """Run it and answer what it prints."""
    ran = subprocess.run(["buildah", *words], env=env, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which buildah keeps its images apart from all others, and needs no kernel features."""
    folder = tmp_path_factory.mktemp("containers")
    conf = folder / "storage.conf"
    conf.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n')
    return {
        **os.environ,
        "BUILDAH_ISOLATION": "chroot",
        "STORAGE_DRIVER": "vfs",
        "CONTAINERS_STORAGE_CONF": str(conf),
    }


@dataclass(frozen=True)
class Image:
    """A built image, unpacked."""

    name: str
    root: Path
    config: Mapping[str, Any]

    @property
    def command(self) -> list[str]:
        """What it runs by itself."""
        return [*self.config["Entrypoint"], *(self.config.get("Cmd") or [])]

    @property
    def environment(self) -> list[str]:
        """What it sets."""
        return list(self.config["Env"])

    def run(self, *arguments: str, writable: Sequence[str] = ("/tmp",), **env: str) -> subprocess.Popen[str]:
        """Start it, with arguments in the place of its own, on this machine's network."""
        command = [*self.config["Entrypoint"], *arguments] if arguments else self.command
        outside = {
            "RUN_AS": self.config["User"],
            "WORKDIR": self.config["WorkingDir"],
            "WRITABLE": " ".join(writable),
            "PATH": os.environ["PATH"],
        }
        given = [*self.environment, *(f"{name}={value}" for name, value in env.items())]
        # The first process, as in a container: to it signals are what it makes of them.
        apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--propagation", "private"]
        return subprocess.Popen(
            [*apart, "sh", "-ec", ENTER, str(self.root), *given, *command],
            env=outside,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="session")
def images(engine: dict[str, str]) -> Iterator[dict[str, Image]]:
    """``make images`` on a base image that is made here."""
    subprocess.run([ROOT / "tests/system/base-image", BASE], env=engine, check=True, timeout=900)
    command = ["make", "images", "ENGINE=buildah", "TAG=test", f"PYTHON_IMAGE={BASE}"]
    built = subprocess.run(command, cwd=ROOT, env=engine, capture_output=True, text=True, timeout=900, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    containers, found = [], {}
    for name in ("api", "worker"):
        containers.append(buildah("from", "--pull-never", f"localhost/promptq/{name}:test", env=engine))
        about = json.loads(buildah("inspect", "--type", "image", f"localhost/promptq/{name}:test", env=engine))
        root = Path(buildah("mount", containers[-1], env=engine))
        found[name] = Image(name, root, about["OCIv1"]["config"])
    yield found
    for container in containers:
        buildah("rm", container, env=engine)


def size(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_symlink() and file.is_file())


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("name", ["api", "worker"])
def test_an_image_holds_what_it_needs_and_no_more(
    images: dict[str, Image], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A numeric user that is not root, labels, exec form; neither pip nor a compiler nor a cache, nothing that is the
    other's, and bytecode for all of it."""
    image = images[name]
    assert re.fullmatch(r"[1-9][0-9]+:[1-9][0-9]+", image.config["User"])
    assert {f"org.opencontainers.image.{label}" for label in ("title", "version", "revision")} <= set(
        image.config["Labels"]
    )
    assert image.config["Labels"]["org.opencontainers.image.version"] == "test"
    assert image.command[0] == "python"
    assert {path.name for path in (image.root / "app").iterdir()} == {"jobs", name}
    packages = {path.name.lower() for path in image.root.glob("opt/promptq/lib/python3*/site-packages/*")}
    assert not packages & {"pip", "setuptools", "wheel", "pytest", "rich", "aiohttp"}
    assert ("openai" in packages, "flower" in packages, "flask" in packages) == (
        (False, False, True) if name == "api" else (True, True, False)
    )
    # The base image has what python:3.13-slim has there (tests/system/base-image).
    assert not list(image.root.glob("usr/local/lib/python3*/site-packages/pip*"))
    for unwanted in ("usr/local/bin/pip", "usr/bin/gcc", "usr/bin/cc", "root/.cache", "build"):
        assert not (image.root / unwanted).exists(), unwanted
    sources = [file for part in ("app", "opt/promptq/lib") for file in (image.root / part).rglob("*.py")]
    without = [file for file in sources if not list((file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"))]
    # Some packages carry files for other versions of Python, which do not compile.
    assert len(without) < len(sources) / 50, without[:5]
    writable = [file for file in (image.root / "app").rglob("*") if file.stat().st_mode & 0o022]
    assert writable == []
    own, all_of_it = size(image.root / "opt") + size(image.root / "app"), size(image.root)
    with capsys.disabled():
        print(f"\npromptq/{name}: {all_of_it / 1e6:.0f} MB, {own / 1e6:.0f} MB of it on top of the base image")


def hears_sigterm(pid: int) -> bool:
    """Whether the process has a handler for SIGTERM (``man 5 proc``, SigCgt)."""
    caught = re.search(r"^SigCgt:\t([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught.group(1), 16) >> (signal.SIGTERM - 1) & 1)


def first(part: subprocess.Popen[str]) -> int:
    """The container's first process, as this machine numbers it."""
    children = Path(f"/proc/{part.pid}/task/{part.pid}/children")
    return int(eventually(lambda: children.read_text().split())[0])


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, str]]:
    """A Redis and a simulator on this machine; yields their addresses."""
    port, llm = free_port(), free_port()
    parts = [
        subprocess.Popen(valkey.command(valkey.find_server(), port), cwd=folder, stdout=subprocess.DEVNULL),
        subprocess.Popen([sys.executable, "-m", "simulator", "--port", str(llm), "--latency", "0.1"], cwd=ROOT),
    ]
    try:
        url = f"redis://127.0.0.1:{port}/0"
        with redis.Redis.from_url(url) as client:
            eventually(lambda: answers(client), within=20)
        eventually(lambda: ok(f"http://127.0.0.1:{llm}/healthz"), within=20)
        yield url, f"http://127.0.0.1:{llm}/v1"
    finally:
        for part in parts:
            end(part, within=20)


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def ok(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=2).status_code == 200
    except httpx2.HTTPError:
        return False


@pytest.mark.timeout(1500)
def test_the_images_take_a_job_from_submit_to_result(images: dict[str, Image], tmp_path: Path) -> None:
    """API, worker, scheduler and Flower out of the images, as their user with a read-only root: one job runs, and
    SIGTERM ends each of them with exit code 0."""
    ports = {name: free_port() for name in ("api", "worker", "scheduler", "flower")}
    with contextlib.ExitStack() as stack:
        url, llm = stack.enter_context(serving(tmp_path))
        common = {"PROMPTQ_REDIS_URL": url, "PROMPTQ_GRACE_SECONDS": "5", "PROMPTQ_METRICS_HOST": "127.0.0.1"}
        model = {"OPENAI_BASE_URL": llm, "OPENAI_API_KEY": "simulator"}
        api, worker = images["api"], images["worker"]
        files = {"PROMPTQ_HEARTBEAT_FILE": "/tmp/heartbeat"}
        parts = {
            "api": api.run(
                PROMPTQ_PORT=str(ports["api"]),
                PROMPTQ_METRICS_PORT=str(free_port()),
                PROMPTQ_API_KEYS="ann:k1",
                **common,
                **model,
            ),
            "worker": worker.run(PROMPTQ_METRICS_PORT=str(ports["worker"]), **common, **model, **files),
            "scheduler": worker.run(
                "worker.scheduler", PROMPTQ_METRICS_PORT=str(ports["scheduler"]), **common, **files
            ),
            "flower": worker.run("worker.dashboard", PROMPTQ_FLOWER_PORT=str(ports["flower"]), **common),
        }
        for part in parts.values():
            stack.enter_context(part)
            stack.callback(end, part, within=20)
        paths = {"api": "readyz", "worker": "metrics", "scheduler": "metrics", "flower": "flower/healthcheck"}
        for name, part in parts.items():
            place = f"http://127.0.0.1:{ports[name]}/{paths[name]}"
            eventually(lambda place=place, part=part: ok(place) or part.poll() is not None, within=60)
            assert part.poll() is None, part.stdout.read() if part.stdout else ""
        for part in parts.values():
            status = Path(f"/proc/{first(part)}/status").read_text()
            assert re.search(r"^Uid:\t10001\t10001\t10001\t10001$", status, re.MULTILINE)
            assert re.search(r"^NSpid:\t\d+\t1$", status, re.MULTILINE)
            mounts = Path(f"/proc/{first(part)}/mountinfo").read_text().splitlines()
            assert any(line.split()[4] == "/" and line.split()[5].startswith("ro") for line in mounts)
        with httpx2.Client(base_url=f"http://127.0.0.1:{ports['api']}", headers={"Authorization": "Bearer k1"}) as http:
            assert http.get("/v1/models").status_code == 200
            accepted = http.post("/v1/jobs", json={"prompt": "Out of an image.", "model": "sim"})
            assert accepted.status_code == 202, accepted.text
            job = http.get(accepted.headers["Location"], params={"wait": 30}, timeout=40).json()
            assert job["status"] == "completed"
            assert "Out of an image." in job["result"]["choices"][0]["message"]["content"]
        for name in ("flower", "api", "scheduler", "worker"):
            os.kill(first(parts[name]), signal.SIGTERM)
            said, _ = parts[name].communicate(timeout=30)
            assert parts[name].returncode == 0, said


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("api", ()), ("worker", ()), ("worker", ("worker.scheduler",)), ("worker", ("worker.dashboard",))],
    ids=["api", "worker", "scheduler", "flower"],
)
def test_a_container_that_is_stopped_while_it_starts_stops(
    images: dict[str, Image], name: str, arguments: tuple[str, ...]
) -> None:
    """SIGTERM before it serves ends it at once, although as process 1 it could not hear it by itself."""
    env = {"PROMPTQ_API_KEYS": "ann:k1", "OPENAI_API_KEY": "k", "PROMPTQ_REDIS_URL": f"redis://127.0.0.1:{free_port()}"}
    part = images[name].run(*arguments, **env)
    python = b"python"
    eventually(lambda: python in Path(f"/proc/{first(part)}/cmdline").read_bytes().split(b"\0")[0], within=20)
    eventually(lambda: hears_sigterm(first(part)), within=20)
    os.kill(first(part), signal.SIGTERM)
    said, _ = part.communicate(timeout=20)
    assert part.returncode == 0, said


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("api", (), "PROMPTQ_API_KEYS"),
        ("worker", (), "OPENAI_API_KEY"),
        ("worker", ("worker.dashboard",), "FLOWER_BASIC_AUTH"),
    ],
)
def test_an_image_without_what_it_needs_says_so(
    images: dict[str, Image], name: str, arguments: tuple[str, ...], says: str
) -> None:
    """Open to all and without a key, or with nothing to call, a container does not start, and says what to set."""
    part = images[name].run(*arguments, PROMPTQ_FLOWER_HOST="0.0.0.0")
    output, _ = part.communicate(timeout=60)
    assert part.returncode != 0
    assert says in output
    assert "Traceback" not in output
