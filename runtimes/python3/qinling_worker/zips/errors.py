"""Why an archive can't be used."""

from __future__ import annotations

import re

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_MAX_SHOWN = 80


class ZipError(Exception):
    """The archive can't be used; the message is a sentence that says why."""


class ZipTooLarge(ZipError):
    """The archive is above a limit."""


def shown(name: str) -> str:
    """A name as messages show it: on one line, and not too long."""
    return CONTROL.sub("?", name[:_MAX_SHOWN])
