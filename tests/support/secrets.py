"""Keys and secrets that tests of several folders share."""

from __future__ import annotations

import base64

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes....").decode()


def fernet_key(number: int = 0) -> str:
    """A key for `SECRET_KEYS`; another number is another key."""
    return base64.urlsafe_b64encode(bytes([number]) * 32).decode()
