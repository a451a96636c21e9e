"""The script that tells Elasticsearch and Kibana of our logs, run as the rendered Job runs it.

By this machine's shell and curl, against a server that stands in for both.

``tests/system/run`` names this file; its own name keeps it out of ``make test``. It takes ``curl``.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.manifests.rendering import container, rendered
from tests.manifests.test_logging import INSIDE, TEMPLATE


class Elastic(ThreadingHTTPServer):
    """A stand-in for Elasticsearch and Kibana that writes down what it is asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str, str, bytes]] = []
        #: Statuses to answer a path with, before it is 200.
        self.refused: dict[str, list[int]] = {}
        self.imported = True


class _Handler(BaseHTTPRequestHandler):
    server: Elastic

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.append((self.command, self.path, self.headers["authorization"], body))
        refused = self.server.refused.get(self.path)
        answer = json.dumps({"success": self.server.imported}, separators=(",", ":")).encode()
        self.send_response(refused.pop(0) if refused else 200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_PUT  # noqa: N815  # http.server's name

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elastic() -> Iterator[Elastic]:
    """It listens."""
    with Elastic() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def job(elastic: Elastic, tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the Job's real script as the rendered Job does, with a shell and curl of this machine."""
    found = rendered(INSIDE)
    own = container(found.get("Job", "logging-setup"))
    assert own["command"] == ["sh", "/setup/setup.sh"]
    (data,) = [one["data"] for one in found.of("ConfigMap") if "setup.sh" in one["data"]]
    for name, text in data.items():
        (tmp_path / name).write_text(text)
    # Without waiting between tries.
    script = (tmp_path / "setup.sh").read_text()
    (tmp_path / "setup.sh").write_text(script.replace("--retry-delay 5", "--retry-delay 1"))
    ca = tmp_path / "ca.crt"
    ca.touch()
    given = found.settings(found.get("Job", "logging-setup")) | {
        "PATH": "/usr/bin:/bin",
        "ELASTICSEARCH_HOST": "127.0.0.1",
        "ELASTICSEARCH_PORT": str(elastic.server_port),
        "ELASTICSEARCH_CA": str(ca),
        "KIBANA_URL": f"http://127.0.0.1:{elastic.server_port}/kibana",
        "SETUP_USERNAME": "elastic",
        "SETUP_PASSWORD": 'a"b\\c',
        "ELASTICSEARCH_USERNAME": "writer",
        "ELASTICSEARCH_PASSWORD": 'w"r\\t $x',
        "KIBANA_PASSWORD": "k",
    }
    named = {one["name"] for one in own["env"]} | found.settings(found.get("Job", "logging-setup")).keys()
    assert given.keys() - {"PATH"} == named
    return subprocess.run(
        ["sh", tmp_path / "setup.sh"], env=given | env, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_setup_tells_elasticsearch_and_kibana_of_our_logs(elastic: Elastic, tmp_path: Path) -> None:
    """The template is there before Fluent Bit can log in, the lifecycle has the number of days, passwords arrive as
    they are, and a second run asks for the same."""
    ran = job(elastic, tmp_path)
    assert ran.returncode == 0, ran.stderr
    asked = {path: body for _, path, _, body in elastic.asked}
    assert [(method, path) for method, path, *_ in elastic.asked] == [
        ("PUT", "/_ilm/policy/promptq-logs"),
        ("PUT", "/_index_template/promptq-logs"),
        ("PUT", "/_security/role/promptq-logs"),
        ("PUT", "/_security/user/writer"),
        ("PUT", "/_security/user/kibana_system/_password"),
        ("POST", "/kibana/api/saved_objects/_import?overwrite=true"),
    ]
    assert {login for _, _, login, _ in elastic.asked} == {"Basic ZWxhc3RpYzphImJcYw=="}
    policy = json.loads(asked["/_ilm/policy/promptq-logs"])["policy"]
    assert policy["phases"]["delete"] == {"min_age": "30d", "actions": {"delete": {}}}
    assert json.loads(asked["/_index_template/promptq-logs"])["template"] == TEMPLATE
    assert json.loads(asked["/_security/user/writer"]) == {"password": 'w"r\\t $x', "roles": ["promptq-logs"]}
    assert b'"promptq-job"' in asked["/kibana/api/saved_objects/_import?overwrite=true"]
    first, elastic.asked = [one[:4] for one in elastic.asked[:-1]], []
    assert job(elastic, tmp_path).returncode == 0
    assert elastic.asked[:-1] == first
    assert 'w"r' not in ran.stdout + ran.stderr


def test_the_setup_waits_for_a_server_that_starts(elastic: Elastic, tmp_path: Path) -> None:
    """503 is not the end."""
    elastic.refused["/_ilm/policy/promptq-logs"] = [503]
    assert job(elastic, tmp_path).returncode == 0
    assert len(elastic.asked) == 7


@pytest.mark.parametrize("path", ["/_index_template/promptq-logs", "/_security/role/promptq-logs"])
def test_the_setup_fails_where_it_is_refused(elastic: Elastic, tmp_path: Path, path: str) -> None:
    """A Job that has not done its work says so, and Fluent Bit's user is not made."""
    elastic.refused[path] = [403]
    ran = job(elastic, tmp_path)
    assert ran.returncode != 0
    assert "403" in ran.stderr
    assert not any("/user/" in asked for _, asked, *_ in elastic.asked)


def test_the_setup_fails_where_kibana_imports_nothing(elastic: Elastic, tmp_path: Path) -> None:
    """Kibana answers 200 all the same."""
    elastic.imported = False
    assert job(elastic, tmp_path).returncode != 0


def test_the_setup_does_what_it_may(elastic: Elastic, tmp_path: Path) -> None:
    """Without rights over users, and without Kibana, it sets the template alone."""
    assert job(elastic, tmp_path, MAKE_USER="off", KIBANA_URL="", KIBANA_PASSWORD="").returncode == 0
    assert [path for _, path, *_ in elastic.asked] == ["/_ilm/policy/promptq-logs", "/_index_template/promptq-logs"]
