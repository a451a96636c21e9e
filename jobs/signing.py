"""Signatures by Standard Webhooks (https://www.standardwebhooks.com), which OpenAI's webhooks follow."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Final

_PREFIX: Final = "whsec_"
#: Seconds that a message's time may be off: the standard's, and OpenAI's.
TOLERANCE: Final = 300.0
_SECONDS: Final = re.compile(r"[0-9]{1,12}")


def new_secret() -> str:
    """A fresh secret: ``whsec_`` and 32 random bytes in base64."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def is_secret(text: str) -> bool:
    """Whether it can be a signing secret."""
    try:
        return len(base64.b64decode(text.removeprefix(_PREFIX), validate=True)) > 0
    except binascii.Error:
        return False


def hint(secret: str) -> str:
    """What may be shown of a secret, to tell it from others."""
    return f"{_PREFIX}...{secret[-4:]}"


def headers(message_id: str, timestamp: int, body: bytes, signing_secrets: Sequence[str]) -> dict[str, str]:
    """The three headers of a message that is sent at ``timestamp`` (Unix seconds), signed with each of the secrets."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{_sign(secret, signed)}" for secret in signing_secrets),
    }


def _sign(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    return base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


class NotVerified(ValueError):
    """Raised when a message is not from who holds the secret, or is too old; the message says which."""


def verify(headers: Mapping[str, str], body: bytes, secret: str, *, now: float, tolerance: float = TOLERANCE) -> None:
    """Return if one of the message's signatures is right and its time is within ``tolerance`` seconds of ``now``.

    Raises ``NotVerified``. ``headers`` finds names in lower case.
    """
    try:
        message_id, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
        signatures = headers["webhook-signature"].split()
    except KeyError as error:
        raise NotVerified(f"the header {error.args[0]} is missing") from None
    if not _SECONDS.fullmatch(timestamp) or abs(now - int(timestamp)) > tolerance:
        raise NotVerified("the timestamp is not of now")
    expected = "v1," + _sign(secret, f"{message_id}.{timestamp}.".encode() + body)
    if not any(hmac.compare_digest(expected.encode(), found.encode()) for found in signatures):
        raise NotVerified("no signature is right: another secret, or the message was changed")
