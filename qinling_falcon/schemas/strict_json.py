"""Parses untrusted JSON and text, with limits, and refuses characters that databases or other parsers can't handle."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from qinling_falcon.errors import BadRequest

# The place of a value: the place of its object or array, and its name or index there.
_Place = tuple[Any, str | int]

_LONGEST_NAME, _LONGEST_PATH = 40, 160
# NUL and lone surrogates. UTF-8 and a strict JSON reader let them through only as JSON escapes.
_FORBIDDEN = re.compile("[\x00\ud800-\udfff]")
# JSON without an escape of NUL or of a lone surrogate. Its quantifiers are possessive: it never backtracks, so it takes
# linear time.
_CLEAN_ESCAPES = re.compile(
    r"(?:[^\\]++|\\(?:[^u]|u(?!0000|[dD][89A-Fa-f])|u[dD][89ABab]..\\u[dD][C-Fc-f]..))*+", re.DOTALL
)
# How many values are looked through to name the one that has a forbidden character.
_MOST_LOOKED_AT = 50_000


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
    check_value(value, text, max_depth, field)
    return value


def check_value(value: Any, text: str, max_depth: int, field: str = "") -> None:
    """Refuse a value that is nested too deeply, or has a text that can't be stored.

    Args:
        value: the value.
        text: the JSON text that it was parsed from.
        max_depth: as in `parse_json`.
        field: as in `parse_json`.

    Raises:
        BadRequest: see `parse_json`.
    """
    # A walk costs time, and few texts can need it.
    if text.count("{") + text.count("[") > max_depth:
        _check_depth(value, max_depth)
    if not _CLEAN_ESCAPES.fullmatch(text) or _FORBIDDEN.search(text):
        _refuse_text(value, field)


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
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(max_depth):
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return
    if level:
        raise BadRequest(f"JSON is nested deeper than {max_depth}.")


def _refuse_text(value: Any, field: str) -> NoReturn:
    """Raise the error for a value in which a text or a name has a forbidden character."""
    for text, what, place in itertools.islice(_texts(value, field), _MOST_LOOKED_AT):
        if _FORBIDDEN.search(text):
            path = _path(place)
            check_text(text, what.format(path) if path else "The text", path or None)
    raise BadRequest("The JSON holds NUL or a lone surrogate, which no text here may hold.")


def _texts(value: Any, field: str) -> Iterator[tuple[str, str, _Place]]:
    """All texts and names in a value, each with the form of its message and its place. Other values give ""."""
    todo: list[Iterator[tuple[Any, _Place]]] = [iter([(value, (None, field))])]
    while todo:
        try:
            item, place = next(todo[-1])
        except StopIteration:
            todo.pop()
            continue
        if isinstance(item, dict):
            for name in item:
                yield name, "The name of {}", (place, name)
            todo.append(_members(item.items(), place))
        elif isinstance(item, list):
            todo.append(_members(enumerate(item), place))
        else:
            yield item if isinstance(item, str) else "", "{}", place


def _members(pairs: Iterable[tuple[str | int, Any]], place: _Place) -> Iterator[tuple[Any, _Place]]:
    for name, member in pairs:
        yield member, (place, name)


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


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:40]} is out of range")
    return value


_decoder = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
