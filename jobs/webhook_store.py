"""An owner's webhook endpoints, and the secrets that webhooks are signed with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

from redis import Redis

from jobs import queues, signing
from jobs.errors import InvalidRequest, NotFound, OutcomeUnknown, SecretShown, WebhooksOff
from jobs.redis_errors import redis_errors
from jobs.scripts import Scripts
from jobs.sealing import Sealer
from jobs.webhook_urls import Target
from jobs.webhooks import OLD_SECRET_SECONDS, Endpoint, OwnerSecret, new_endpoint_id

#: Endpoints that one owner may have: each event is told to all of them.
MAX_ENDPOINTS: Final = 50


class WebhookStore:
    """Endpoints in Redis, their secrets sealed. Every method raises ``StoreUnavailable`` when Redis does not answer."""

    def __init__(self, client: Redis, scripts: Scripts, sealer: Sealer | None) -> None:
        """``sealer``: None where no key is set, so that there can be no webhooks."""
        self._client = client
        self._scripts = scripts
        self._sealer = sealer

    def create(
        self, owner: str, *, name: str, url: str, target: Target, event_types: Sequence[str]
    ) -> tuple[Endpoint, str]:
        """Make an endpoint; answer it and its signing secret, which is shown only here.

        Raises ``InvalidRequest`` if the owner has as many as one may have, ``WebhooksOff``, ``StoreFull``, or
        ``OutcomeUnknown`` if the reply was lost: repeated, it could make a second one.
        """
        endpoint_id, secret = new_endpoint_id(), signing.new_secret()
        fields = {"name": name, "url": url, "host": target.authority, **self._sealed(secret)}
        with redis_errors(lost_reply=OutcomeUnknown):
            verdict, *made = self._scripts.endpoint(
                args=_arguments(endpoint_id, owner, MAX_ENDPOINTS, "", event_types, fields)
            )
        if verdict == b"full":
            raise InvalidRequest(f"There are {MAX_ENDPOINTS} webhook endpoints already: no owner can have more.")
        # From what is known: asking Redis again could fail, and the caller would be told that nothing was made.
        created_at, hint = int(made[0]) / 1000, signing.hint(secret)
        return Endpoint(endpoint_id, owner, name, url, tuple(event_types), hint, created_at, created_at), secret

    def update(
        self,
        endpoint_id: str,
        owner: str,
        *,
        name: str | None = None,
        url: str | None = None,
        target: Target | None = None,
        event_types: Sequence[str] | None = None,
        enabled: bool | None = None,
    ) -> Endpoint:
        """Change what is given. What waits to be delivered goes to the new URL. Raises ``NotFound``, ``StoreFull``."""
        fields = {} if name is None else {"name": name}
        if url is not None and target is not None:
            fields |= {"url": url, "host": target.authority}
        on = "" if enabled is None else str(int(enabled))
        with redis_errors():
            verdict, *_ = self._scripts.endpoint(args=_arguments(endpoint_id, owner, "", on, event_types or (), fields))
        if verdict == b"gone":
            raise _unknown()
        return self.get(endpoint_id, owner)

    def get(self, endpoint_id: str, owner: str) -> Endpoint:
        """The owner's endpoint. Raises ``NotFound``."""
        with redis_errors():
            record = cast("dict[bytes, bytes]", self._client.hgetall(queues.endpoint_key(endpoint_id)))
        if record.get(b"owner") != owner.encode():
            raise _unknown()
        return Endpoint.from_record(endpoint_id, record)

    def list(self, owner: str) -> list[Endpoint]:
        """All endpoints of the owner, the newest first."""
        with redis_errors():
            found = cast("list[bytes]", self._client.zrange(queues.endpoints_key(owner), 0, -1, desc=True))
            ids = [endpoint_id.decode() for endpoint_id in found]
            with self._client.pipeline(transaction=False) as pipe:
                for endpoint_id in ids:
                    pipe.hgetall(queues.endpoint_key(endpoint_id))
                records = pipe.execute()
        return [Endpoint.from_record(*pair) for pair in zip(ids, records, strict=True) if pair[1]]

    def delete(self, endpoint_id: str, owner: str) -> None:
        """Remove an endpoint; what waits to be sent to it ends as failed. Raises ``NotFound``."""
        with redis_errors():
            if not self._scripts.endpoint_delete(args=[endpoint_id, owner]):
                raise _unknown()

    def rotate(self, endpoint_id: str, owner: str, *, keep_old: bool) -> tuple[Endpoint, str]:
        """Replace an endpoint's secret; answer the new one, which is shown only here.

        ``keep_old``: for 24 hours messages are signed with both. Raises ``NotFound``, ``WebhooksOff``, ``StoreFull``,
        or ``OutcomeUnknown`` if the reply was lost: repeated, it would replace a secret that nobody has seen.
        """
        secret = signing.new_secret()
        if self._secret("rotate", "endpoint", endpoint_id, owner, secret, keep_old=keep_old) == b"gone":
            raise _unknown()
        return self.get(endpoint_id, owner), secret

    def ensure_owner_secret(self, owner: str) -> None:
        """Make the owner's secret if there is none. Raises ``WebhooksOff``, ``StoreFull``."""
        self._require_sealer()
        with redis_errors():
            known = self._client.exists(queues.owner_secret_key(owner))
        if not known:
            self._secret("make", "owner", owner, owner, signing.new_secret())

    def owner_secret(self, owner: str) -> OwnerSecret | None:
        """What may be shown of the owner's secret; None if there is none yet."""
        with redis_errors():
            values: Any = self._client.hmget(queues.owner_secret_key(owner), ["hint", "created", "updated"])
        if values[0] is None:
            return None
        return OwnerSecret(values[0].decode(), int(values[1]) / 1000, int(values[2]) / 1000)

    def reveal_owner_secret(self, owner: str) -> str:
        """The owner's secret, made if there is none; once. Raises ``SecretShown``, ``WebhooksOff``, ``StoreFull``."""
        sealer = self._require_sealer()
        self.ensure_owner_secret(owner)
        key = queues.owner_secret_key(owner)
        with redis_errors():
            secret = sealer.open(cast("bytes", self._client.hget(key, "secret")))
            if not self._client.hsetnx(key, "shown", "1"):
                raise SecretShown("The secret was shown before, and is not shown twice: rotate it to get a new one.")
        return secret

    def rotate_owner_secret(self, owner: str, *, keep_old: bool) -> str:
        """Replace the owner's secret; answer the new one, which is shown only here. As ``rotate`` otherwise."""
        secret = signing.new_secret()
        if self._secret("rotate", "owner", owner, owner, secret, keep_old=keep_old) == b"gone":
            raise NotFound("There is no webhook secret yet: POST /v1/webhook_secret makes it.")
        with redis_errors():
            self._client.hsetnx(queues.owner_secret_key(owner), "shown", "1")
        return secret

    def _secret(self, mode: str, kind: str, key: str, owner: str, secret: str, *, keep_old: bool = False) -> Any:
        sealed = self._sealed(secret)
        keep_ms = OLD_SECRET_SECONDS * 1000 if keep_old else 0
        with redis_errors(lost_reply=OutcomeUnknown if mode == "rotate" else None):
            return self._scripts.secret(args=[mode, kind, key, owner, sealed["secret"], sealed["hint"], keep_ms])

    def _sealed(self, secret: str) -> dict[str, bytes | str]:
        return {"secret": self._require_sealer().seal(secret), "hint": signing.hint(secret)}

    def _require_sealer(self) -> Sealer:
        if self._sealer is None:
            raise WebhooksOff("Webhooks are not set up on this server: PROMPTQ_ENCRYPTION_KEYS is not set.")
        return self._sealer


def _arguments(
    endpoint_id: str, owner: str, limit: int | str, enabled: str, types: Sequence[str], fields: dict[str, Any]
) -> list[bytes | str | int]:
    flat = [part for pair in fields.items() for part in pair]
    return [endpoint_id, owner, limit, enabled, ",".join(types), *flat]


def _unknown() -> NotFound:
    return NotFound("No webhook endpoint with this id found.", param="id")
