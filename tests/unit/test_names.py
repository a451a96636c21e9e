"""Names that Python and Lua must agree on."""

from __future__ import annotations

import re
from pathlib import Path

import redis

from jobs import queues, scripts
from jobs.scripts import Scripts

LUA = Path(scripts.__file__).parent / "lua"
COUNTERS = {"seq", "webhook-seq", "webhook-turn", "file-seq", "batch-seq"}
FIXED = {
    *("leases", "scheduled", "deadlines", "expiring", "paused", "tick", "hold", "dead", "ended"),
    "garbage",
    *("webhook-scheduled", "webhook-leases", "webhook-running", "webhook-slow"),
    *("webhook-turns:fast", "webhook-turns:slow", "backlog:webhooks"),
    *("batch-due", "batch-bytes", "backlog:batches"),
}
BY_QUEUE = {"waiting:", "backlog:", "claimed:", "held:", "held-messages:"}
BY_OWNER = {"webhook-endpoints:"}
BY_JOB = {"stream:", "stream-deltas:"}
#: What the Lua steps alone know.
THEIR_OWN = {"webhook-taken:", "held:batches", "file-uses"}
DENIED = {
    "create",
    "resubmit",
    "endpoint",
    "secret",
    "probe",
    "file_reserve",
    "file_create",
    "batch_create",
    "batch_feed",
}


def test_lua_uses_known_keys_only() -> None:
    """Each key in the Lua sources is one that jobs.queues names (or a counter)."""
    named = {value for value in vars(queues).values() if isinstance(value, str)} | {
        queues.backlog_key(queues.WEBHOOKS),
        queues.backlog_key(queues.BATCHES),
    }
    assert {queues.PREFIX + name for name in FIXED} <= named
    makers = (
        queues.waiting_key,
        queues.backlog_key,
        queues.claimed_key,
        queues.held_key,
        queues.held_messages_key,
    )
    assert {queues.PREFIX + name for name in BY_QUEUE} == {key_of("") for key_of in makers}
    assert {queues.PREFIX + name for name in BY_OWNER} == {queues.endpoints_key("")}
    assert {queues.PREFIX + name for name in BY_JOB} == {queues.stream_key(""), queues.deltas_key("")}
    used = set()
    for file in LUA.glob("*.lua"):
        used |= set(re.findall(r"\bkey\('([^']+)'", file.read_text())) - {"webhook-turns:"}
        used |= set(re.findall(r"\bmove\('([^']+)'", file.read_text()))
        used |= {f"webhook-turns:{kind}" for kind in re.findall(r"\bserve\('(\w+)'", file.read_text())}
    assert used == FIXED | BY_QUEUE | BY_OWNER | BY_JOB | COUNTERS | THEIR_OWN


def test_every_lua_file_is_loaded(redis_client: redis.Redis) -> None:
    """Each file in jobs/lua but the library is a step, and each compiles on the server."""
    steps = vars(Scripts(redis_client))
    library = {"base", "files", "batches", "outbox", "streams", "lib"}
    assert set(steps) == {file.stem for file in LUA.glob("*.lua")} - library
    for step in steps.values():
        assert redis_client.script_load(step.script)


def test_only_what_makes_something_is_refused_by_a_full_redis(redis_client: redis.Redis) -> None:
    """Every step but those that a caller makes something with may run when Redis is full."""
    for name, step in vars(Scripts(redis_client)).items():
        assert ("allow-oom" in step.script.splitlines()[0]) is (name not in DENIED)
