"""The errors of the zip reader."""

from __future__ import annotations

import re

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MAX_SHOWN = 80


class ZipError(Exception):
    """The archive can't be used. The message gives the reason as a sentence."""


class ZipTooLarge(ZipError):
    """The archive is above a limit."""


def shown(name: str) -> str:
    """A name for messages: on one line and shortened."""
    return CONTROL.sub("?", name[:_MAX_SHOWN])
