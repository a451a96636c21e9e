"""Every setting of every process, in one frozen object. The only module that reads the environment."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
import sys
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from jobs.queues import OWNER_PATTERN, QUEUES
from jobs.webhook_urls import Allowed

LOCAL_OWNER = "local"
OPENAI_URL = "https://api.openai.com/v1"
#: Longest deadline, in seconds: beyond it a job would outlive what is kept of it.
MAX_DEADLINE = 30 * 24 * 3600
_MAX_WEBHOOK_DELAY = 7 * 24 * 3600
_MAX_WEBHOOK_RETRIES = 20


class Settings(BaseSettings):
    """The settings of one process, read once from ``PROMPTQ_*`` (and ``OPENAI_*``); immutable afterwards.

    Durations are in seconds and sizes in bytes. Raises pydantic's ``ValidationError``, which names the variable, on a
    value that makes no sense.
    """

    model_config = SettingsConfigDict(
        env_prefix="PROMPTQ_", env_ignore_empty=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Redis or Valkey (7.0 or newer).")
    redis_username: str | None = Field(None, description="User at Redis, where the address names none.")
    redis_password: SecretStr | None = Field(
        None, description="Password at Redis, for an address without one; it may hold any character."
    )
    redis_sentinels: Annotated[tuple[tuple[str, int], ...], NoDecode] = Field(
        (),
        description="Redis Sentinels, 'host:port,host:port': they name the master, and PROMPTQ_REDIS_URL gives only "
        "user, password and database.",
    )
    redis_master: str = Field("mymaster", min_length=1, description="Name of the master that the Sentinels watch.")
    redis_sentinel_username: str | None = Field(None, description="User at the Sentinels, where they want one.")
    redis_sentinel_password: SecretStr | None = Field(None, description="Password of the Sentinels, if they have one.")
    durability: Literal["server", "fsync"] = Field(
        "server",
        description="What a 202 promises. server: as much as Redis is set to; fsync: a job that is on disk (WAITAOF).",
    )
    redis_max_connections: int = Field(
        100, ge=4, description="Connections that one process may hold; callers beyond it wait for a free one."
    )
    redis_timeout: float = Field(
        1.5, gt=0, description="How long the API waits for one answer of Redis. Connecting has half a second on top."
    )

    host: str = Field("127.0.0.1", description="Address that the API binds. Without API keys only loopback is allowed.")
    port: int = Field(8000, ge=0, le=65535, description="Port that the API binds.")
    api_workers: int = Field(1, ge=1, le=64, description="API processes under gunicorn.")
    drain_seconds: float = Field(
        0, ge=0, le=300, description="How long the API goes on accepting after SIGTERM, with /readyz red."
    )
    api_keys: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict, description="API keys as 'owner:key,owner:key'; kept as SHA-256 hashes only.", repr=False
    )
    api_keys_file: Path | None = Field(
        None, description="File with a line 'owner:key' or 'owner:sha256:HEX' per key; re-read when it changes."
    )
    operators: Annotated[frozenset[str], NoDecode] = Field(
        frozenset({LOCAL_OWNER}),
        description="Owners who may pause and resume queues, separated by commas; local is who calls without keys.",
    )
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024, description="Largest request body; a larger one gets a 413.")
    max_prompt_bytes: int = Field(
        4 * 1024 * 1024, ge=1, description="Largest prompt (input, messages or prompt, as JSON); larger gets a 413."
    )
    max_wait: float = Field(
        300,
        gt=0,
        le=3600,
        description="How long a synchronous call is held open before it gets a 504, and how long a stream goes on "
        "without an event.",
    )
    models_cache_seconds: float = Field(30, ge=0, description="How long the list of models is cached.")

    default_model: str = Field("gpt-5-mini", min_length=1, description="Model of a prompt that names none.")
    openai_api_key: SecretStr | None = Field(
        None, validation_alias=AliasChoices("OPENAI_API_KEY", "openai_api_key"), description="Key of the LLM."
    )
    openai_base_url: str | None = Field(
        None,
        validation_alias=AliasChoices("OPENAI_BASE_URL", "openai_base_url"),
        description="Address of any OpenAI-compatible LLM; OpenAI's own by default.",
    )

    llm_api: Literal["responses", "chat"] = Field(
        "responses",
        description="Which API the LLM has: responses, or chat completions alone (chat; responses are translated).",
    )
    conversations: Literal["compose", "llm"] = Field(
        "compose",
        description="Who keeps conversations (previous_response_id). compose: PromptQ, which sends all earlier turns "
        "again; llm: the LLM.",
    )

    result_ttl: int = Field(
        7 * 24 * 3600,
        ge=1,
        le=10 * 365 * 24 * 3600,
        description="How long a finished job, its result and its Idempotency-Key are kept.",
    )
    max_attempts: int = Field(5, ge=1, le=100, description="LLM calls for one job, the first included.")
    retry_base: float = Field(1.0, gt=0, description="Upper bound of the first backoff; it doubles with each attempt.")
    retry_max: float = Field(60.0, gt=0, description="Upper bound of any backoff of our own.")
    retry_after_max: float = Field(600.0, gt=0, description="Longest Retry-After of the LLM that is honoured.")
    retry_in_slot: float = Field(
        2.0, ge=0, description="A retry that is due sooner than this waits in its slot; a later one frees the slot."
    )
    call_timeout: float = Field(
        600, gt=0, description="Longest LLM call; a job's own attempt_timeout_seconds may be shorter."
    )
    default_deadline: float | None = Field(
        None,
        gt=0,
        le=MAX_DEADLINE,
        description="Deadline of a job that names none, in seconds from its submission; none by default.",
    )
    connect_timeout: float = Field(5, gt=0, description="Longest wait for a connection to the LLM.")
    stream_max_bytes: int = Field(
        256 * 1024,
        ge=0,
        description="Size of a job's stream up to which each piece of text is kept as it came; beyond it several are "
        "put together.",
    )

    concurrency: int = Field(100, ge=1, le=5000, description="LLM calls that one worker process has in flight.")
    worker_name: str = Field("worker", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="Name of this worker in Flower.")
    worker_queues: Annotated[tuple[str, ...], NoDecode] = Field(
        QUEUES, description="Queues that this worker serves, in order of preference, separated by commas."
    )
    worker_ready_file: Path | None = Field(None, description="The worker writes its pid here once it consumes.")
    bulk_share: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Share of a worker's slots that bulk may take, rounded down but one at least; the rest stays free "
        "for the other queues it serves.",
    )
    batch_window: int = Field(
        5000,
        ge=2,
        le=100_000,
        description="Jobs that one batch has in the queue at once; its other lines stay in their file until then.",
    )
    batch_max_bytes: int = Field(
        256 * 1024 * 1024,
        ge=1024 * 1024,
        description="Bytes of requests and results that all batches together have in Redis; one has a quarter at most.",
    )
    batch_ttl: int = Field(
        30 * 24 * 3600, ge=1, le=10 * 365 * 24 * 3600, description="How long a batch that has ended is kept."
    )
    lease_seconds: float = Field(
        30, ge=1, le=3600, description="How long a claim holds without a heartbeat before the job is given to another."
    )
    grace_seconds: float = Field(
        30, ge=0, description="How long running calls may finish after SIGTERM before they are handed back."
    )
    scheduler_interval: float = Field(1.0, gt=0, le=60, description="Time between two ticks of the scheduler.")
    repair_after: float = Field(
        10, ge=1, le=3600, description="How long a waiting job may be passed over before its message is sent again."
    )
    scheduler_ready_file: Path | None = Field(
        None, description="The scheduler writes its pid here after its first tick."
    )

    encryption_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Keys under which webhook secrets are stored (`promptq webhooks key` makes one), separated by "
        "commas: the first encrypts, all decrypt. Without one there are no webhooks.",
    )
    webhook_allow: Annotated[Allowed, NoDecode] = Field(
        Allowed(),
        description="Hosts (name, or .suffix) and networks (CIDR) that webhooks may reach although they are private, "
        "and by http, separated by commas.",
    )
    webhook_concurrency: int = Field(
        100, ge=0, le=5000, description="Webhooks that one worker process sends at once, beside its LLM calls; 0: none."
    )
    webhook_slow_concurrency: int = Field(
        25, ge=1, le=5000, description="How many more it sends at once to hosts that are slow, all of them together."
    )
    webhook_slow_after: float = Field(2.0, gt=0, description="A host that takes longer than this is slow.")
    webhook_per_host: int = Field(
        20, ge=1, le=1000, description="Webhooks on their way to one host at once, from all workers together."
    )
    webhook_timeout: float = Field(15.0, gt=0, le=300, description="Longest try to deliver a webhook, in all.")
    webhook_retries: Annotated[tuple[float, ...], NoDecode] = Field(
        (5, 300, 1800, 7200, 18000, 36000, 36000),
        description="Seconds from each failed try to the next, separated by commas; a fifth more or less at random.",
    )
    webhook_disable_after: float = Field(
        5 * 24 * 3600, gt=0, description="An endpoint whose tries have all failed for so long is disabled."
    )

    storage: str = Field(
        ".promptq/files",
        min_length=1,
        description="Where the contents of files are kept: a directory that API and workers share, s3://bucket/prefix, "
        "or none for no files.",
    )
    s3_endpoint: str | None = Field(
        None, pattern=r"^https?://", description="Address of an S3-compatible store; Amazon's own by default."
    )
    s3_region: str | None = Field(None, description="Region of the bucket, where the store has regions.")
    s3_access_key_id: str | None = Field(
        None, description="Key at the store; without one boto3 looks in its own places (AWS_…, the pod's identity)."
    )
    s3_secret_access_key: SecretStr | None = Field(None, description="The secret that belongs to that key.")
    max_file_bytes: int = Field(
        200 * 1024 * 1024, ge=1, description="Largest file that can be uploaded; a larger one gets a 413."
    )

    flower_host: str = Field("127.0.0.1", description="Address that Flower binds; off loopback it needs a login.")
    flower_port: int = Field(5555, ge=1, le=65535, description="Port that Flower binds.")
    flower_url_prefix: str = Field(
        "flower", pattern=r"^[a-z0-9-]+(/[a-z0-9-]+)*$", description="Path below which Flower answers, all of it."
    )
    flower_basic_auth: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("FLOWER_BASIC_AUTH", "flower_basic_auth"),
        description="Logins of Flower, 'user:password,user:password'. Flower reads this and its other FLOWER_… itself.",
    )
    flower_auth: str | None = Field(
        None,
        validation_alias=AliasChoices("FLOWER_AUTH", "flower_auth"),
        description="E-mail addresses (a pattern) that may log in to Flower by OAuth; see Flower's documentation.",
    )

    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Separate port for Prometheus metrics. Without it the API serves /metrics at its own port; workers "
        "and schedulers export none.",
    )
    metrics_host: str = Field("127.0.0.1", description="Address that the metrics' port binds.")
    heartbeat_file: Path | None = Field(
        None, description="File that a worker or scheduler touches every few seconds, for probes."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug, info, warning or error."
    )
    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, JSON elsewhere.")
    tracing: bool = Field(
        False,
        description="Send traces to the OpenTelemetry collector (OTLP over HTTP) at OTEL_EXPORTER_OTLP_ENDPOINT.",
    )

    @field_validator("api_keys", mode="before")
    @classmethod
    def _hash_keys(cls, value: object) -> object:
        return parse_keys(value.split(",")) if isinstance(value, str) else value

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, value: str) -> str:
        if not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        if ";" in value or re.search(r"[?&]db=", value):
            # kombu takes the one for a list of servers, and does not know the other.
            raise ValueError("must have its database in the path (/3, not ?db=3), and ';' in a password as %3B")
        return value

    @field_validator("redis_sentinels", mode="before")
    @classmethod
    def _split_sentinels(cls, value: object) -> object:
        return (
            tuple(_host_and_port(part) for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @model_validator(mode="after")
    def _plain_redis_behind_sentinels(self) -> Settings:
        if self.redis_sentinels and (not self.redis_url.startswith("redis://") or "?" in self.redis_url):
            raise ValueError("with PROMPTQ_REDIS_SENTINELS, PROMPTQ_REDIS_URL is redis://[user:password@]any/database")
        return self

    @model_validator(mode="after")
    def _chat_keeps_nothing(self) -> Settings:
        if self.llm_api == "chat" and self.conversations == "llm":
            raise ValueError(
                "with PROMPTQ_LLM_API=chat the LLM keeps no conversation: PROMPTQ_CONVERSATIONS is compose"
            )
        return self

    @field_validator("storage")
    @classmethod
    def _storage(cls, value: str) -> str:
        bucket = r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_./-]*)?"
        if "://" in value and not re.fullmatch(bucket, value):
            raise ValueError("must be a directory, s3://bucket/prefix or none")
        return value

    @model_validator(mode="after")
    def _whole_s3_key(self) -> Settings:
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError("PROMPTQ_S3_ACCESS_KEY_ID and PROMPTQ_S3_SECRET_ACCESS_KEY belong together")
        return self

    @field_validator("worker_queues", "operators", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("worker_queues")
    @classmethod
    def _known_queues(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or set(value) - set(QUEUES):
            raise ValueError(f"must name some of {', '.join(QUEUES)}")
        return value

    @field_validator("operators")
    @classmethod
    def _possible_owners(cls, value: frozenset[str]) -> frozenset[str]:
        if not all(OWNER_PATTERN.fullmatch(owner) for owner in value):
            raise ValueError("must be owners (letters, digits, '_', '-', '.'), separated by commas")
        return value

    @field_validator("encryption_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        keys = [part.strip() for part in value.split(",") if part.strip()]
        for key in keys:
            try:
                size = len(base64.b64decode(key, altchars=b"-_", validate=True))
            except ValueError:
                size = 0
            if size != 32:
                raise ValueError("each must be 32 bytes in URL-safe base64; `promptq webhooks key` makes one")
        return tuple(SecretStr(key) for key in keys)

    @field_validator("webhook_allow", mode="before")
    @classmethod
    def _parse_allowed(cls, value: object) -> object:
        return Allowed.parse(part for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("webhook_retries", mode="before")
    @classmethod
    def _parse_retries(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            delays = tuple(float(part) for part in value.split(",") if part.strip())
        except ValueError:
            delays = (-1.0,)
        if not all(0 <= delay <= _MAX_WEBHOOK_DELAY for delay in delays) or len(delays) > _MAX_WEBHOOK_RETRIES:
            raise ValueError(f"must be up to {_MAX_WEBHOOK_RETRIES} durations in seconds, separated by commas")
        return delays

    @property
    def llm_url(self) -> str:
        """The LLM's address."""
        return self.openai_base_url or OPENAI_URL

    @property
    def redis_login_url(self) -> str:
        """``redis_url`` with ``redis_username`` and ``redis_password`` in it, where it has no login of its own.

        With TLS the server's certificate is checked unless the URL says otherwise: left to itself, kombu would not.
        """
        parts = urlsplit(self.redis_url)
        if parts.scheme == "unix":
            return self.redis_url
        if parts.scheme == "rediss" and "ssl_cert_reqs" not in parts.query:
            parts = parts._replace(query="&".join(filter(None, (parts.query, "ssl_cert_reqs=required"))))
        if "@" not in parts.netloc and self.redis_password is not None:
            user, password = self.redis_username or "", self.redis_password.get_secret_value()
            parts = parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{parts.netloc}")
        return urlunsplit(parts)

    @property
    def open_access(self) -> bool:
        """Whether no key is configured at all, so that anybody who reaches the server is the owner ``local``.

        A key file that is configured but empty closes the server; it does not open it.
        """
        return not self.api_keys and self.api_keys_file is None

    @property
    def bind_problem(self) -> str | None:
        """Why the API must not bind its address, in a sentence; None if it may."""
        if not self.open_access or self.bind_is_loopback:
            return None
        return (
            f"no API key is configured, so {self.host} is not bound: anybody could spend your money. "
            "Set PROMPTQ_API_KEYS (owner:key,…) or PROMPTQ_API_KEYS_FILE, or bind 127.0.0.1."
        )

    @property
    def bind_is_loopback(self) -> bool:
        """Whether the API's address can be reached from this machine only."""
        return _is_loopback(self.host)

    @property
    def flower_problem(self) -> str | None:
        """Why Flower must not bind its address, in a sentence; None if it may."""
        if self.flower_basic_auth is not None:
            logins = (login.partition(":") for login in self.flower_basic_auth.get_secret_value().split(","))
            # An empty one would let in whoever sends an empty one.
            if not all(user.strip() and password.strip() for user, _, password in logins):
                return "FLOWER_BASIC_AUTH is not user:password, or several separated by commas."
        if self.flower_basic_auth is not None or self.flower_auth is not None or _is_loopback(self.flower_host):
            return None
        return (
            f"no login is configured, so {self.flower_host} is not bound: anybody could look on. "
            "Set FLOWER_BASIC_AUTH (user:password) or FLOWER_AUTH, or bind 127.0.0.1."
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.strip().rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("must be host:port, or several separated by commas")
    return host.strip("[]"), int(port)


def environment_name(field: str) -> str:
    """The variable that a field of ``Settings`` is read from."""
    alias = Settings.model_fields[field].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else f"PROMPTQ_{field.upper()}"


def load_or_exit(process: str) -> Settings:
    """The settings of this process; on a bad one, a line on standard error that names its variable, and exit code 2."""
    try:
        return Settings()
    except ValidationError as error:
        for problem in problems(error):
            print(f"promptq {process}: {problem}", file=sys.stderr)  # noqa: T201  # before there is a log
        sys.exit(2)


def problems(error: ValidationError) -> list[str]:
    """What is wrong with the settings, a line for each variable, which it names; its value is not quoted."""
    return [
        f"{environment_name(str(problem['loc'][0])) if problem['loc'] else 'settings'}: "
        f"{problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False, include_input=False)
    ]


def parse_keys(lines: list[str]) -> dict[str, str]:
    """Map the SHA-256 hash (hex) of each key to its owner, from ``owner:key`` or ``owner:sha256:HEX`` lines.

    Empty lines and lines that begin with ``#`` are passed over. Raises ``ValueError``, which never quotes a key.
    """
    keys: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        owner, colon, key = (part.strip() for part in line.partition(":"))
        if not colon or not OWNER_PATTERN.fullmatch(owner) or not key:
            raise ValueError(f"API key {number} is not of the form owner:key (owner: letters, digits, '_', '-', '.')")
        keys[_digest(key, number)] = owner
    return keys


def _digest(key: str, number: int) -> str:
    if not key.startswith("sha256:"):
        return hashlib.sha256(key.encode()).hexdigest()
    digest = key.removeprefix("sha256:").lower()
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ValueError(f"API key {number} is not a SHA-256 hash of 64 hexadecimal digits")
    return digest
