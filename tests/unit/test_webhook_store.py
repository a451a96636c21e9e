"""Webhook endpoints and owners' secrets at the store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from jobs import queues, signing
from jobs.broker import MessageMaker
from jobs.errors import InvalidRequest, NotFound, SecretShown, WebhooksOff
from jobs.redis_clients import worker_client
from jobs.settings import Settings
from jobs.store import JobStore
from jobs.webhook_store import MAX_ENDPOINTS
from jobs.webhook_urls import Allowed, parse
from jobs.webhooks import EVENT_TYPES, Leased, new_endpoint_id
from tests.unit.making import (
    SEALER,
    check_outbox,
    deliveries,
    endpoint,
    event,
    job,
    keys,
    lease,
    lease_one,
    settle,
    webhook_store,
)

URL, OTHER_URL = "https://hooks.example/in", "https://hooks.example:8443/other"
COMPLETED, FAILED = EVENT_TYPES[:2]


@pytest.fixture
def store(redis_client: redis.Redis, redis_url: str, messages: MessageMaker) -> Iterator[JobStore]:
    """A store that can keep webhook secrets, on an empty database."""
    with webhook_store(redis_url, messages) as made:
        yield made


def everything(client: redis.Redis) -> bytes:
    """All that the database holds, keys and values."""
    parts: list[Any] = []
    for key in client.scan_iter("*", count=1000):
        match client.type(key):
            case b"hash":
                parts += [part for pair in client.hgetall(key).items() for part in pair]
            case b"zset":
                parts += client.zrange(key, 0, -1)
            case b"set":
                parts += client.smembers(key)
            case b"list":
                parts += client.lrange(key, 0, -1)
            case _:
                parts.append(client.get(key))
        parts.append(key)
    return b"\n".join(parts)


def shown(secret: str) -> bytes:
    """The part of a secret by which it would be recognised."""
    return secret.removeprefix("whsec_").encode()


# --- Endpoints -------------------------------------------------------------------------------------------------------


def test_an_endpoint_is_as_it_was_made(store: JobStore, redis_client: redis.Redis) -> None:
    """A new endpoint has what was given, is enabled, and comes with a secret that only its hint tells of later."""
    target = parse(URL, Allowed())
    made, secret = store.webhooks.create("ann", name="Ünit", url=URL, target=target, event_types=[COMPLETED, FAILED])
    assert queues.ENDPOINT_ID_PATTERN.fullmatch(made.id)
    assert (made.owner, made.name, made.url, made.event_types) == ("ann", "Ünit", URL, (COMPLETED, FAILED))
    assert (made.failing_since, made.disabled_at, made.disabled_reason) == (None, None, None)
    assert made.created_at == made.updated_at == pytest.approx(redis_client.time()[0], abs=5)
    assert secret.startswith("whsec_")
    assert made.secret_hint == signing.hint(secret)
    assert store.webhooks.get(made.id, "ann") == made
    check_outbox(redis_client)


def test_no_secret_is_readable_in_redis(store: JobStore, redis_client: redis.Redis) -> None:
    """Secrets of endpoints and owners, also replaced ones, are encrypted wherever the database has them."""
    made, first = store.webhooks.create("ann", name="n", url=URL, target=parse(URL, Allowed()), event_types=EVENT_TYPES)
    _, second = store.webhooks.rotate(made.id, "ann", keep_old=True)
    third = store.webhooks.reveal_owner_secret("ann")
    fourth = store.webhooks.rotate_owner_secret("ann", keep_old=True)
    event(store, webhook_url=URL, webhook_host="hooks.example")
    for leased in lease(store):
        settle(store, leased, "retry")
    held = everything(redis_client)
    assert b"hooks.example" in held, "this looks where it should"
    for secret in (first, second, third, fourth):
        assert shown(secret) not in held
    secret, old = redis_client.hmget(queues.endpoint_key(made.id), "secret", "old_secrets")
    assert [SEALER.open(secret), SEALER.open(old.partition(b":")[2])] == [second, first]


def test_endpoints_are_listed_newest_first(store: JobStore) -> None:
    """An owner sees all of their endpoints, the newest first, and nobody else's."""
    ids = [endpoint(store).id for _ in range(3)]
    bobs = endpoint(store, owner="bob").id
    assert [one.id for one in store.webhooks.list("ann")] == ids[::-1]
    assert [one.id for one in store.webhooks.list("bob")] == [bobs]
    assert store.webhooks.list("eve") == []


def test_another_owners_endpoint_does_not_exist(store: JobStore, redis_client: redis.Redis) -> None:
    """Whatever one does to another's endpoint, or to one that never was, is answered alike, and changes nothing."""
    mine = endpoint(store)
    before = redis_client.hgetall(queues.endpoint_key(mine.id))
    for endpoint_id, owner in ((mine.id, "bob"), (new_endpoint_id(), "ann"), (mine.id, "")):
        for act in (
            lambda e, o: store.webhooks.get(e, o),
            lambda e, o: store.webhooks.update(e, o, name="x"),
            lambda e, o: store.webhooks.update(e, o, enabled=False),
            lambda e, o: store.webhooks.delete(e, o),
            lambda e, o: store.webhooks.rotate(e, o, keep_old=True),
            lambda e, o: store.outbox.post_test(e, o, COMPLETED),
        ):
            with pytest.raises(NotFound):
                act(endpoint_id, owner)
    assert redis_client.hgetall(queues.endpoint_key(mine.id)) == before
    assert check_outbox(redis_client) == {}


def test_an_update_changes_what_is_given(store: JobStore, redis_client: redis.Redis) -> None:
    """Name, URL and events are changed alone or together; the secret and the rest stay."""
    mine = endpoint(store)
    secret = redis_client.hget(queues.endpoint_key(mine.id), "secret")
    named = store.webhooks.update(mine.id, "ann", name="new")
    assert (named.name, named.url, named.event_types) == ("new", URL, EVENT_TYPES)
    moved = store.webhooks.update(mine.id, "ann", url=OTHER_URL, target=parse(OTHER_URL, Allowed()))
    assert (moved.name, moved.url) == ("new", OTHER_URL)
    assert redis_client.hget(queues.endpoint_key(mine.id), "host") == b"hooks.example:8443"
    fewer = store.webhooks.update(mine.id, "ann", event_types=[FAILED])
    assert fewer.event_types == (FAILED,)
    assert (fewer.created_at, fewer.secret_hint) == (mine.created_at, mine.secret_hint)
    assert fewer.updated_at >= mine.updated_at
    assert redis_client.hget(queues.endpoint_key(mine.id), "secret") == secret
    check_outbox(redis_client)


def test_an_update_that_changes_nothing_is_none(store: JobStore, redis_client: redis.Redis) -> None:
    """The time of the last update tells of changes only."""
    mine = endpoint(store)
    redis_client.hset(queues.endpoint_key(mine.id), "updated", 1)
    target = parse(URL, Allowed())
    same = store.webhooks.update(
        mine.id, "ann", name="n", url=URL, target=target, event_types=EVENT_TYPES, enabled=True
    )
    assert same.updated_at == 0.001
    assert store.webhooks.update(mine.id, "ann", name="other").updated_at > 1


def test_events_go_to_who_wants_them_now(store: JobStore, redis_client: redis.Redis) -> None:
    """What an endpoint is told follows its event types as they are when a job ends."""
    mine = endpoint(store, types=[FAILED])
    event(store)
    assert deliveries(store) == []
    store.webhooks.update(mine.id, "ann", event_types=[COMPLETED])
    told = event(store)
    assert [one.object_id for one in deliveries(store)] == [told]
    store.webhooks.update(mine.id, "ann", event_types=[FAILED])
    event(store)
    assert len(deliveries(store)) == 1
    check_outbox(redis_client)


def test_an_endpoint_is_switched_off_and_on(store: JobStore, redis_client: redis.Redis) -> None:
    """A disabled endpoint says since when and why, and is told nothing; enabled again it begins anew."""
    mine = endpoint(store)
    off = store.webhooks.update(mine.id, "ann", enabled=False)
    assert off.disabled_at == pytest.approx(off.updated_at)
    assert off.disabled_reason == "owner"
    event(store)
    assert deliveries(store) == []
    assert store.webhooks.update(mine.id, "ann", enabled=False).disabled_at == off.disabled_at
    redis_client.hset(queues.endpoint_key(mine.id), "failing_since", 1)
    on = store.webhooks.update(mine.id, "ann", enabled=True)
    assert (on.disabled_at, on.disabled_reason, on.failing_since) == (None, None, None)
    event(store)
    assert len(deliveries(store)) == 1
    check_outbox(redis_client)


def test_a_change_does_not_switch_an_endpoint_on(store: JobStore, redis_client: redis.Redis) -> None:
    """A disabled endpoint that is changed otherwise stays disabled."""
    mine = endpoint(store)
    store.webhooks.update(mine.id, "ann", enabled=False)
    changed = store.webhooks.update(mine.id, "ann", name="x", event_types=[COMPLETED])
    assert changed.disabled_reason == "owner"
    event(store)
    assert deliveries(store) == []
    check_outbox(redis_client)


def test_a_deleted_endpoint_leaves_nothing(store: JobStore, redis_client: redis.Redis) -> None:
    """A deleted endpoint is told nothing more, and no key of it is left."""
    mine = endpoint(store)
    store.webhooks.delete(mine.id, "ann")
    with pytest.raises(NotFound):
        store.webhooks.delete(mine.id, "ann")
    assert store.webhooks.list("ann") == []
    assert keys(redis_client) == {"promptq:webhook-seq"}
    event(store)
    assert deliveries(store) == []


def test_no_owner_has_too_many_endpoints(store: JobStore) -> None:
    """Beyond the limit none is made, until one is deleted; other owners have their own."""
    made = [endpoint(store) for _ in range(MAX_ENDPOINTS)]
    with pytest.raises(InvalidRequest, match=str(MAX_ENDPOINTS)):
        endpoint(store)
    assert len(store.webhooks.list("ann")) == MAX_ENDPOINTS
    endpoint(store, owner="bob")
    store.webhooks.update(made[0].id, "ann", name="still")
    store.webhooks.delete(made[0].id, "ann")
    endpoint(store)


def test_an_endpoint_is_told_as_it_was_made_without_asking_again(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its maker's answer depends on one step: a Redis that goes away behind it leaves no second endpoint."""
    with monkeypatch.context() as patch:
        patch.setattr(store.webhooks, "get", None)
        made, _ = store.webhooks.create(
            "ann", name="n", url=URL, target=parse(URL, Allowed()), event_types=[FAILED, COMPLETED]
        )
    assert made == store.webhooks.get(made.id, "ann")


def test_making_an_endpoint_can_be_replayed(store: JobStore, redis_client: redis.Redis) -> None:
    """The step is safe to send again after a lost reply, also when it made the last that there may be."""
    args: list[Any] = [new_endpoint_id(), "ann", 1, "", COMPLETED, "name", "n", "url", URL, "host", "hooks.example"]
    args += ["secret", b"sealed", "hint", "h"]
    first, again = (store._scripts.endpoint(args=args) for _ in range(2))
    assert first == again
    assert first[0] == b"done"
    assert [one.id for one in store.webhooks.list("ann")] == [args[0]]
    check_outbox(redis_client)


def opened(leased: Leased) -> list[str]:
    """The secrets that a message is signed with, the current one first."""
    return [SEALER.open(one) for one in (leased.sealed_secret, *leased.sealed_old_secrets) if one is not None]


# --- Rotation --------------------------------------------------------------------------------------------------------


def test_a_rotated_secret_replaces_the_old_one(store: JobStore) -> None:
    """Without grace, messages are signed with the new secret alone from then on, also those that wait already."""
    mine = endpoint(store)
    event(store)
    now, secret = store.webhooks.rotate(mine.id, "ann", keep_old=False)
    assert now.secret_hint == signing.hint(secret) != mine.secret_hint
    leased = lease_one(store)
    assert leased.sealed_secret is not None
    assert SEALER.open(leased.sealed_secret) == secret
    assert leased.sealed_old_secrets == ()


def test_the_old_secret_can_stay_for_a_day(store: JobStore, redis_client: redis.Redis) -> None:
    """With grace, messages carry both secrets for 24 hours, and then the new one alone."""
    mine, first = store.webhooks.create("ann", name="n", url=URL, target=parse(URL, Allowed()), event_types=EVENT_TYPES)
    _, second = store.webhooks.rotate(mine.id, "ann", keep_old=True)
    until, sealed = (redis_client.hget(queues.endpoint_key(mine.id), "old_secrets") or b"").split(b":")
    assert int(until) / 1000 == pytest.approx(redis_client.time()[0] + 24 * 3600, abs=5)
    event(store)
    leased = lease_one(store)
    assert opened(leased) == [second, first]
    settle(store, leased, "release")
    ends = redis_client.time()[0] * 1000
    redis_client.hset(queues.endpoint_key(mine.id), "old_secrets", f"{ends}:{sealed.decode()}")
    assert opened(lease_one(store)) == [second]


def test_rotations_within_a_day_keep_what_receivers_may_hold(store: JobStore) -> None:
    """Each replaced secret stays for its own 24 hours, up to three of them: also the one that a receiver has, when a
    rotation was asked for twice. One that keeps nothing ends all of them."""
    mine, first = store.webhooks.create("ann", name="n", url=URL, target=parse(URL, Allowed()), event_types=EVENT_TYPES)
    secrets = [first, *(store.webhooks.rotate(mine.id, "ann", keep_old=True)[1] for _ in range(4))]
    event(store)
    leased = lease_one(store)
    assert opened(leased) == list(reversed(secrets))[:4]
    settle(store, leased, "release")
    _, last = store.webhooks.rotate(mine.id, "ann", keep_old=False)
    assert opened(lease_one(store)) == [last]


def test_a_rotation_can_be_replayed(store: JobStore, redis_client: redis.Redis) -> None:
    """A rotation that is sent again after a lost reply does not make its new secret the old one, too."""
    mine = endpoint(store)
    before = redis_client.hget(queues.endpoint_key(mine.id), "secret")
    args = ["rotate", "endpoint", mine.id, "ann", b"sealed", "hint", 60_000]
    assert [store._scripts.secret(args=args) for _ in range(2)] == [b"done", b"done"]
    secret, old = redis_client.hmget(queues.endpoint_key(mine.id), "secret", "old_secrets")
    assert (secret, [one.partition(b":")[2] for one in old.split()]) == (b"sealed", [before])


# --- The owner's secret ----------------------------------------------------------------------------------------------


def test_an_owners_secret_is_shown_once(store: JobStore) -> None:
    """The first who asks gets the secret, made or found; who asks again is told to rotate it."""
    assert store.webhooks.owner_secret("ann") is None
    secret = store.webhooks.reveal_owner_secret("ann")
    with pytest.raises(SecretShown, match="rotate"):
        store.webhooks.reveal_owner_secret("ann")
    kept = store.webhooks.owner_secret("ann")
    assert kept is not None
    assert kept.hint == signing.hint(secret)
    assert secret not in repr(kept)
    assert store.webhooks.owner_secret("bob") is None
    assert store.webhooks.reveal_owner_secret("bob") != secret


def test_an_owners_secret_is_made_once(store: JobStore) -> None:
    """What the first job made is what is shown later, and signs all that follows."""
    store.webhooks.ensure_owner_secret("ann")
    before = store.webhooks.owner_secret("ann")
    store.webhooks.ensure_owner_secret("ann")
    assert store.webhooks.owner_secret("ann") == before
    secret = store.webhooks.reveal_owner_secret("ann")
    job_id = event(store, webhook_url=OTHER_URL, webhook_host="hooks.example:8443")
    leased = lease_one(store)
    assert job(store, job_id).webhook_url == leased.url == OTHER_URL
    assert leased.sealed_secret is not None
    assert SEALER.open(leased.sealed_secret) == secret


def test_two_makers_make_one_secret(store: JobStore, redis_client: redis.Redis) -> None:
    """Of two who find none at the same time, the second leaves what the first has made."""
    made = [store._scripts.secret(args=["make", "owner", "ann", "ann", one, one, 0]) for one in (b"first", b"second")]
    assert made == [b"done", b"known"]
    assert redis_client.hget(queues.owner_secret_key("ann"), "secret") == b"first"


def test_an_owners_secret_is_rotated(store: JobStore) -> None:
    """Rotation answers the new secret, the only time; the old one stays if asked to. Before there is one, it fails."""
    with pytest.raises(NotFound):
        store.webhooks.rotate_owner_secret("ann", keep_old=True)
    store.webhooks.ensure_owner_secret("ann")
    secret = store.webhooks.rotate_owner_secret("ann", keep_old=True)
    with pytest.raises(SecretShown):
        store.webhooks.reveal_owner_secret("ann")
    event(store, webhook_url=URL, webhook_host="hooks.example")
    leased = lease_one(store)
    assert leased.sealed_secret is not None
    assert opened(leased)[0] == secret
    assert len(opened(leased)) == 2
    kept = store.webhooks.owner_secret("ann")
    assert kept is not None
    assert kept.hint == signing.hint(secret)
    assert kept.updated_at >= kept.created_at


def test_the_secrets_are_apart(store: JobStore) -> None:
    """Each endpoint signs with its own secret, a job's own URL with the owner's."""
    first, second = endpoint(store), endpoint(store, "https://other.example/")
    own = store.webhooks.reveal_owner_secret("ann")
    event(store, webhook_url=URL, webhook_host="hooks.example")
    secrets = {
        leased.id.rpartition("_")[2]: SEALER.open(leased.sealed_secret)
        for leased in lease(store)
        if leased.sealed_secret is not None
    }
    assert set(secrets) == {"job", first.id[-12:], second.id[-12:]}
    assert secrets["job"] == own
    assert signing.hint(secrets[first.id[-12:]]) == first.secret_hint
    assert signing.hint(secrets[second.id[-12:]]) == second.secret_hint


def test_without_a_key_no_url_is_taken_although_its_secret_is_there(
    store: JobStore, redis_client: redis.Redis, redis_url: str, messages: MessageMaker
) -> None:
    """A server that has lost its key takes no job whose webhook nobody could sign."""
    store.webhooks.ensure_owner_secret("ann")
    with contextlib.closing(worker_client(Settings(redis_url=redis_url))) as client, pytest.raises(WebhooksOff):
        JobStore(client, messages, result_ttl=3600).webhooks.ensure_owner_secret("ann")


def test_without_a_key_there_are_no_webhooks(redis_client: redis.Redis, redis_url: str, messages: MessageMaker) -> None:
    """A server that cannot seal a secret makes none; what is there is still listed, changed and deleted."""
    with webhook_store(redis_url, messages) as keyed:
        mine = endpoint(keyed)
        keyed.webhooks.ensure_owner_secret("bob")
        store = JobStore(redis_client, messages, result_ttl=3600)
        for act in (
            lambda: endpoint(store),
            lambda: store.webhooks.rotate(mine.id, "ann", keep_old=False),
            lambda: store.webhooks.ensure_owner_secret("ann"),
            lambda: store.webhooks.reveal_owner_secret("ann"),
            lambda: store.webhooks.reveal_owner_secret("bob"),
            lambda: store.webhooks.rotate_owner_secret("bob", keep_old=False),
        ):
            with pytest.raises(WebhooksOff, match="PROMPTQ_ENCRYPTION_KEYS"):
                act()
        assert [one.id for one in store.webhooks.list("ann")] == [mine.id]
        assert store.webhooks.update(mine.id, "ann", name="x").name == "x"
        store.webhooks.delete(mine.id, "ann")
        assert keyed.webhooks.reveal_owner_secret("bob"), "asking in vain has not used it up"
