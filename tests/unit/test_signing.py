"""Signatures that others verify, and secrets that are sealed where they are stored."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import openai
import pytest
import standardwebhooks

from jobs import signing
from jobs.errors import SecretUnreadable
from jobs.sealing import Sealer, new_key
from jobs.settings import Settings
from jobs.webhooks import EVENT_TYPES, EventType, Leased
from tests.unit.making import BODY

SECRET, OTHER = signing.new_secret(), signing.new_secret()
EVENT = {
    "id": "evt_1",
    "object": "event",
    "created_at": 1_750_000_000,
    "type": "response.completed",
    "data": {"id": "resp_1"},
}
MESSAGE = json.dumps(EVENT).encode()

Verifier = Callable[[bytes, Mapping[str, str], str], object]


def by_openai(body: bytes, headers: Mapping[str, str], secret: str) -> None:
    """OpenAI's own check."""
    with openai.OpenAI(api_key="x") as client:
        client.webhooks.verify_signature(body, headers, secret=secret)


def by_standard(body: bytes, headers: Mapping[str, str], secret: str) -> None:
    """That of the standard's library."""
    standardwebhooks.Webhook(secret).verify(body, dict(headers))


def by_us(body: bytes, headers: Mapping[str, str], secret: str) -> None:
    """That of ``promptq webhooks listen``."""
    signing.verify(headers, body, secret, now=time.time())


#: How each of them refuses.
REFUSALS: dict[Verifier, tuple[type[Exception], ...]] = {
    by_openai: (openai.InvalidWebhookSignatureError, ValueError),
    by_standard: (standardwebhooks.WebhookVerificationError,),
    by_us: (signing.NotVerified,),
}


@pytest.fixture(params=REFUSALS, ids=["openai", "standardwebhooks", "ours"])
def verify(request: pytest.FixtureRequest) -> Verifier:
    """Each of those who verify."""
    return request.param  # type: ignore[no-any-return]


def signed(body: bytes = MESSAGE, *secrets: str, age: float = 0, message_id: str = "evt_1") -> dict[str, str]:
    """The headers of a message that was sent ``age`` seconds ago."""
    return signing.headers(message_id, int(time.time() - age), body, secrets or (SECRET,))


def test_our_signatures_are_believed(verify: Verifier) -> None:
    """A message that we sign is accepted by everybody who knows the secret."""
    verify(MESSAGE, signed(), SECRET)


def test_old_clocks_are_believed_for_a_while(verify: Verifier) -> None:
    """A message that is some minutes old, or from a clock that is ahead, is accepted."""
    verify(MESSAGE, signed(age=280), SECRET)
    verify(MESSAGE, signed(age=-280), SECRET)


@pytest.mark.parametrize("body", ["ü€😀".encode(), b"", b"{}", BODY], ids=["unicode", "empty", "braces", "body"])
def test_any_body_is_signed_as_it_is(verify: Verifier, body: bytes) -> None:
    """The signature is of the bytes that are sent."""
    headers = signed(body)
    if verify is by_standard:
        standardwebhooks.Webhook(SECRET).verify(body, headers, json_parse=False)
    else:
        verify(body, headers, SECRET)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_changed_or_missing_header_is_refused(verify: Verifier, name: str) -> None:
    """Each of the three headers is needed, as it was sent."""
    good = signed()
    changed = {
        "webhook-id": "evt_2",
        "webhook-timestamp": str(int(good["webhook-timestamp"]) + 1),
        "webhook-signature": "v1," + "A" * 43 + "=",
    }
    with pytest.raises(REFUSALS[verify]):
        verify(MESSAGE, {**good, name: changed[name]}, SECRET)
    with pytest.raises(REFUSALS[verify]):
        verify(MESSAGE, {other: value for other, value in good.items() if other != name}, SECRET)


def test_a_tampered_body_is_refused(verify: Verifier) -> None:
    """One changed byte of the body, or one more, makes the signature wrong."""
    for body in (MESSAGE.replace(b"completed", b"cancelled"), MESSAGE + b" ", b"{}"):
        with pytest.raises(REFUSALS[verify]):
            verify(body, signed(), SECRET)


@pytest.mark.parametrize("age", [301, 3600, -310])
def test_a_stale_message_is_refused(verify: Verifier, age: float) -> None:
    """A message that was recorded and is played again later is refused, though its signature is right."""
    with pytest.raises(REFUSALS[verify]):
        verify(MESSAGE, signed(age=age), SECRET)


def test_another_secret_is_refused(verify: Verifier) -> None:
    """Who does not hold the secret cannot sign."""
    with pytest.raises(REFUSALS[verify]):
        verify(MESSAGE, signed(MESSAGE, OTHER), SECRET)


def test_after_a_rotation_both_secrets_verify(verify: Verifier) -> None:
    """A message signed with the new and the old secret is accepted by who has either, and by nobody else."""
    headers = signed(MESSAGE, SECRET, OTHER)
    assert len(headers["webhook-signature"].split()) == 2
    verify(MESSAGE, headers, SECRET)
    verify(MESSAGE, headers, OTHER)
    with pytest.raises(REFUSALS[verify]):
        verify(MESSAGE, headers, signing.new_secret())


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_the_sdk_types_our_events(event_type: EventType) -> None:
    """What a worker sends is unwrapped by the openai SDK as the event's own class, with all that it has."""
    record = {b"id": b"whd_1", b"url": b"https://hooks.example/", b"host": b"hooks.example", b"line": b"fast"}
    record |= {b"event": b"evt_9", b"type": event_type.encode(), b"object": b"resp_9", b"created": b"1750000000123"}
    body = Leased.from_record("c1", record | {b"round": b"0"}).body
    with openai.OpenAI(api_key="x", webhook_secret=SECRET) as client:
        event = client.webhooks.unwrap(body, signed(body))
    about, _, what = event_type.partition(".")
    assert type(event).__name__ == f"{about.capitalize()}{what.capitalize()}WebhookEvent"
    assert (event.id, event.object, event.created_at, event.type) == ("evt_9", "event", 1750000000, event_type)
    assert event.data.id == "resp_9"
    assert set(json.loads(body)) == {"id", "object", "created_at", "type", "data"}


@pytest.mark.parametrize(
    "timestamp", ["", "x", "-1", "1e9", "²", "9" * 5000, "١٢", "nan"], ids=lambda text: ascii(text)[:9]
)
def test_a_timestamp_that_is_none_is_refused(timestamp: str) -> None:
    """Whatever a stranger sends as a time is an unverified message, and no error of another kind."""
    with pytest.raises(signing.NotVerified):
        signing.verify({**signed(), "webhook-timestamp": timestamp}, MESSAGE, SECRET, now=time.time())


def test_signatures_of_other_versions_are_passed_over() -> None:
    """A signature of another kind beside ours neither helps nor harms."""
    good = signed()
    beside = {**good, "webhook-signature": f"v1a,AAAA {good['webhook-signature']} v2,x"}
    signing.verify(beside, MESSAGE, SECRET, now=time.time())
    other = {**good, "webhook-signature": good["webhook-signature"].replace("v1,", "v2,")}
    with pytest.raises(signing.NotVerified, match="no signature"):
        signing.verify(other, MESSAGE, SECRET, now=time.time())


def test_a_refusal_says_why() -> None:
    """What is missing, too old or wrong is told apart."""
    now = time.time()
    with pytest.raises(signing.NotVerified, match="webhook-id is missing"):
        signing.verify({}, MESSAGE, SECRET, now=now)
    with pytest.raises(signing.NotVerified, match="timestamp"):
        signing.verify(signed(age=400), MESSAGE, SECRET, now=now)
    signing.verify(signed(age=400), MESSAGE, SECRET, now=now, tolerance=500)


def test_secrets_are_long_and_differ() -> None:
    """A secret is the standard's: a prefix and 32 random bytes; its hint tells its end and no more."""
    secrets = {signing.new_secret() for _ in range(20)}
    assert len(secrets) == 20
    assert all(secret.startswith("whsec_") and len(secret) == 6 + 44 for secret in secrets)
    assert signing.hint("whsec_" + "A" * 40 + "WXYZ") == "whsec_...WXYZ"


# --- Sealing ---------------------------------------------------------------------------------------------------------


def test_what_is_sealed_is_opened() -> None:
    """A sealed secret is not readable, is sealed otherwise each time, and comes out as it was."""
    sealer = Sealer([new_key()])
    sealed = sealer.seal(SECRET)
    assert SECRET.encode() not in sealed
    assert SECRET.removeprefix("whsec_").encode() not in sealed
    assert sealer.seal(SECRET) != sealed
    assert sealer.open(sealed) == SECRET


def test_keys_are_replaced_one_after_the_other() -> None:
    """A new key before the old one seals from then on, and what the old one has sealed is still opened."""
    old, new = new_key(), new_key()
    before = Sealer([old]).seal(SECRET)
    both = Sealer([new, old])
    assert both.open(before) == SECRET
    assert Sealer([new]).open(both.seal(SECRET)) == SECRET
    with pytest.raises(SecretUnreadable):
        Sealer([old]).open(both.seal(SECRET))


def test_what_no_key_opens_is_said_so() -> None:
    """A secret under a key that is gone, or that was changed, is unreadable; the setting to look at is named."""
    sealer = Sealer([new_key()])
    sealed = sealer.seal(SECRET)
    changed = sealed[:50] + (b"A" if sealed[50:51] != b"A" else b"B") + sealed[51:]
    for broken in (Sealer([new_key()]).seal(SECRET), changed, sealed[:-10], SECRET.encode(), b""):
        with pytest.raises(SecretUnreadable, match="PROMPTQ_ENCRYPTION_KEYS"):
            sealer.open(broken)


def test_the_settings_name_the_keys() -> None:
    """The sealer is made of the settings' keys; without one there is none."""
    assert Sealer.from_settings(Settings()) is None
    old, new = new_key(), new_key()
    sealer = Sealer.from_settings(Settings(encryption_keys=f"{new}, {old}"))
    assert sealer is not None
    assert sealer.open(Sealer([old]).seal(SECRET)) == SECRET
    assert Sealer([new]).open(sealer.seal(SECRET)) == SECRET


def test_a_leased_message_is_the_same_for_each_try() -> None:
    """The body that is signed depends on the event alone, not on the try."""
    record = {b"id": b"whd_1", b"url": b"u", b"host": b"h", b"line": b"fast", b"event": b"evt_9", b"object": b"job_9"}
    record |= {b"type": b"response.failed", b"created": b"1750000000999", b"round": b"0"}
    first = Leased.from_record("c1", record)
    later = Leased.from_record("c2", record | {b"round": b"3", b"tries": b'[{"error": "timeout"}]', b"line": b"slow"})
    assert first.body == later.body
    assert replace(later, claim_id="c1", round=0, tries=(), slow=False) == first
