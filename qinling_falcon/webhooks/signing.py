"""Signatures of requests in the form of Standard Webhooks (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

# The secret's base64 text has 24 to 64 bytes.
SECRET_PATTERN = (
    r"whsec_(?:(?:[A-Za-z0-9+/]{4}){8,21}(?:[A-Za-z0-9+/]{2}==)?|(?:[A-Za-z0-9+/]{4}){8,20}[A-Za-z0-9+/]{3}=)"
)
_SECRET = re.compile(SECRET_PATTERN)


def is_secret(text: str) -> bool:
    """Whether `text` is a secret: `whsec_` and 24 to 64 bytes in base64."""
    return _SECRET.fullmatch(text) is not None


def headers(message_id: str, timestamp_s: int, body: bytes, secret: str | None) -> dict[str, str]:
    """The headers that identify a request and prove its origin.

    Args:
        message_id: the same for all attempts to deliver one message. It has no dot.
        timestamp_s: when this attempt is made, in seconds since the epoch.
        body: the body.
        secret: the secret; None: the request is not signed.
    """
    made = {"webhook-id": message_id, "webhook-timestamp": str(timestamp_s)}
    if secret is not None:
        made["webhook-signature"] = signature(message_id, made["webhook-timestamp"], body, hmac_key_of(secret))
    return made


def signature(message_id: str, timestamp: str, body: bytes, key: bytes) -> str:
    """The signature of a request, `v1,` and base64.

    Args:
        message_id: the header `webhook-id`.
        timestamp: the header `webhook-timestamp`.
        body: the body.
        key: the secret's bytes.
    """
    mac = hmac.new(key, f"{message_id}.{timestamp}.".encode(), hashlib.sha256)
    mac.update(body)  # apart, so that a large body is not copied
    return "v1," + base64.b64encode(mac.digest()).decode()


def hmac_key_of(secret: str) -> bytes:
    """The bytes of a secret, which is base64 with or without `whsec_` before it.

    Raises:
        ValueError: it is not base64.
    """
    return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
