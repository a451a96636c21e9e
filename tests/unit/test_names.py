"""Names that Python and Lua must agree on."""

from __future__ import annotations

import re
from pathlib import Path

import redis

from jobs import queues, scripts
from jobs.scripts import Scripts

LUA = Path(scripts.__file__).parent / "lua"
FIXED = {"leases", "scheduled", "deadlines", "expiring", "paused", "seq", "tick", "hold"}
BY_QUEUE = {"waiting:", "backlog:", "claimed:", "held:", "held-messages:"}


def test_lua_uses_known_keys_only() -> None:
    """Each key in the Lua sources is one that jobs.queues names (or the counter of enqueueings)."""
    named = {value for value in vars(queues).values() if isinstance(value, str)}
    assert {queues.PREFIX + name for name in FIXED - {"seq"}} <= named
    makers = (
        queues.waiting_key,
        queues.backlog_key,
        queues.claimed_key,
        queues.held_key,
        queues.held_messages_key,
    )
    assert {queues.PREFIX + name for name in BY_QUEUE} == {key_of("") for key_of in makers}
    used = set()
    for file in LUA.glob("*.lua"):
        used |= set(re.findall(r"\bkey\('([^']+)'", file.read_text()))
    assert used == FIXED | BY_QUEUE


def test_every_lua_file_is_loaded(redis_client: redis.Redis) -> None:
    """Each file in jobs/lua but the library is a step, and each compiles on the server."""
    steps = vars(Scripts(redis_client))
    assert set(steps) == {file.stem for file in LUA.glob("*.lua")} - {"lib"}
    for step in steps.values():
        assert redis_client.script_load(step.script)


def test_only_what_makes_jobs_is_refused_by_a_full_redis(redis_client: redis.Redis) -> None:
    """Every step but the two that make a job may run when Redis is full."""
    for name, step in vars(Scripts(redis_client)).items():
        assert ("allow-oom" in step.script.splitlines()[0]) is (name not in ("create", "resubmit"))
