"""JSON and text that strangers have sent: bounded, and free of what a strict reader would trip over later."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from qinling_falcon.errors import BadRequest

# What UTF-8 and a strict JSON reader let through only in escaped form.
_FORBIDDEN = re.compile("[\x00\ud800-\udfff]")


def parse_json(body: bytes | str, max_depth: int) -> Any:
    """Parse JSON that a stranger has sent.

    Raises:
        BadRequest: it is not JSON in UTF-8, too deep, has a number out of bounds, or text with NUL or lone surrogates.
    """
    try:
        text = body if isinstance(body, str) else body.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("JSON must be in UTF-8.") from None
    try:
        value = _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise BadRequest(f"Invalid JSON: {error}.") from None
    except RecursionError:
        raise BadRequest(f"JSON is nested deeper than {max_depth}.") from None
    except ValueError as error:
        # A number with more digits than Python reads, or NaN and its like.
        raise BadRequest(f"Invalid JSON: {error}.") from None
    # Both walks cost time, and few bodies can need them.
    if text.count("{") + text.count("[") > max_depth:
        _check_depth(value, max_depth)
    if "\\u" in text or not isinstance(body, bytes):
        _check_text(value)
    return value


def check_text(text: str, what: str) -> None:
    """Refuse what can't be stored or sent on.

    Raises:
        BadRequest: `text` holds NUL or a lone surrogate.
    """
    if _FORBIDDEN.search(text):
        raise BadRequest(f"{what} holds NUL or a lone surrogate.")


def _check_depth(value: Any, max_depth: int) -> None:
    level = [value]
    for _ in range(max_depth):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    if any(isinstance(item, dict | list) for item in level):
        raise BadRequest(f"JSON is nested deeper than {max_depth}.")


def _check_text(value: Any) -> None:
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            check_text(item, "A text in the JSON")
        elif isinstance(item, dict):
            todo.extend(item)
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)


def _children(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is out of range")
    return value


_decoder = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
