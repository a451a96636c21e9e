"""Keeping secrets encrypted where they are stored: Fernet (AES-128-CBC with an HMAC), by the cryptography package."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from jobs.errors import SecretUnreadable
from jobs.settings import Settings


class Sealer:
    """Seals with the first key and opens with any, so that keys can be replaced one after the other."""

    def __init__(self, keys: Sequence[str]) -> None:
        """``keys``: at least one, each 32 bytes in URL-safe base64."""
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    @classmethod
    def from_settings(cls, settings: Settings) -> Sealer | None:
        """A sealer with the settings' keys; None where there are none."""
        keys = [key.get_secret_value() for key in settings.encryption_keys]
        return cls(keys) if keys else None

    def seal(self, secret: str) -> bytes:
        """The secret, encrypted and authenticated."""
        return self._fernet.encrypt(secret.encode())

    def open(self, sealed: bytes) -> str:
        """The secret that was sealed. Raises ``SecretUnreadable``."""
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken:
            raise SecretUnreadable(
                "A webhook secret cannot be read: PROMPTQ_ENCRYPTION_KEYS has none of the keys that it was sealed with."
            ) from None


def new_key() -> str:
    """A fresh key."""
    return Fernet.generate_key().decode()
