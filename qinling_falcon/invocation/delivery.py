"""What `WebhookCalls` needs of a request to a webhook. `resources/webhook_invocations.py` reads it from HTTP."""

from __future__ import annotations

import datetime
from typing import Protocol

from qinling_falcon.invocation.cached_webhooks import CachedWebhook


class Delivery(Protocol):
    """A request to a webhook.

    Attributes:
        method: the HTTP method.
        has_subpath: whether its path goes on below the webhook's URL.
        request_id: its id in answers and logs.
        received_at: when it came in.
        callback_depth: how many callbacks in a row led to it.
    """

    method: str
    has_subpath: bool
    request_id: str
    received_at: datetime.datetime
    callback_depth: int

    def set_webhook(self, webhook: CachedWebhook) -> None:
        """Set the webhook. The body then counts for its project, and the answer gets its CORS headers."""

    def header(self, name: str) -> str | None:
        """A header of the request."""

    def body(self, limit: int) -> bytes:
        """The body. If it was read before, it is remembered, until `drop_body`.

        Raises:
            TooLarge: it has more than `limit` bytes.
            QinlingError: it can't be read.
        """

    def drop_body(self) -> None:
        """Release the body. `body` must not be called after this."""

    def digest(self, body: bytes) -> str:
        """A digest of what is the same in all attempts of a sender: method, address and body."""

    def function_input(self, body: bytes) -> str | None:
        """The function's input, as the webhook found asks for it.

        Raises:
            QinlingError: the request is malformed.
        """
