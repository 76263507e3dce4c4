"""Verifies the signatures of deliveries, in the forms of Standard Webhooks, GitHub and Stripe.

All three sign with HMAC-SHA256. They differ in their headers, in the text that is signed, and in what a delivery's id
is. `WebhookCalls` calls `verify` with the raw body. For Stripe, the event's id is read after the signature was
verified.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from enum import StrEnum

import orjson

from qinling_falcon.webhooks.signing import hmac_key_of, signature

Header = Callable[[str], str | None]
"""Returns the value of the request's header with this name; None: the request has no such header."""

_MAX_SECRET = 512
# Each given signature is compared with each expected one. Senders that rotate a secret send two or three.
_MAX_HEADER, _MAX_SIGNATURES = 4096, 20
_MIN_KEY, _MAX_KEY = 16, 256
_TIMESTAMP = re.compile(r"[0-9]{1,15}")
# An id is stored, shown and compared. With a dot in it, `id.timestamp.body` could be read in two ways.
_STANDARD_ID = re.compile(r"[!-\-/-~]{1,255}")
_ID = re.compile(r"[!-~]{1,255}")
_GITHUB_SIGNATURE = re.compile(r"sha256=([0-9A-Fa-f]{64})")


class Scheme(StrEnum):
    """How the deliveries to a webhook are signed."""

    STANDARD = "standard"
    GITHUB = "github"
    STRIPE = "stripe"


class SignatureRefused(Exception):
    """A delivery has no valid signature, or a stale one.

    Args:
        reason: a sentence for the owner of the webhook. It repeats no secret and no signature.
        stale: whether the signature is right, but its timestamp is too far from now.
    """

    def __init__(self, reason: str, *, stale: bool = False):
        super().__init__(reason)
        self.reason = reason
        self.stale = stale


def verify(
    scheme: Scheme, keys: Sequence[bytes], tolerance_s: int, header: Header, body: bytes, now_s: float
) -> str | None:
    """Verify a delivery's signature, in constant time.

    Args:
        scheme: the form of the signature.
        keys: the keys of the secrets that are valid now (see `hmac_keys_of`); during a rotation two or more.
        tolerance_s: how many seconds the timestamp may be before or after `now_s`. GitHub's form has no timestamp.
        header: the request's headers. WSGI joins the values of a repeated header with a comma.
        body: the body as it was received.
        now_s: the current time in seconds since the epoch.

    Returns:
        The delivery's id, by scheme:

        Standard Webhooks: `webhook-id`, which the signature covers.
        GitHub: `X-GitHub-Delivery`, which the signature does not cover. So whoever has seen a delivery can repeat it
        with another id. None: the delivery has no valid id.
        Stripe: the event's `id`, which the signature covers; without one, a digest of the timestamp and the body.

    Raises:
        SignatureRefused: the signature is missing, malformed, wrong or stale.
    """
    match scheme:
        case Scheme.STANDARD:
            return _verify_standard(keys, tolerance_s, header, body, now_s)
        case Scheme.GITHUB:
            return _verify_github(keys, header, body)
        case Scheme.STRIPE:
            return _verify_stripe(keys, tolerance_s, header, body, now_s)


def unverified_delivery_id(header: Header) -> str | None:
    """The id of a delivery to a webhook without signatures: `webhook-id`, else `X-GitHub-Delivery`.

    None if the request has neither, or one that is not 1 to 255 visible ASCII characters.
    """
    found = header("webhook-id") or header("X-GitHub-Delivery")
    return _as_id(found)


def hmac_keys_of(scheme: Scheme, secrets: Sequence[str]) -> tuple[bytes, ...]:
    """The keys of secrets that `check_secret` has accepted."""
    return tuple(hmac_key_of(secret) if scheme is Scheme.STANDARD else secret.encode() for secret in secrets)


def check_secret(scheme: Scheme, text: str) -> None:
    """Refuse text that can't be a secret of this form.

    Raises:
        ValueError: with a message for the user, which does not repeat the secret.
    """
    if not text:
        raise ValueError("must not be empty.")
    if len(text) > _MAX_SECRET:
        raise ValueError(f"must have at most {_MAX_SECRET} characters.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds a lone surrogate, which no text here may hold.") from None
    if scheme is Scheme.STANDARD:
        try:
            size = len(hmac_key_of(text))
        except ValueError:
            size = 0
        if not _MIN_KEY <= size <= _MAX_KEY:
            raise ValueError(f"must be {_MIN_KEY} to {_MAX_KEY} bytes in base64, with or without whsec_ before it.")


def _verify_standard(
    keys: Sequence[bytes], tolerance_s: int, header: Header, body: bytes, now_s: float
) -> str:
    message_id = _required(header, "webhook-id")
    timestamp = _required(header, "webhook-timestamp")
    given = _required(header, "webhook-signature")
    if not _STANDARD_ID.fullmatch(message_id):
        raise SignatureRefused("The header webhook-id must be 1 to 255 visible ASCII characters without a dot.")
    signed_at = _parse_timestamp(timestamp, "The header webhook-timestamp")
    signatures = [text for text in given.split(" ") if text.startswith("v1,")]
    if not signatures:
        raise SignatureRefused("The header webhook-signature has no signature of version v1.")
    expected = [signature(message_id, timestamp, body, key) for key in keys]
    _check_match(expected, signatures)
    _check_age(signed_at, tolerance_s, now_s)
    return message_id


def _verify_github(keys: Sequence[bytes], header: Header, body: bytes) -> str | None:
    given = _GITHUB_SIGNATURE.fullmatch(_required(header, "X-Hub-Signature-256"))
    if given is None:
        raise SignatureRefused("The header X-Hub-Signature-256 must be sha256= and 64 hexadecimal digits.")
    _check_match([hmac.digest(key, body, hashlib.sha256).hex() for key in keys], [given[1].lower()])
    return _as_id(header("X-GitHub-Delivery"))


def _verify_stripe(
    keys: Sequence[bytes], tolerance_s: int, header: Header, body: bytes, now_s: float
) -> str | None:
    pairs = [item.strip(" ").partition("=") for item in _required(header, "Stripe-Signature").split(",")]
    timestamps = [value for name, _, value in pairs if name == "t"]
    if len(timestamps) != 1:
        raise SignatureRefused("The header Stripe-Signature must have one timestamp, such as t=1731705121.")
    signed_at = _parse_timestamp(timestamps[0], "The timestamp of Stripe-Signature")
    signatures = [value for name, _, value in pairs if name == "v1"]
    if not signatures:
        raise SignatureRefused("The header Stripe-Signature has no signature of version v1.")
    _check_match([_stripe_digest(key, timestamps[0], body) for key in keys], signatures)
    _check_age(signed_at, tolerance_s, now_s)
    return _event_id(body) or _digest_id(timestamps[0], body)


def _required(header: Header, name: str) -> str:
    value = header(name)
    if not value:
        raise SignatureRefused(f"The header {name} is missing.")
    if len(value) > _MAX_HEADER:
        raise SignatureRefused(f"The header {name} has more than {_MAX_HEADER} characters.")
    return value


def _parse_timestamp(text: str, what: str) -> int:
    if not _TIMESTAMP.fullmatch(text):
        raise SignatureRefused(f"{what} must be a whole number of seconds since 1970.")
    return int(text)


def _check_match(expected: list[str], given: list[str]) -> None:
    """Compare every given signature with every expected one, in a time that does not depend on their content."""
    if len(given) > _MAX_SIGNATURES:
        raise SignatureRefused(f"The delivery has more than {_MAX_SIGNATURES} signatures.")
    texts = [text.encode("utf-8", "replace") for text in given]
    matches = [hmac.compare_digest(right, text) for right in map(str.encode, expected) for text in texts]
    if not any(matches):
        raise SignatureRefused(
            "The signature matches none of the webhook's secrets: the secret or the body differs from the sender's."
        )


def _check_age(signed_at: int, tolerance_s: int, now_s: float) -> None:
    age_s = now_s - signed_at
    if abs(age_s) > tolerance_s:
        where = f"{age_s:.0f} s ago" if age_s > 0 else f"{-age_s:.0f} s in the future"
        raise SignatureRefused(
            f"The signature is right, but its timestamp is {where}, and the tolerance is {tolerance_s} s.", stale=True
        )


def _stripe_digest(key: bytes, timestamp: str, body: bytes) -> str:
    mac = hmac.new(key, f"{timestamp}.".encode(), hashlib.sha256)
    mac.update(body)  # apart, so that a large body is not copied
    return mac.hexdigest()


def _event_id(body: bytes) -> str | None:
    """The member `id` of the event that the body is."""
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return _as_id(event.get("id")) if isinstance(event, dict) else None


def _digest_id(timestamp: str, body: bytes) -> str:
    """A digest as the id of an event without an id: a replay gets the same id and does not run again."""
    hashed = hashlib.sha256(f"{timestamp}.".encode())
    hashed.update(body)
    return f"sha256-{hashed.hexdigest()}"


def _as_id(found: object) -> str | None:
    return found if isinstance(found, str) and _ID.fullmatch(found) else None
