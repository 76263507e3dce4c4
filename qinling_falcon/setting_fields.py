"""Declares the fields of settings, with their meaning and bounds."""

from __future__ import annotations

import dataclasses
from typing import Any

MIB = 1024 * 1024


def setting(
    default: Any, doc: str, *, low: float | None = None, high: float | None = None, secret: bool = False
) -> Any:
    """Declare a setting.

    Args:
        default: its default.
        doc: its meaning, for docs/settings.md.
        low: its least value.
        high: its greatest value.
        secret: whether it is left out where settings are printed.
    """
    return dataclasses.field(default=default, repr=not secret, metadata={"doc": doc, "low": low, "high": high})
