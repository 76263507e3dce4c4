"""Parses untrusted JSON and text, with limits, and refuses characters that databases or other parsers can't handle."""

from __future__ import annotations

import json
import re
import sys
from typing import Any, NoReturn

from qinling_falcon.errors import BadRequest

# The place of a value: the place of its object or array, and its name or index there.
_Place = tuple[Any, str | int]

_LONGEST_NAME, _LONGEST_PATH = 40, 160
# What UTF-8 and a strict JSON reader let through only in escaped form.
_FORBIDDEN = re.compile("[\x00\ud800-\udfff]")


def parse_json(body: bytes | str, max_depth: int, field: str = "") -> Any:
    """Parse untrusted JSON. A byte order mark at the start is skipped.

    Args:
        body: the JSON text.
        max_depth: the deepest nesting allowed.
        field: the name of the field with this value, for messages; empty: the whole body.

    Raises:
        BadRequest: the text is not JSON in UTF-8, is nested too deeply, or contains an invalid number, NUL or a lone
            surrogate.
    """
    try:
        text = body if isinstance(body, str) else body.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("JSON must be in UTF-8.") from None
    if text[:1] == "\ufeff":
        text = text[1:]
    try:
        value = _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise BadRequest(f"Invalid JSON: {error}.") from None
    except RecursionError:
        raise BadRequest(f"JSON is nested deeper than {max_depth}.") from None
    except ValueError as error:
        # A number with more digits than Python reads, or NaN and its like.
        why = str(error)
        if "set_int_max_str_digits" in why:  # Python's advice is no use to a client
            why = f"an integer has more than {sys.get_int_max_str_digits()} digits"
        raise BadRequest(f"Invalid JSON: {why}.") from None
    # Both walks cost time, and few bodies can need them.
    if text.count("{") + text.count("[") > max_depth:
        _check_depth(value, max_depth)
    if "\\u" in text or not isinstance(body, bytes):
        _check_text(value, field)
    return value


def check_text(text: str, what: str, field: str | None = None) -> None:
    """Refuse text that can't be stored or sent on.

    Args:
        text: the text.
        what: the beginning of the message, such as `Field 'name'`.
        field: the key for the message in `errors`; None: no entry in `errors`.

    Raises:
        BadRequest: `text` contains NUL or a lone surrogate.
    """
    if _FORBIDDEN.search(text):
        message = f"{what} holds NUL or a lone surrogate, which no text here may hold."
        raise BadRequest(message, errors=None if field is None else {field: [message]})


def _check_depth(value: Any, max_depth: int) -> None:
    level = [value]
    for _ in range(max_depth):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return
    if any(isinstance(item, dict | list) for item in level):
        raise BadRequest(f"JSON is nested deeper than {max_depth}.")


def _check_text(value: Any, field: str) -> None:
    todo: list[tuple[Any, _Place]] = [(value, (None, field))]
    while todo:
        item, place = todo.pop()
        if isinstance(item, str):
            if _FORBIDDEN.search(item):
                path = _path(place)
                check_text(item, path or "The text", path or None)
        elif isinstance(item, dict):
            for name, member in item.items():
                here = (place, name)
                if _FORBIDDEN.search(name):
                    path = _path(here)
                    check_text(name, f"The name of {path}", path)
                todo.append((member, here))
        elif isinstance(item, list):
            todo.extend((member, (place, index)) for index, member in enumerate(item))


def _path(place: _Place) -> str:
    """The path of a value in ASCII, such as `input.a[3].b`. A long path keeps its end, a long name its beginning."""
    path = ""
    while len(path) < _LONGEST_PATH:
        parent, name = place
        step = f"[{name}]" if isinstance(name, int) else f".{json.dumps(name[:_LONGEST_NAME])[1:-1]}"
        path = step + path
        if parent is None:
            return path.lstrip(".")
        place = parent
    return f"…{path[-_LONGEST_PATH:]}"


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
