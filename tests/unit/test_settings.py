"""The settings: what they read, what they refuse, and what they never show."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import pytest
from pydantic import ValidationError
from redis.connection import parse_url

from jobs.settings import Settings, parse_keys

ROOT = Path(__file__).parents[2]
SECRET = "hush-1234567890"


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings come from PROMPTQ_ variables, and the LLM's from the names that every OpenAI tool reads."""
    monkeypatch.setenv("PROMPTQ_PORT", "1234")
    monkeypatch.setenv("PROMPTQ_WORKER_QUEUES", "bulk, default")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    settings = Settings()
    assert (settings.port, settings.worker_queues) == (1234, ("bulk", "default"))
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == SECRET
    assert settings.openai_base_url is None


def test_keys_are_kept_as_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the SHA-256 of an API key is kept, and no key shows in what is printed."""
    monkeypatch.setenv("PROMPTQ_API_KEYS", f"ann:{SECRET},bob:other")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    settings = Settings()
    assert settings.api_keys[hashlib.sha256(SECRET.encode()).hexdigest()] == "ann"
    assert SECRET not in repr(settings) + str(settings) + settings.model_dump_json()


def test_webhook_settings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, hosts and networks, and delays come in lists; a key shows in nothing that is printed."""
    key = "A" * 43 + "="
    monkeypatch.setenv("PROMPTQ_ENCRYPTION_KEYS", f"{key}, {'B' * 43}=")
    monkeypatch.setenv("PROMPTQ_WEBHOOK_ALLOW", "Hooks.example, .corp.example, 10.0.0.0/8, ::1")
    monkeypatch.setenv("PROMPTQ_WEBHOOK_RETRIES", "1, 2.5")
    settings = Settings()
    assert [one.get_secret_value() for one in settings.encryption_keys] == [key, "B" * 43 + "="]
    assert key not in repr(settings) + str(settings) + settings.model_dump_json()
    assert settings.webhook_allow.hosts == {"hooks.example", ".corp.example"}
    assert [str(network) for network in settings.webhook_allow.networks] == ["10.0.0.0/8", "::1/128"]
    assert settings.webhook_retries == (1, 2.5)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({}, "redis://r:6379/2"),
        ({"redis_password": "p@ss/w:rd"}, "redis://:p%40ss%2Fw%3Ard@r:6379/2"),
        ({"redis_username": "ann", "redis_password": "hush"}, "redis://ann:hush@r:6379/2"),
        ({"redis_url": "redis://own:login@r/0", "redis_password": "p"}, "redis://own:login@r/0"),
        ({"redis_url": "rediss://r/0"}, "rediss://r/0?ssl_cert_reqs=required"),
        ({"redis_url": "rediss://r/0?ssl_cert_reqs=none"}, "rediss://r/0?ssl_cert_reqs=none"),
        ({"redis_url": "unix:///run/redis.sock"}, "unix:///run/redis.sock"),
    ],
)
def test_a_password_may_stand_beside_the_address(given: dict[str, str], url: str) -> None:
    """User and password of settings of their own go into an address that has none, whatever characters they hold."""
    settings = Settings.model_validate({"redis_url": "redis://r:6379/2", **given})
    assert settings.redis_login_url == url
    if "redis_password" in given and "own" not in url:
        assert parse_url(settings.redis_login_url)["password"] == given["redis_password"]
        assert given["redis_password"] not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROMPTQ_PORT", "70000"),
        ("PROMPTQ_LEASE_SECONDS", "0"),
        ("PROMPTQ_CONCURRENCY", "many"),
        ("PROMPTQ_WORKER_QUEUES", "default,fast"),
        ("PROMPTQ_WORKER_NAME", "a b"),
        ("PROMPTQ_LOG_LEVEL", "loud"),
        ("PROMPTQ_API_KEYS", SECRET),
        ("PROMPTQ_ENCRYPTION_KEYS", SECRET),
        ("PROMPTQ_ENCRYPTION_KEYS", f"{'A' * 43}=,{SECRET}"),
        ("PROMPTQ_WEBHOOK_ALLOW", "10.0.0.0/99"),
        ("PROMPTQ_WEBHOOK_ALLOW", "https://hooks.example.com"),
        ("PROMPTQ_WEBHOOK_RETRIES", "5,soon"),
        ("PROMPTQ_WEBHOOK_RETRIES", "5,-1"),
        ("PROMPTQ_WEBHOOK_RETRIES", "5,nan"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A value that makes no sense is refused with the setting's name; the value itself is not repeated."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert name.removeprefix("PROMPTQ_") in str(caught.value).upper()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("line", [SECRET, f"a b:{SECRET}", f":{SECRET}", "ann:", f"ann:sha256:{SECRET}"])
def test_a_bad_key_is_not_quoted(line: str) -> None:
    """A line that names no key and owner is refused by its number, without a word of it."""
    with pytest.raises(ValueError, match="API key 3") as caught:
        parse_keys(["# keys", "", line])
    assert SECRET not in str(caught.value)


def test_keys_may_come_as_hashes() -> None:
    """A key and its hash mean the same, in either case, and space around a key does not count."""
    digest = hashlib.sha256(b"k").hexdigest()
    for line in ("ann:k", f"ann:sha256:{digest}", f" ann:sha256:{digest.upper()} ", "ann: k"):
        assert parse_keys([line]) == {digest: "ann"}


def test_access_is_open_only_without_any_key(tmp_path: Path) -> None:
    """The server is open where no key is configured; an empty key file closes it."""
    assert Settings().open_access
    assert not Settings(api_keys=parse_keys(["ann:k"])).open_access
    assert not Settings(api_keys_file=tmp_path / "keys").open_access


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example.com", "")),
    ],
)
def test_loopback_is_known(host: str, loopback: bool) -> None:
    """Only addresses that this machine alone can reach count as loopback."""
    assert Settings(host=host).bind_is_loopback is loopback


def test_each_setting_says_what_it_is() -> None:
    """Each setting has a description, but for those whose name says it all."""
    silent = {name for name, setting in Settings.model_fields.items() if not setting.description}
    assert silent <= {"log_level"}


def test_only_the_settings_read_the_environment() -> None:
    """Nothing else in jobs, api and worker reads the environment, but for the Prometheus client's own variable."""
    allowed = {"jobs/settings.py", "api/metrics.py", "api/gunicorn_conf.py"}
    found = set()
    for room in ("jobs", "api", "worker"):
        for file in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                attribute = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
                if attribute and node.value.id == "os" and node.attr in ("environ", "environb", "getenv"):
                    found.add(str(file.relative_to(ROOT)))
                if isinstance(node, ast.ImportFrom) and node.module == "os":
                    assert not {"environ", "getenv"} & {name.name for name in node.names}, file
    assert found <= allowed
    for name in allowed - {"jobs/settings.py"}:
        lines = [line for line in (ROOT / name).read_text().splitlines() if "os.environ" in line]
        assert all("PROMETHEUS_MULTIPROC_DIR" in line for line in lines)


def test_an_llm_of_chat_completions_alone_keeps_no_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks such an LLM to keep conversations is told so at the start."""
    monkeypatch.setenv("PROMPTQ_LLM_API", "chat")
    assert (Settings().llm_api, Settings().conversations) == ("chat", "compose")
    monkeypatch.setenv("PROMPTQ_CONVERSATIONS", "llm")
    with pytest.raises(ValidationError, match="PROMPTQ_LLM_API=chat"):
        Settings()
