"""The fields of callbacks: their URLs, and the secret that signs them."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, fields

from qinling_falcon.settings import Settings
from qinling_falcon.webhooks.addresses import may_reach
from qinling_falcon.webhooks.signing import is_secret
from qinling_falcon.webhooks.urls import literal_address, parse_url


class CallbackUrl(fields.Field[str]):
    """A URL that callbacks may go to. Names are resolved and checked at each delivery, IP addresses here, too."""

    def __init__(self, settings: Settings, **kwargs: Any):
        super().__init__(**kwargs)
        self._networks = settings.allowed_callback_networks

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError("must be text.")
        try:
            url = parse_url(value)
        except ValueError as error:
            raise ValidationError(str(error)) from None
        address = literal_address(url.host)
        if address is not None and not may_reach(address, self._networks):
            raise ValidationError(
                f"must not go to {address}: it is not a public address, and the service's CALLBACK_NETWORKS does not"
                " allow it."
            )
        return value


class CallbackSecret(fields.Field[str]):
    """The secret that signs callbacks. Messages never repeat it."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, str) or not is_secret(value):
            raise ValidationError("must be whsec_ and 24 to 64 random bytes in base64.")
        return value
