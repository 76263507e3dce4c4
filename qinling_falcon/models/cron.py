"""Cron patterns: five fields, times in UTC. `zones` reads them in other time zones.

A field is `*`, or a list of numbers, names, ranges (which may wrap: `22-2`, `FRI-MON`) and steps. The day of the
month may be `L`, the last one; days of the week may be counted in the month: `MON#1` is its first Monday. When both
fields of days are other than `*`, either day fires, as in cron.

croniter finds the times. It also takes what is not cron (a field of seconds, `@daily`, random times, `H`), and some
of what is means something else to it: `5-5` is every minute, `23-3/2` is 23 and 2. So patterns are read here, and
croniter gets them with every value spelled out.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from croniter import croniter

_ITEM = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/([0-9]{1,3}))?", re.ASCII)
_COUNTED = re.compile(r"(\w+)#([1-5])", re.ASCII)
_LONGEST_MONTH = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}
_LAST_DAY = "L"


@dataclass(frozen=True, slots=True)
class _Field:
    """What one field may hold: numbers from `low` to `high`, `size` of them different, or their names."""

    name: str
    low: int
    high: int
    size: int
    names: Mapping[str, int] = field(default_factory=dict)


def _named(names: str, low: int) -> dict[str, int]:
    return {name: number for number, name in enumerate(names.split(), low)}


_MINUTE = _Field("minute", 0, 59, 60)
_HOUR = _Field("hour", 0, 23, 24)
_DAY = _Field("day of the month", 1, 31, 31)
_MONTH = _Field("month", 1, 12, 12, _named("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC", 1))
# Sunday is 0 and 7.
_WEEKDAY = _Field("day of the week", 0, 7, 7, _named("SUN MON TUE WED THU FRI SAT", 0))


def check_pattern(pattern: str) -> None:
    """Make sure that there are times for a pattern.

    Raises:
        ValueError: it is no pattern, or one that never fires; the message says why.
    """
    _spelled_out(pattern)


def next_match(pattern: str, after: datetime.datetime) -> datetime.datetime:
    """The first time of a pattern after another time.

    Args:
        pattern: one that `check_pattern` lets pass.
        after: a time in UTC, before the year 9900.
    """
    # Patterns match whole minutes: croniter need not hear of fractions, which it rounds.
    minute = after.replace(second=0, microsecond=0, tzinfo=None)
    found: datetime.datetime = croniter(_spelled_out(pattern), minute).get_next(datetime.datetime)
    return found.replace(tzinfo=datetime.UTC)


@functools.lru_cache(maxsize=4096)
def _spelled_out(pattern: str) -> str:
    """The same times as numbers in lists."""
    fields = re.split(r"[ \t]+", pattern.strip(" \t").upper())
    if len(fields) != 5:
        raise ValueError("must have five fields: minute, hour, day of the month, month, day of the week.")
    minute, hour, day, month_text, weekday = fields
    months = _values(_MONTH, month_text)
    days, last_day = _days(day)
    if "#" in weekday:
        if day != "*":
            raise ValueError(f"'{weekday}' can't be combined with days of the month.")
        weekdays = _counted(weekday)
    else:
        weekdays = _list(weekday, _values(_WEEKDAY, weekday))
    # Days that never come are left out: croniter would look for them, for years.
    days = {number for number in days if number <= max(_LONGEST_MONTH.get(month, 31) for month in months)}
    if not days and not last_day:
        if weekday == "*":
            raise ValueError(f"never fires: none of its months has a day {day}.")
        day = "*"  # the days of the week are left
    return " ".join(
        (
            _list(minute, _values(_MINUTE, minute)),
            _list(hour, _values(_HOUR, hour)),
            _list(day, days, *([_LAST_DAY] if last_day else [])),
            _list(month_text, months),
            weekdays,
        )
    )


def _list(text: str, values: set[int], *more: str) -> str:
    return text if text == "*" else ",".join([*map(str, sorted(values)), *more])


def _days(text: str) -> tuple[set[int], bool]:
    """The days of the month, and whether the last one is among them."""
    items = text.split(",")
    plain = [item for item in items if item != _LAST_DAY]
    return _values(_DAY, ",".join(plain)) if plain else set(), len(plain) < len(items)


def _counted(text: str) -> str:
    """Days of the week with their places in the month, which croniter mixes with no others."""
    items = []
    for item in text.split(","):
        match = _COUNTED.fullmatch(item)
        if match is None:
            raise ValueError(f"'{item}' is no {_WEEKDAY.name} with its place in the month, such as MON#1.")
        items.append(f"{_number(_WEEKDAY, match[1])}#{match[2]}")
    return ",".join(items)


def _values(kind: _Field, text: str) -> set[int]:
    values: set[int] = set()
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ValueError(f"'{item}' is no {kind.name}.")
        star, low, high, step_text = match.groups()
        step = int(step_text or 1)
        if not 1 <= step <= kind.size:
            raise ValueError(f"'{item}': a step of the {kind.name} is from 1 to {kind.size}.")
        first = kind.low if star else _number(kind, low)
        if high is not None:
            last = _number(kind, high)
        elif star or step_text:
            last = kind.low + kind.size - 1
        else:
            last = first
        if last < first:
            last += kind.size
        values.update((number - kind.low) % kind.size + kind.low for number in range(first, last + 1, step))
    return values


def _number(kind: _Field, text: str) -> int:
    number = kind.names.get(text)
    if number is None and text.isdigit() and len(text) < 3:
        number = int(text)
    if number is None or not kind.low <= number <= kind.high:
        raise ValueError(f"'{text}' is no {kind.name}.")
    return number
