"""The filters of lists: `name=operator:value`, checked against the type of the column."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import peewee

from qinling_falcon.errors import BadRequest
from qinling_falcon.models import clock
from qinling_falcon.models.database import engine


class Kind(Enum):
    """What a column holds, which says how a filter's value is read."""

    TEXT = "text"
    INTEGER = "a whole number"
    NUMBER = "a number"
    BOOLEAN = "true or false"
    TIME = "a time"


_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_OPERATORS = frozenset(("eq", "neq", "in", "nin", "has", *_COMPARISONS))
_TRUE = frozenset(("1", "t", "true", "on", "y", "yes"))
_FALSE = frozenset(("0", "f", "false", "off", "n", "no"))
_INT64 = 2**63
_WHOLE = re.compile(r"[+-]?[0-9]+")


def condition(name: str, field: peewee.Field[Any] | peewee.Case, kind: Kind, text: str) -> peewee.Expression:
    """The SQL of one filter.

    `neq` and `nin` keep rows without a value. A time given to the second means that whole second, as
    times are shown; text is compared by bytes.

    Args:
        name: the filter's name, for messages.
        field: the column, or an expression that is never null.
        kind: what it holds.
        text: `operator:value`, or a value alone, which means `eq`.

    Raises:
        BadRequest: naming the filter.
    """
    word, rest = _operator(text)
    read = functools.partial(_read, name, kind)
    if word == "has":
        if kind is not Kind.TEXT:
            raise _bad(name, f"'has' works on text only, and this is {kind.value}")
        found: peewee.Expression = getattr(peewee.fn, engine().position_function)(field, read(rest)) > 0
        return found
    result: peewee.Expression
    if word in ("in", "nin"):
        result = among(field, kind, _several(name, kind, rest))
        return result if word == "in" else _not(field, result)
    value = read(rest)
    if word == "eq":
        result = among(field, kind, [value])
        return result
    if word == "neq":
        return _not(field, among(field, kind, [value]))
    if kind is Kind.BOOLEAN:
        raise _bad(name, f"'{word}' can't compare {kind.value}")
    if kind is Kind.TIME:
        first, last = value
        value = first if word in ("gte", "lt") else last
    result = _COMPARISONS[word](field, value)
    return result


def choices(name: str, kind: Kind, text: str, possible: frozenset[Any] | None) -> frozenset[Any] | None:
    """The values that a filter lets through, where they can be listed; None: they can't.

    Args:
        name: the filter's name, for messages.
        kind: what the column holds. Times come as spans (first, last) that don't overlap.
        text: as for `condition`.
        possible: all values that the column can have, or that other filters leave, where they are known.

    Raises:
        BadRequest: naming the filter.
    """
    word, rest = _operator(text)
    if word not in ("eq", "in", "neq", "nin"):
        return None
    listed = _several(name, kind, rest) if word in ("in", "nin") else [_read(name, kind, rest)]
    values = frozenset(_united(listed) if kind is Kind.TIME else listed)
    if word in ("eq", "in"):
        return values if possible is None else values & possible
    return None if possible is None else possible - values


def among(field: peewee.Field[Any] | peewee.Case, kind: Kind, values: Iterable[Any]) -> Any:
    """The SQL of: `field` has one of these values, as `choices` lists them."""
    if kind is not Kind.TIME:
        return field.in_(list(values))
    spans = [field.between(clock.to_micros(first), clock.to_micros(last)) for first, last in values]
    # Flat: hundreds of them, one within the other, would be too deep for peewee.
    return peewee.NodeList(spans, " OR ", parens=True)


def _united(spans: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """The same times, none of them twice."""
    united: list[tuple[Any, Any]] = []
    for first, last in sorted(spans):
        if united and first <= united[-1][1]:
            first, last = united[-1][0], max(last, united.pop()[1])
        united.append((first, last))
    return united


def _operator(text: str) -> tuple[str, str]:
    word, colon, rest = text.partition(":")
    return (word, rest) if colon and word in _OPERATORS else ("eq", text)


def _several(name: str, kind: Kind, text: str) -> list[Any]:
    return [_read(name, kind, part.strip()) for part in text.split(",")]


def _read(name: str, kind: Kind, text: str) -> Any:
    try:
        return _READERS[kind](text)
    except (ValueError, OverflowError):
        raise _bad(name, f"expected {kind.value}, not '{text[:80]}'") from None


def _read_text(text: str) -> str:
    text.encode()  # lone surrogates
    if "\0" in text:
        raise ValueError
    return text


def _read_integer(text: str) -> int:
    text = text.strip()
    if not _WHOLE.fullmatch(text):
        raise ValueError
    value = int(text) if len(text) < 25 else _INT64
    if not -_INT64 <= value < _INT64:
        raise ValueError
    return value


def _read_number(text: str) -> float:
    value = float(text)
    if value - value != 0:  # infinite, or no number
        raise ValueError
    return value


def _read_boolean(text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise ValueError
    return text.lower() in _TRUE


_READERS: dict[Kind, Callable[[str], Any]] = {
    Kind.TEXT: _read_text,
    Kind.INTEGER: _read_integer,
    Kind.NUMBER: _read_number,
    Kind.BOOLEAN: _read_boolean,
    Kind.TIME: clock.read_time,
}


def _not(field: peewee.Field[Any] | peewee.Case, expression: peewee.Expression) -> peewee.Expression:
    is_nullable = isinstance(field, peewee.Field) and field.null
    negated: peewee.Expression = ~expression | field.is_null() if is_nullable else ~expression
    return negated


def _bad(name: str, message: str) -> BadRequest:
    return BadRequest(f"Filter '{name}': {message}.", errors={name: [message]})
