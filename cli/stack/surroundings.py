"""What the user's environment asks for, and the environment that the stack's processes get."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
from pydantic import ValidationError

import cli
from cli.stack.errors import StackError
from jobs.settings import Settings, problems

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Surroundings:
    """What is set outside: a Redis to use, an LLM to use (its address), and the key that a client shall send."""

    redis_url: str | None
    llm_url: str | None
    api_key: str


def read(environ: Mapping[str, str], settings: Settings) -> Surroundings:
    """Read ``environ``, whose ``PROMPTQ_*`` part is already in ``settings``."""
    has_llm = settings.openai_base_url is not None or settings.openai_api_key is not None
    return Surroundings(
        redis_url=settings.redis_url if environ.get("PROMPTQ_REDIS_URL") or settings.redis_sentinels else None,
        llm_url=settings.llm_url if has_llm else None,
        api_key=environ.get("PROMPTQ_API_KEY") or _first_key(environ, settings) or "local",
    )


def load_settings() -> Settings:
    """Return the settings that the children will read; raises `StackError` naming each variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        raise StackError("; ".join(problems(error))) from None


def for_children(environ: Mapping[str, str], changes: Mapping[str, str], *, simulated: bool) -> dict[str, str]:
    """Return the environment of every part: the user's own, with ``changes``.

    With ``simulated`` nothing of the user's OpenAI account reaches a child, and no proxy comes between the stack and
    its simulator.
    """
    env = {name: value for name, value in environ.items() if not (simulated and name.upper().startswith("OPENAI_"))}
    # Our packages have common names (jobs, api, worker): what lies in the user's working directory must not win.
    root = str(Path(cli.__file__).absolute().parent.parent)
    paths = [root, *(path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path and path != root)]
    env |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    for name in ("NO_PROXY", "no_proxy"):
        listed = [host.strip() for host in env.get(name, "").split(",") if host.strip()]
        env[name] = ",".join([*listed, *(host for host in _LOOPBACK if host not in listed)])
    return {**env, **changes}


def _first_key(environ: Mapping[str, str], settings: Settings) -> str | None:
    """Return the first key in plain text; the settings keep hashes only."""
    lines = environ.get("PROMPTQ_API_KEYS", "").split(",")
    if settings.api_keys_file is not None:
        try:
            lines += settings.api_keys_file.read_text().splitlines()
        except OSError as error:
            raise StackError(f"cannot read PROMPTQ_API_KEYS_FILE {settings.api_keys_file}: {error.strerror}") from error
    for line in lines:
        if line.strip().startswith("#"):
            continue
        _, _, key = line.strip().partition(":")
        if key and not key.startswith("sha256:"):
            return key
    if not settings.open_access:
        click.echo("note: only hashes of API keys are configured; set PROMPTQ_API_KEY for the clients", err=True)
    return None
