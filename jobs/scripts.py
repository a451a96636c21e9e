"""The atomic steps of ``jobs/lua``, loaded once per client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from redis import Redis
from redis.commands.core import Script

from jobs import queues
from jobs.errors import DeadlineExceeded
from jobs.model import SCHEMA_VERSION
from jobs.webhooks import EVENT_TYPES, MAX_OLD_SECRETS, SLOW_SECONDS

#: What a job gets that outlived its deadline. Its code is part of the API.
EXPIRED_ERROR: Final = {"code": DeadlineExceeded.code, "message": "The job did not end before its deadline."}

#: What a job gets whose worker died under it ``MAX_STRIKES`` times.
CRASHED_ERROR: Final = {"code": "worker_crashed", "message": "The job's worker died three times while it ran."}
#: What a batch's line gets that had not ended when its batch did, by how that ends.
BATCH_ENDINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "cancelled": {"code": "batch_cancelled", "message": "The batch was cancelled before this line was done."},
    "expired": {"code": "batch_expired", "message": "The batch's completion_window ended before this line was done."},
}
MAX_STRIKES: Final = 3
#: How long (seconds) the parts of a batch's results are kept beside the files that were made of them.
PARTS_KEPT: Final = 24 * 3600
#: How long (seconds) the pieces of text in a job's stream are kept after its end, for those who still read them.
DELTAS_LINGER: Final = 60.0
#: From then on it runs alone, so that the last strike is its own.
STRIKES_BEFORE_ALONE: Final = MAX_STRIKES - 1

#: How long a job is kept after its end that shall not be kept: its caller reads the answer, or repeats the request.
UNSTORED_SECONDS: Final = 300

#: All but these may go on when Redis is full: they free memory, or keep what was accepted.
_DENIED_WHEN_FULL: Final = frozenset(
    {"create", "resubmit", "endpoint", "secret", "probe", "file_reserve", "file_create", "batch_create", "batch_feed"}
)
#: What stands before each script, in this order.
_LIBRARY: Final = ("base", "files", "outbox", "batches", "streams", "lib")


class Scripts:
    """One attribute per atomic step; each is called with ``args`` and runs as EVALSHA."""

    def __init__(self, client: Redis) -> None:
        self.create = self._load(client, "create")
        self.known = self._load(client, "known")
        self.resubmit = self._load(client, "resubmit")
        self.claim = self._load(client, "claim")
        self.renew = self._load(client, "renew")
        self.complete = self._load(client, "complete")
        self.retry = self._load(client, "retry")
        self.release = self._load(client, "release")
        self.promote = self._load(client, "promote")
        self.repair = self._load(client, "repair")
        self.expire = self._load(client, "expire")
        self.cancel = self._load(client, "cancel")
        self.delete = self._load(client, "delete")
        self.pause = self._load(client, "pause")
        self.list = self._load(client, "list")
        self.compact = self._load(client, "compact")
        self.tick = self._load(client, "tick")
        self.purge = self._load(client, "purge")
        self.deliver = self._load(client, "deliver")
        self.settle = self._load(client, "settle")
        self.pace = self._load(client, "pace")
        self.outbox_due = self._load(client, "outbox_due")
        self.redeliver = self._load(client, "redeliver")
        self.deliveries = self._load(client, "deliveries")
        self.endpoint = self._load(client, "endpoint")
        self.endpoint_delete = self._load(client, "endpoint_delete")
        self.secret = self._load(client, "secret")
        self.probe = self._load(client, "probe")
        self.stream_begin = self._load(client, "stream_begin")
        self.stream_append = self._load(client, "stream_append")
        self.file_reserve = self._load(client, "file_reserve")
        self.file_create = self._load(client, "file_create")
        self.file_delete = self._load(client, "file_delete")
        self.garbage = self._load(client, "garbage")
        self.batch_create = self._load(client, "batch_create")
        self.batch_claim = self._load(client, "batch_claim")
        self.batch_hold = self._load(client, "batch_hold")
        self.batch_release = self._load(client, "batch_release")
        self.batch_begin = self._load(client, "batch_begin")
        self.batch_fail = self._load(client, "batch_fail")
        self.batch_feed = self._load(client, "batch_feed")
        self.batch_part = self._load(client, "batch_part")
        self.batch_close = self._load(client, "batch_close")
        self.batch_finalize = self._load(client, "batch_finalize")
        self.batch_end = self._load(client, "batch_end")
        self.batch_cancel = self._load(client, "batch_cancel")
        self.batch_list = self._load(client, "batch_list")

    @staticmethod
    def _load(client: Redis, name: str) -> Script:
        folder = files("jobs") / "lua"
        shebang = "#!lua" if name in _DENIED_WHEN_FULL else "#!lua flags=allow-oom"
        parts = [shebang, _constants(), *((folder / f"{part}.lua").read_text() for part in (*_LIBRARY, name))]
        return client.register_script("\n".join(parts))


def _constants() -> str:
    names = {
        "PREFIX": queues.PREFIX,
        "LIST_PREFIX": queues.celery_queue(""),
        "EVENTS_CHANNEL": queues.EVENTS_CHANNEL,
        "ABORTS_CHANNEL": queues.ABORTS_CHANNEL,
        "WEBHOOKS_CHANNEL": queues.WEBHOOKS_CHANNEL,
        "EVENT_TYPES": ",".join(EVENT_TYPES),
        "SLOW_MS": SLOW_SECONDS * 1000,
        "MAX_OLD_SECRETS": MAX_OLD_SECRETS,
        "EXPIRED_ERROR": json.dumps(EXPIRED_ERROR),
        "CRASHED_ERROR": json.dumps(CRASHED_ERROR),
        "BATCH_CANCELLED_ERROR": json.dumps(BATCH_ENDINGS["cancelled"]),
        "BATCH_EXPIRED_ERROR": json.dumps(BATCH_ENDINGS["expired"]),
        "CRASHED_CODE": CRASHED_ERROR["code"],
        "DELTAS_LINGER_MS": round(DELTAS_LINGER * 1000),
        "PARTS_KEPT_MS": PARTS_KEPT * 1000,
        "SCHEMA_VERSION": SCHEMA_VERSION,
        "UNSTORED": queues.UNSTORED,
        "LINE": queues.LINE,
        "UNSTORED_MS": UNSTORED_SECONDS * 1000,
        "MAX_STRIKES": MAX_STRIKES,
        "STRIKES_BEFORE_ALONE": STRIKES_BEFORE_ALONE,
    }
    # A JSON string of ASCII without backslash escapes other than \" is a Lua string, too.
    return "\n".join(f"local {name} = {json.dumps(value)}" for name, value in names.items())
