"""Parses untrusted JSON and text, with limits, and refuses characters that databases or other parsers can't handle."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import orjson

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
_MOST_LOOKED_AT = 25_000
# Bytes to delete, so that only quotes and brackets remain; braces become square brackets.
_KEPT = b'[]{}"'
_DELETED = bytes(code for code in range(256) if code not in _KEPT)
_ALL_SQUARE = bytes.maketrans(b"{}", b"[]")
# A square bracket as a signed byte that says how it changes the depth.
_STEPS = bytes.maketrans(b"[]", b"\x01\xff")
# A number of at most so many characters without an exponent is in the range of floats.
_SHORT_NUMBER = 300


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
            why = _too_many_digits()
        raise BadRequest(f"Invalid JSON: {why}.") from None
    _check(value, text, max_depth, field)
    return value


def parse_if_json(text: str, max_depth: int) -> Any:
    """Parse untrusted text that may be JSON.

    Args:
        text: the text, without a byte order mark.
        max_depth: the deepest nesting allowed.

    Returns:
        The value; None for `null`, and for text that is not JSON. Its numbers are not exact, and may be None.

    Raises:
        BadRequest: the text is JSON that `parse_json` refuses, or is nested too deeply to know whether it is JSON.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        # It may be JSON all the same, with a number out of range, a lone surrogate, or very deep nesting.
        numbers: list[str] = []
        # The parser calls `append`, which is in C, for each number.
        decoder = json.JSONDecoder(parse_int=numbers.append, parse_float=numbers.append, parse_constant=_no_constant)
        try:
            value = decoder.decode(text)
        except RecursionError:
            raise BadRequest(f"JSON is nested deeper than {max_depth}.") from None
        except ValueError:
            return None
        _check_numbers(numbers)
    _check(value, text, max_depth, "")
    return value


def _check(value: Any, text: str, max_depth: int, field: str) -> None:
    """Refuse a value that is nested too deeply, or has a text that can't be stored.

    Args:
        value: the value.
        text: the JSON text that it was parsed from.
        max_depth: as in `parse_json`.
        field: as in `parse_json`.

    Raises:
        BadRequest: see `parse_json`.
    """
    # Only a text with more than `max_depth` opening brackets can be too deep.
    if text.count("{") + text.count("[") > max_depth and _depth(text) > max_depth:
        raise BadRequest(f"JSON is nested deeper than {max_depth}.")
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


def _depth(text: str) -> int:
    """How deeply a JSON text is nested. It is measured in the text: a walk through many values takes far longer."""
    encoded = text.encode(errors="replace")
    if "\\" in text:
        # Each escape is in a string. Without escaped backslashes and quotes, each quote begins or ends a string.
        encoded = encoded.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = encoded.translate(_ALL_SQUARE, _DELETED)
    # A bracket is inside a string if an odd number of quotes precedes it. Removing a pair of quotes keeps that parity.
    brackets = brackets.replace(b'""', b"")
    if b'"' in brackets:
        brackets = b"".join(brackets.split(b'"')[::2])
    if not brackets:
        return 0
    # Remove the innermost pairs: the depth falls by exactly 1, and far fewer brackets remain to be counted.
    steps = brackets.replace(b"[]", b"").translate(_STEPS)
    return 1 + max(itertools.accumulate(memoryview(steps).cast("b")), default=0)


def _check_numbers(numbers: Iterable[str]) -> None:
    """Refuse numbers that `parse_json` refuses."""
    most_digits = sys.get_int_max_str_digits()
    for number in numbers:
        if len(number) <= _SHORT_NUMBER and "e" not in number and "E" not in number:
            continue
        if number.lstrip("-").isdigit():
            if 0 < most_digits < len(number.lstrip("-")):
                raise BadRequest(f"Invalid JSON: {_too_many_digits()}.")
        elif not math.isfinite(float(number)):
            raise BadRequest(f"Invalid JSON: {_out_of_range(number)}.")


def _refuse_text(value: Any, field: str) -> NoReturn:
    """Raise the error for a value in which a text or a name has a forbidden character."""
    for text, what, place in itertools.islice(_texts(value, field), _MOST_LOOKED_AT):
        if _FORBIDDEN.search(text):
            path = _path(place)
            check_text(text, what.format(path) if path else "The text", path or None)
    raise BadRequest("The JSON holds NUL or a lone surrogate, which no text here may hold.")


def _texts(value: Any, field: str) -> Iterator[tuple[str, str, _Place]]:
    """All texts and names in a value, each with the form of its message and its place. Any other value gives ""."""
    todo: list[Iterator[tuple[Any, _Place]]] = [iter([(value, (None, field))])]
    while todo:
        try:
            item, place = next(todo[-1])
        except StopIteration:
            todo.pop()
            continue
        if isinstance(item, dict):
            yield "", "{}", place
            for name in item:
                yield name, "The name of {}", (place, name)
            todo.append(_members(item.items(), place))
        elif isinstance(item, list):
            yield "", "{}", place
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
    if not math.isfinite(value):
        raise ValueError(_out_of_range(text))
    return value


def _out_of_range(number: str) -> str:
    return f"the number {number[:40]} is out of range"


def _too_many_digits() -> str:
    return f"an integer has more than {sys.get_int_max_str_digits()} digits"


_decoder = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)
