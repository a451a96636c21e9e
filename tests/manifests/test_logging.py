"""Logs on their way to Elasticsearch: our lines, Fluent Bit's configuration, the index template, Kibana's search."""

from __future__ import annotations

import ast
import fnmatch
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
import yaml

from jobs import logs
from tests.manifests.fluent_bit import Document, FluentBit, moment
from tests.manifests.rendering import COMBINATIONS, ROOT, component, container, labels, matches, pod, rendered
from tests.manifests.test_pods import size

OUTSIDE, INSIDE = "k8s/tests/production-logging", "k8s/tests/production-logging-elastic"
FOLDERS = (OUTSIDE, INSIDE)
SETUP = ROOT / "k8s/components/logging/parts/setup"
TEMPLATE = json.loads((SETUP / "index-template.json").read_text())["template"]
MAPPED: dict[str, dict[str, Any]] = TEMPLATE["mappings"]["properties"]
OBJECTS = {one["type"]: one for one in map(json.loads, (SETUP / "kibana.ndjson").read_text().splitlines())}
FILE = f"/var/log/containers/worker-5d8f6c7b9-x2x4z_promptq_worker-{'0123456789abcdef' * 4}.log"
#: What Fluent Bit adds.
ADDED = {"@timestamp", "time", "stream", "pod", "namespace", "component", "node", "message"}
#: What each line of jobs/logs.py has or may have beside what its call names; the time becomes ``@timestamp``.
SHARED = {"event", "level", "logger", "exception", "frames", "trace_id"}
#: Options that are used, by plugin: docs.fluentbit.io, 4.2, and the config maps in fluent/fluent-bit (src/flb_config.c,
#: plugins/in_tail/tail.c, filter_parser/filter_parser.c, filter_modify/modify.c, out_es/es.c).
OPTIONS = {
    "service": {
        *("flush", "grace", "log_level", "http_server", "http_listen", "http_port", "health_check", "scheduler.base"),
        *("scheduler.cap", "storage.path", "storage.sync", "storage.max_chunks_up", "storage.backlog.mem_limit"),
    },
    "tail": {
        *("tag", "path", "path_key", "multiline.parser", "db", "read_from_head", "refresh_interval", "rotate_wait"),
        *("buffer_chunk_size", "buffer_max_size", "skip_long_lines", "storage.type"),
        "storage.pause_on_chunks_overlimit",
    },
    "parser": {"match", "key_name", "parser", "reserve_data"},
    "modify": {"match", "condition", "rename", "remove", "add"},
    "es": {
        *("match", "host", "port", "tls", "tls.verify", "tls.ca_file", "http_user", "http_passwd", "logstash_format"),
        *("logstash_prefix", "logstash_dateformat", "time_key", "time_key_nanos", "generate_id", "write_operation"),
        *("suppress_type_name", "compress", "buffer_size", "trace_error", "retry_limit", "storage.total_limit_size"),
    },
}
#: Elasticsearch's ``strict_date_optional_time_nanos``, which a ``date_nanos`` without a format of its own has.
DATE_NANOS = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:?\d\d)")

each_folder = pytest.mark.parametrize("folder", FOLDERS)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[list[str]]:
    """Lines that the processes' own logger writes: ours, with an exception, and a library's."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    logs.configure("info", "json")
    log = structlog.get_logger("promptq.worker")
    with structlog.contextvars.bound_contextvars(job_id="job_1", owner="team"):
        log.info("job.attempt_started", attempt=1, queued_seconds=0.25)
        log.warning("job.attempt_failed", attempt=1, code="llm_timeout", retry_in=None, in_slot=True)
        try:
            raise ValueError("said")
        except ValueError:
            log.exception("job.crashed", attempt=2)
    logging.getLogger("gunicorn.error").info('Listening at: "%s"', "ü\t\\")
    yield capsys.readouterr().err.splitlines()
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def cri(line: str, *, part: int = 16384, stream: str = "stderr") -> list[str]:
    """A line as containerd writes it to the node's file: cut into parts, all but the last marked P."""
    parts = [line[at : at + part] for at in range(0, len(line), part)] or [""]
    marks = ["P"] * (len(parts) - 1) + ["F"]
    return [
        f"2026-03-01T23:59:59.{number:09}+00:00 {stream} {mark} {text}"
        for number, (mark, text) in enumerate(zip(marks, parts, strict=True), start=123456000)
    ]


def sent(line: str, *, folder: str = OUTSIDE, name: str = "worker", **how: Any) -> Document:
    """What Elasticsearch gets of one line of a container."""
    (document,) = FluentBit(rendered(folder)).read(FILE.replace("_worker-", f"_{name}-"), cri(line, **how))
    return document


@each_folder
def test_the_configuration_is_of_options_that_there_are(folder: str) -> None:
    """Each plugin has options that it knows, each parser and tag that is named is there, each variable is set."""
    bit = FluentBit(rendered(folder))
    assert set(bit.config) == {"service", "parsers", "pipeline"}
    assert set(bit.config["service"]) <= OPTIONS["service"]
    assert set(bit.config["pipeline"]) == {"inputs", "filters", "outputs"}
    for kind in ("inputs", "filters", "outputs"):
        for one in bit.config["pipeline"][kind]:
            assert one.keys() - {"name"} <= OPTIONS[one["name"]], one
            assert one.get("match", one.get("tag")) == bit.tail["tag"]
    parsers = {one["name"] for one in bit.config["parsers"]}
    assert {one["parser"] for one in bit.config["pipeline"]["filters"] if "parser" in one} == parsers
    node = rendered(folder).get("DaemonSet", "fluent-bit")
    known = {one["name"] for one in container(node)["env"]} | rendered(folder).settings(node).keys()
    used = set(re.findall(r"\$\{(\w+)\}", json.dumps(bit.config)))
    assert used
    assert used <= known


def test_our_lines_become_fields(lines: list[str]) -> None:
    """Each line of the real logger arrives whole, field by field, with its own time to the microsecond and what its
    file's name says; nothing of it is left as text."""
    assert len(lines) == 4
    for line in lines:
        written = json.loads(line)
        source = sent(line).source
        assert source["@timestamp"] == written.pop("timestamp")[:-1] + "000Z"
        assert {key: source[key] for key in written} == written
        assert source.keys() - written.keys() == ADDED - {"message"}
        assert (source["component"], source["namespace"]) == ("worker", "promptq")
        assert source["pod"] == "worker-5d8f6c7b9-x2x4z"


@pytest.mark.parametrize("part", [1, 7, 100])
def test_a_line_in_parts_is_put_together(lines: list[str], part: int) -> None:
    """However the runtime cuts it."""
    for line in lines:
        one, other = sent(line, part=part).source, sent(line).source
        assert one == other


def test_a_very_long_line_is_put_together(lines: list[str]) -> None:
    """A hundred kilobytes are seven parts for the runtime, none longer than what Fluent Bit reads at once."""
    long = json.dumps(json.loads(lines[0]) | {"frames": ["x" * 100_000]})
    parts = cri(long)
    assert len(parts) == 7
    tail = FluentBit(rendered(OUTSIDE)).tail
    assert max(map(len, parts)) < int(tail["buffer_chunk_size"].removesuffix("k")) * 1024
    assert sent(long).source["frames"] == ["x" * 100_000]


@pytest.mark.parametrize(
    "line",
    [
        "1:M 25 Nov 2026 19:14:04.123 * Ready to accept connections tcp",
        "Traceback (most recent call last):",
        '  File "x.py", line 1, in <module>',
        "",
        "12",
        '["a"]',
        '{"event": "cut off',
    ],
)
def test_what_is_not_one_of_our_lines_is_kept_as_text(line: str) -> None:
    """Redis' own lines and tracebacks arrive as they are, with the runtime's time."""
    source = sent(line, stream="stdout").source
    assert source["message"] == line
    assert source.keys() == ADDED
    assert source["@timestamp"] == "2026-03-01T23:59:59.123456000Z"


@pytest.mark.parametrize("name", ["queue-proxy", "istio-proxy", "redis", "worker-helper", "my-api"])
def test_json_of_others_is_kept_as_text(name: str) -> None:
    """Knative's queue-proxy, sidecars: a field of theirs that we have with another type would be refused, for ever."""
    line = '{"timestamp": "2026-03-01T23:59:59.5Z", "status": {"code": 1}, "message": {"a": 1}, "pod": 7}'
    source = sent(line, name=name).source
    assert source["message"] == line
    assert source.keys() == ADDED
    assert source["component"] == name


def test_json_is_that_of_our_own_containers() -> None:
    """Of each container of our own images, in each combination, and of no other's."""
    line = '{"timestamp": "2026-03-01T23:59:59.5Z", "event": "e"}'
    seen = set()
    for folder in COMBINATIONS:
        for workload in rendered(folder).all_workloads():
            own = container(workload)
            ours = re.search(r"\bpromptq[/-](api|worker)", own["image"]) is not None
            assert ("event" in sent(line, name=own["name"]).source) is ours, (folder, own["name"])
            seen.add((own["name"], ours))
    assert {("api", True), ("worker", True), ("scheduler", True), ("flower", True), ("redis", False)} <= seen


@each_folder
def test_a_line_that_is_refused_does_not_stop_the_others(folder: str) -> None:
    """A chunk is tried for days, so that Elasticsearch may be away, and not for ever: chunks that it refuses would fill
    the buffer."""
    bit = FluentBit(rendered(folder))
    wait = (bit.config["service"]["scheduler.base"] + bit.config["service"]["scheduler.cap"]) / 2
    assert 1 < bit.es["retry_limit"] * wait / 86400 < 3
    page = (ROOT / "docs/deploy/logging.md").read_text()
    assert "for two days" in page


def test_a_time_without_a_fraction_loses_no_line(lines: list[str]) -> None:
    """Python leaves the fraction out once in a million lines: such a line has the runtime's time."""
    line = json.dumps(json.loads(lines[0]) | {"timestamp": "2026-03-01T23:59:59Z"})
    source = sent(line).source
    assert source["@timestamp"] == "2026-03-01T23:59:59.123456000Z"
    assert source["job_id"] == "job_1"


def test_a_time_in_another_format_is_found() -> None:
    """The test of the time can fail."""
    for text in ("2026-03-01 23:59:59.1Z", "2026-03-01T23:59:59.1", "1772409599.1Z"):
        with pytest.raises(ValueError, match=re.escape(text[:4])):
            moment(text, "%Y-%m-%dT%H:%M:%S.%L%z")


def test_a_line_that_is_read_again_is_the_same_document(lines: list[str]) -> None:
    """Its index and id are the line's own, so nothing is there twice; the same words at another time are another."""
    first, again = sent(lines[0]), sent(lines[0])
    assert (first.index, first.id) == (again.index, again.id)
    bit = FluentBit(rendered(OUTSIDE))
    later = bit.read(FILE, [cri("the same")[0].replace("123456000", "123456001"), *cri("the same")])
    assert len({one.id for one in later}) == 2
    assert {one.index for one in later} == {"promptq-logs-2026.03.01"}
    assert bit.es["write_operation"] == "create"
    # The runtime's time, to the nanosecond, is part of what the id is made of.
    assert "time" in later[0].source


def test_only_promptq_s_files_are_read() -> None:
    """By their names, in which the namespace stands between underscores, which no name has."""
    path = FluentBit(rendered(OUTSIDE)).tail["path"]
    assert fnmatch.fnmatchcase(FILE, path)
    for other in ("default", "promptq-logging", "not-promptq", "promptq2"):
        assert not fnmatch.fnmatchcase(FILE.replace("_promptq_", f"_{other}_"), path)


def test_containers_are_called_as_their_components() -> None:
    """Since the container's name is what the field ``component`` has."""
    for workload in rendered(OUTSIDE).workloads():
        assert container(workload)["name"] == component(workload)


def calls() -> dict[str, set[str]]:
    """What the code's log calls name, with the expressions of it."""
    found: dict[str, set[str]] = {}
    for file in (path for place in ("api", "jobs", "worker") for path in (ROOT / place).rglob("*.py")):
        tree = ast.parse(file.read_text())
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called.startswith("_log.") or called == "log" or called.endswith("_contextvars"):
                for keyword in node.keywords:
                    found.setdefault(keyword.arg or f"**{file.stem}", set()).add(ast.unparse(keyword.value))
        if file.stem == "scheduler":
            (steps,) = [
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "steps"
            ]
            assert isinstance(steps, ast.Dict)
            found |= {ast.literal_eval(key): {"len(counted)"} for key in steps.keys if key} | {"recovered": {"len(x)"}}
    # The scheduler's counts are the steps above; an exception becomes two fields.
    assert found.pop("**scheduler") == {"counts"}
    del found["exc_info"]
    return found


def test_each_field_that_is_logged_is_mapped_and_no_other() -> None:
    """The template knows what the code logs and what Fluent Bit adds, and has no field that nobody writes."""
    logged = calls().keys()
    assert {"job_id", "attempt", "retry_in", "call_seconds", "webhook_host", "promoted"} <= logged
    assert logged | SHARED | ADDED == MAPPED.keys()
    assert not (logged | SHARED) & (ADDED | {"log", "json", "path", "_p"}), "Fluent Bit would have a key twice"


def test_fields_have_types_that_fit() -> None:
    """Numbers, truths and names, as the code's expressions say; times are dates of nanoseconds."""
    fits = {
        r"round\(": "float",
        r"len\(": "integer",
        r"'|str\(|.*__name__$": "keyword",
        r".* is (not )?None$": "boolean",
    }
    seen = set()
    for name, expressions in calls().items():
        for expression in expressions:
            for start, kind in fits.items():
                if re.match(start, expression):
                    assert MAPPED[name]["type"] == kind, (name, expression)
                    seen.add(kind)
    assert seen == set(fits.values())
    for name in ("job_id", "queue", "status", "level", "owner", "component", "request_id", "code"):
        assert MAPPED[name]["type"] == "keyword"
    for name in ("attempt", "exit_code", "running"):
        assert MAPPED[name]["type"] == "integer"
    for name in ("@timestamp", "time"):
        assert MAPPED[name] == {"type": "date_nanos"}


def test_elasticsearch_takes_the_times(lines: list[str]) -> None:
    """Both have a form that a date of nanoseconds takes."""
    for line in [*lines, "text"]:
        source = sent(line).source
        assert DATE_NANOS.fullmatch(source["@timestamp"])
        assert DATE_NANOS.fullmatch(source["time"])
    assert not DATE_NANOS.fullmatch("2026-03-01 23:59:59.1Z")


def test_fields_do_not_multiply_and_no_line_is_refused() -> None:
    """A field that the template does not know is kept, and not indexed; a value of another type is let be."""
    assert TEMPLATE["mappings"]["dynamic"] is False
    assert TEMPLATE["settings"]["index.mapping.ignore_malformed"] is True


def test_what_is_written_is_what_the_template_the_role_and_the_search_are_about() -> None:
    """One name for all, which is none of Elasticsearch's own templates'; Fluent Bit may add lines, and nothing else."""
    prefix = FluentBit(rendered(OUTSIDE)).es["logstash_prefix"]
    whole = json.loads((SETUP / "index-template.json").read_text())
    role = json.loads((SETUP / "role.json").read_text())
    assert whole["index_patterns"] == [f"{prefix}-*"]
    assert OBJECTS["index-pattern"]["attributes"]["title"] == f"{prefix}-*"
    assert not fnmatch.fnmatchcase(f"{prefix}-2026.03.01", "logs-*-*")
    assert TEMPLATE["settings"]["index.lifecycle.name"] == prefix
    # No reading, no changing, no deleting: who has its password sees no line.
    assert role == {
        "cluster": [],
        "indices": [{"names": [f"{prefix}-*"], "privileges": ["auto_configure", "create_doc"]}],
    }


def test_the_saved_search_is_by_job() -> None:
    """Its query is by job_id, in the order of time, and its columns are fields that lines have."""
    search, view = OBJECTS["search"], OBJECTS["index-pattern"]
    attributes = search["attributes"]
    assert {"component", "event", "message", "job_id", "attempt", "level"} <= set(attributes["columns"])
    assert set(attributes["columns"]) <= MAPPED.keys()
    assert attributes["sort"] == [[view["attributes"]["timeFieldName"], "asc"]]
    source = json.loads(attributes["kibanaSavedObjectMeta"]["searchSourceJSON"])
    assert source["query"] == {"language": "kuery", "query": "job_id : *"}
    (reference,) = search["references"]
    assert reference == {"id": view["id"], "name": source["indexRefName"], "type": "index-pattern"}


@each_folder
def test_what_waits_is_bounded(folder: str) -> None:
    """Reading stops before anything is thrown away, and long before the volume or the memory is full."""
    bit, node = FluentBit(rendered(folder)), rendered(folder).get("DaemonSet", "fluent-bit")
    chunks = bit.config["service"]["storage.max_chunks_up"] * 2 * 2**20
    limit = int(bit.es["storage.total_limit_size"].removesuffix("M")) * 2**20
    (state,) = [one["emptyDir"] for one in pod(node)["volumes"] if one["name"] == "state"]
    assert bit.tail["storage.type"] == "filesystem"
    assert bit.tail["storage.pause_on_chunks_overlimit"] is True
    assert chunks < limit < size(state["sizeLimit"])
    assert chunks * 2 < size(container(node)["resources"]["limits"]["memory"])
    for file in (bit.tail["db"], bit.config["service"]["storage.path"]):
        assert file.startswith("/state/")


@each_folder
def test_fluent_bit_reads_the_node_s_logs_and_touches_nothing(folder: str) -> None:
    """Two folders of the node, read-only; neither root nor a capability, and no namespace of the node's."""
    node = rendered(folder).get("DaemonSet", "fluent-bit")
    given = {one["name"]: one["hostPath"]["path"] for one in pod(node)["volumes"] if "hostPath" in one}
    assert sorted(given.values()) == ["/var/log/containers", "/var/log/pods"]
    for mount in container(node)["volumeMounts"]:
        if mount["name"] in given:
            assert mount["readOnly"] is True
            assert mount["mountPath"] == given[mount["name"]], "links lead from one to the other"
    assert {"supplementalGroups", "fsGroup"} & pod(node)["securityContext"].keys() == set()


@each_folder
def test_pods_of_the_logs_are_restricted_in_all_else(folder: str) -> None:
    """What Pod Security's `restricted` asks for, an account of their own without a token, requests and limits."""
    found = rendered(folder)
    others = found.of("DaemonSet", "Job")
    assert {component(one) for one in others} == {"fluent-bit", "logging-setup"}
    for workload in others:
        spec, own = pod(workload), container(workload)
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & spec.keys()
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] >= 10000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert own["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["serviceAccountName"] == component(workload)
        assert found.get("ServiceAccount", component(workload))["automountServiceAccountToken"] is False
        for kind in ("requests", "limits"):
            assert set(own["resources"][kind]) == {"cpu", "memory"}
        assert {one["name"] for one in own["volumeMounts"]} == {one["name"] for one in spec["volumes"]}
        for volume in spec["volumes"]:
            assert "emptyDir" not in volume or "sizeLimit" in volume["emptyDir"]
    node = found.get("DaemonSet", "fluent-bit")
    assert matches(node["spec"]["selector"], labels(node))
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container(node).keys()
    assert [port["containerPort"] for port in container(node)["ports"]] == [
        FluentBit(found).config["service"]["http_port"]
    ]


@each_folder
def test_the_namespace_of_promptq_stays_restricted(folder: str) -> None:
    """Only the logs' own namespace admits the node's files, and nothing of PromptQ itself is in it."""
    found = rendered(folder)
    enforced = {
        one["metadata"]["name"]: one["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for one in found.of("Namespace")
    }
    assert enforced == {"promptq": "restricted", "promptq-logging": "privileged"}
    for workload in found.all_workloads():
        ours = labels(workload)["app.kubernetes.io/name"] == "promptq"
        assert workload["metadata"]["namespace"] == ("promptq" if ours else "promptq-logging")


def test_elasticsearch_and_kibana_fit_each_other() -> None:
    """One version, one login, addresses and ports of the Services that there are, half of the memory for the heap."""
    found = rendered(INSIDE)
    elasticsearch, kibana = found.get("StatefulSet", "elasticsearch"), found.get("Deployment", "kibana")
    tags = {container(one)["image"].rpartition(":")[2] for one in (elasticsearch, kibana)}
    assert len(tags) == 1
    (conf,) = [one["data"]["elasticsearch.yml"] for one in found.of("ConfigMap") if "elasticsearch.yml" in one["data"]]
    settings = yaml.safe_load(conf)
    assert settings["xpack.security.enabled"] is True
    assert not any(name.startswith("xpack.security.authc.anonymous") for name in settings)
    heap = re.fullmatch(r"-Xms(\w+) -Xmx(\w+)", found.settings(elasticsearch)["ES_JAVA_OPTS"])
    assert heap
    assert heap[1] == heap[2]
    limit = size(container(elasticsearch)["resources"]["limits"]["memory"])
    assert size(heap[1] + "b") <= limit / 2
    (login,) = [one for one in container(elasticsearch)["env"] if one["name"] == "ELASTIC_PASSWORD"]
    job = {one["name"]: one.get("valueFrom") for one in container(found.get("Job", "logging-setup"))["env"]}
    theirs = {one["name"]: one.get("valueFrom") for one in container(kibana)["env"]}
    assert login["valueFrom"] == job["SETUP_PASSWORD"]
    assert job["KIBANA_PASSWORD"] == theirs["ELASTICSEARCH_PASSWORD"]
    shared = found.settings(found.get("DaemonSet", "fluent-bit"))
    ports = {one["metadata"]["name"]: one["spec"]["ports"][0]["port"] for one in found.of("Service")}
    where = (shared["ELASTICSEARCH_HOST"], int(shared["ELASTICSEARCH_PORT"]), shared["ELASTICSEARCH_TLS"])
    assert where == ("elasticsearch", ports["elasticsearch"], "off")
    assert found.settings(kibana)["ELASTICSEARCH_HOSTS"] == f"http://elasticsearch:{ports['elasticsearch']}"
    assert shared["KIBANA_URL"] == f"http://kibana:{ports['kibana']}"


def test_an_elasticsearch_outside_is_spoken_to_by_tls() -> None:
    """By default, and its certificate is checked."""
    found = rendered(OUTSIDE)
    assert found.settings(found.get("DaemonSet", "fluent-bit"))["ELASTICSEARCH_TLS"] == "on"
    assert FluentBit(found).es["tls.verify"] is True


def test_how_long_logs_are_kept_is_said_once() -> None:
    """In the ConfigMap; everything else names it."""
    said = [
        file.name
        for file in (ROOT / "k8s/components").rglob("*")
        if file.is_file() and re.search(r"\b30d\b", file.read_text(errors="replace"))
    ]
    assert said == ["kustomization.yaml"]


def test_no_password_stands_on_a_command_line() -> None:
    """curl reads its login from a file."""
    script = (SETUP / "setup.sh").read_text()
    assert "--user" not in script
    assert not re.search(r"\s-u\s", script)
    for line in script.splitlines():
        if "PASSWORD" in line and not line.startswith(("#", "if")):
            assert line.strip().startswith("printf"), line


@each_folder
def test_images_have_a_version(folder: str) -> None:
    """A tag that says one, whole."""
    for workload in rendered(folder).all_workloads():
        if workload["metadata"]["namespace"] == "promptq-logging":
            assert re.search(r":[0-9]+\.[0-9]+\.[0-9]+$", container(workload)["image"])
