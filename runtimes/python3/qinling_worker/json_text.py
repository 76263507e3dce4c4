"""Checks that a text is JSON, without converting its integers."""

from __future__ import annotations

from collections.abc import Callable
from json.scanner import make_scanner
from math import isinf
from typing import Any, NoReturn


def is_json(text: str) -> bool:
    """Whether the text is one JSON value, with nothing before or after it.

    Raises:
        RecursionError: the text is nested too deeply to be checked.
    """
    try:
        return _scan(text, 0)[1] == len(text)
    except (ValueError, StopIteration):
        return False


def _refuse(_name: str) -> NoReturn:
    raise ValueError  # NaN and infinities are not JSON


def _check_float(text: str) -> int:
    """Refuse a number that is an infinity for most readers, such as `1e999`. This is fast for long texts, too."""
    if isinf(float(text)):
        raise ValueError
    return 0


class _Rules:
    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = staticmethod(_check_float)
    parse_int = len  # an integer with a million digits takes seconds to convert
    parse_constant = staticmethod(_refuse)
    memo: dict[str, str] = {}


_make_scanner: Any = make_scanner
_scan: Callable[[str, int], tuple[Any, int]] = _make_scanner(_Rules())
