"""Names in Swift that stay in the account: no part of one is taken for a step to another place."""

from __future__ import annotations

import re

# Swift's own limits, in bytes.
_LONGEST = {"container": 256, "object": 1024}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def why_not(kind: str, name: str) -> str | None:
    """What is wrong with the name of a container or an object; None: nothing.

    Slashes in a container's name, and segments of dots, would be followed like paths: to other containers and accounts.

    Args:
        kind: `container` or `object`.
        name: the name, as text.
    """
    longest = _LONGEST[kind]
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "must be Unicode text."
    if not 0 < size <= longest:
        return f"must be of 1 to {longest} bytes."
    if _CONTROL.search(name):
        return "must hold no control characters."
    if kind == "container" and "/" in name:
        return "must hold no slash."
    if any(segment in ("", ".", "..") for segment in name.split("/")):
        return "must hold no empty part, and no part '.' or '..'."
    return None
