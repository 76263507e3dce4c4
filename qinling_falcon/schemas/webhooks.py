"""Webhooks: what requests may hold, what answers show."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import falcon
from marshmallow import ValidationError, fields

from qinling_falcon.models.webhook import LONGEST_TOLERANCE_S, UNSIGNED
from qinling_falcon.pool.deliveries import DeliveryResult
from qinling_falcon.schemas.base import Shown
from qinling_falcon.schemas.fields import (
    FLAG,
    NUMBER,
    TEXT,
    UUID,
    Flag,
    Moment,
    Number,
    Plain,
    Text,
    one_of,
    run_check,
)
from qinling_falcon.schemas.targets import TARGET, TargetRequest
from qinling_falcon.webhooks.cors import check_origin
from qinling_falcon.webhooks.signatures import Scheme, check_secret

ANY = "*"
"""Any method."""
METHODS = tuple(sorted(set(falcon.COMBINED_METHODS) - {"WEBSOCKET"}))
"""The methods that a webhook can take."""
MOST_SECRETS = 10
MOST_ORIGINS = 50
MOST_PER_MINUTE = 1_000_000
_SCHEMES = (*(scheme.value for scheme in Scheme), UNSIGNED)


class Methods(fields.Field[list[str]]):
    """The methods that a webhook takes: a list of names, or of `*` alone for any."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[str]:
        names = _texts(value, "HTTP methods, such as POST", len(METHODS))
        names = list(dict.fromkeys(name.upper() for name in names))
        if ANY in names:
            return [ANY]
        unknown = [name for name in names if name not in METHODS]
        if unknown or not names:
            raise ValidationError(f"must be a list of HTTP methods, or [\"*\"]. Known are {', '.join(METHODS)}.")
        return names


class Origins(fields.Field[list[str] | None]):
    """The origins whose pages may call a webhook; an empty list: none."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[str] | None:
        origins = _texts(value, "origins, such as https://shop.example", MOST_ORIGINS)
        for origin in origins:
            run_check(check_origin, origin, origin[:80])
        return list(dict.fromkeys(origins)) or None


class Signature(fields.Field[dict[str, Any]]):
    """How deliveries are signed: `scheme`, `tolerance_s` and `secrets`. Messages never repeat a secret."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        given = _members(value, {"scheme", "tolerance_s", "secrets"})
        scheme = given.get("scheme")
        if scheme not in _SCHEMES:
            raise ValidationError(f"scheme must be one of {', '.join(_SCHEMES)}.")
        if scheme == UNSIGNED:
            return {"scheme": UNSIGNED}
        read: dict[str, Any] = {"scheme": scheme}
        if "tolerance_s" in given:
            read["tolerance_s"] = _whole("tolerance_s", given["tolerance_s"], LONGEST_TOLERANCE_S)
        if "secrets" in given:
            read["secrets"] = _secrets(Scheme(scheme), given["secrets"])
        return read


class RateLimit(fields.Field[dict[str, Any]]):
    """How many deliveries are taken: `per_minute`, and `burst` at once. A `per_minute` of null: any number."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        given = _members(value, {"per_minute", "burst"})
        if given.get("per_minute") is None:
            if "per_minute" not in value or "burst" in given:
                raise ValidationError("per_minute is required.")
            return {"per_minute": None}
        return {name: _whole(name, number, MOST_PER_MINUTE) for name, number in given.items()}


class _WebhookRequest(TargetRequest):
    """The fields that creating and updating share."""

    description = Text()
    methods = Methods()
    subpaths = Flag()
    pass_request = Flag()
    sync = Flag()
    enabled = Flag()
    cors = Origins()
    signature = Signature()
    rate_limit = RateLimit()


class WebhookCreate(_WebhookRequest):
    """`POST /v1/webhooks`."""

    either = (TARGET,)


class WebhookUpdate(_WebhookRequest):
    """`PUT /v1/webhooks/{id}`."""


class InvokeUrl(fields.Field[str]):
    """Where a webhook is called, made of its id and the base URL of the answer that shows it."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> str:
        assert isinstance(self.parent, WebhookShown)
        return f"{self.parent.base_url}/v1/webhooks/{value}/invoke"


_LIST: Mapping[str, Any] = {"type": "array", "items": TEXT}
_SIGNATURE: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "scheme": one_of(Scheme),
        "tolerance_s": NUMBER,
        "secrets": {"type": "integer", "description": "How many secrets there are."},
    },
    "required": ["scheme", "tolerance_s", "secrets"],
    "additionalProperties": False,
}
_RATE_LIMIT: Mapping[str, Any] = {
    "type": "object",
    "properties": {"per_minute": NUMBER, "burst": NUMBER},
    "required": ["per_minute", "burst"],
    "additionalProperties": False,
}


class WebhookShown(Shown):
    """A webhook in one answer.

    Args:
        base_url: the URL that the caller reaches this service by.
    """

    id = Plain(UUID)
    function_id = Plain(UUID, null=True)
    function_version = Plain(NUMBER, null=True)
    function_alias = Plain(TEXT, null=True)
    description = Plain(TEXT, null=True)
    webhook_url = InvokeUrl(attribute="id", dump_only=True)
    methods = Plain(_LIST)
    subpaths = Plain(FLAG)
    pass_request = Plain(FLAG)
    sync = Plain(FLAG)
    enabled = Plain(FLAG)
    cors = Plain(_LIST, null=True)
    signature = Plain(_SIGNATURE, null=True)
    rate_limit = Plain(_RATE_LIMIT, null=True)
    project_id = Plain(TEXT)
    created_at = Moment()
    updated_at = Moment()

    def __init__(self, base_url: str):
        super().__init__()
        self.base_url = base_url


class WebhookAccepted(Shown):
    """The answer to an accepted delivery."""

    execution_id = Plain(UUID)


class DeliveryShown(Shown):
    """One delivery to a webhook."""

    received_at = Moment()
    delivery_id = Plain(TEXT, null=True)
    result = Plain(one_of(DeliveryResult))
    reason = Plain(TEXT, null=True)
    execution_id = Plain(UUID, null=True)


def _texts(value: Any, of_what: str, most: int) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValidationError(f"must be a list of {of_what}.")
    if len(value) > most:
        raise ValidationError(f"must have at most {most} entries.")
    return value


def _members(value: Any, known: set[str]) -> dict[str, Any]:
    """The members of an object that are not null."""
    if not isinstance(value, dict) or value.keys() - known:
        raise ValidationError(f"must be an object with {', '.join(sorted(known))}, and nothing else.")
    return {name: member for name, member in value.items() if member is not None}


def _whole(name: str, value: Any, highest: int) -> int:
    number = Number(lowest=1, highest=highest)
    try:
        return int(number.deserialize(value))
    except ValidationError as error:
        raise ValidationError(f"{name} {error.messages[0]}") from None


def _secrets(scheme: Scheme, value: Any) -> list[str]:
    secrets = _texts(value, "secrets", MOST_SECRETS)
    if not secrets:
        raise ValidationError('secrets must not be empty. {"scheme": "none"} removes the signature.')
    for secret in secrets:
        run_check(functools.partial(check_secret, scheme), secret, "secrets: each")
    return list(dict.fromkeys(secrets))
