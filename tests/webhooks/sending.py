"""One request with the usual settings."""

from __future__ import annotations

from typing import Any

from qinling_falcon.settings import Settings
from qinling_falcon.webhooks.sender import Sender

LOOPBACK = Settings(callback_networks="127.0.0.0/8", callback_timeout_s=5.0)


def post(url: str, settings: Settings = LOOPBACK, **more: Any) -> int:
    return Sender(settings, **more).post(url, {"webhook-id": "x"}, b"{}")
