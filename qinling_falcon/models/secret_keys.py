"""The keys of `SECRET_KEYS`: they encrypt and decrypt the secrets that the database holds.

An encrypted secret is text of the form `<fingerprint>.<token>`. The token is a Fernet token (AES in CBC mode with an
HMAC). The fingerprint names the key, so that the database can tell which keys its secrets need without decrypting them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from qinling_falcon.errors import NotSupported

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

FINGERPRINT_LENGTH = 16


class SecretUnreadable(Exception):
    """No key of `SECRET_KEYS` decrypts a stored secret; the message names the key's fingerprint."""


class SecretKeys:
    """The keys of one process.

    Args:
        keys: Fernet keys, as `Settings` has checked them. The first one encrypts; all of them decrypt.
    """

    def __init__(self, keys: Sequence[str]):
        self._keys = {_fingerprint(key): key for key in keys}

    @property
    def fingerprints(self) -> list[str]:
        """The fingerprints of the keys, that of the encrypting one first."""
        return list(self._keys)

    def encrypt(self, secret: str) -> str:
        """Encrypt a secret with the first key.

        Raises:
            NotSupported: `SECRET_KEYS` is not set.
        """
        for fingerprint, key in self._fernets.items():
            return f"{fingerprint}.{key.encrypt(secret.encode()).decode()}"
        raise NotSupported(
            "This service can't store secrets: its setting SECRET_KEYS is not set. Ask its operator to set it, or leave"
            " the secret out."
        )

    def decrypt(self, stored: str) -> str:
        """Decrypt what `encrypt` has made.

        Raises:
            SecretUnreadable: it was encrypted with another key, or is damaged.
        """
        from cryptography.fernet import InvalidToken

        fingerprint, _, token = stored.partition(".")
        key = self._fernets.get(fingerprint)
        if key is None:
            raise SecretUnreadable(f"SECRET_KEYS has no key with the fingerprint {fingerprint}.")
        try:
            return key.decrypt(token).decode()
        except InvalidToken:
            raise SecretUnreadable(f"A secret encrypted with the key {fingerprint} is damaged.") from None

    def is_current(self, stored: str) -> bool:
        """Whether `stored` was encrypted with the first key."""
        return self.fingerprints[:1] == [stored.partition(".")[0]]

    @cached_property
    def _fernets(self) -> dict[str, Fernet]:
        from cryptography.fernet import Fernet  # 30 ms, which most processes never need

        return {fingerprint: Fernet(key) for fingerprint, key in self._keys.items()}


def _fingerprint(key: str) -> str:
    """The start of the SHA-256 hash of a key. The key has 256 random bits, so its hash reveals nothing of it."""
    return hashlib.sha256(base64.urlsafe_b64decode(key)).hexdigest()[:FINGERPRINT_LENGTH]
