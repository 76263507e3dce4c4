"""A model of cron that shares nothing with the service: it looks at one minute, and says whether a pattern fires."""

from __future__ import annotations

import datetime
import functools

_NAMES = "SUN MON TUE WED THU FRI SAT".split()


def matches(pattern: str, minute: datetime.datetime) -> bool:
    """Whether a pattern of numbers, lists, ranges and steps (and `SUN` to `SAT`) fires in this minute."""
    minutes, hours, days, months, weekdays = _sets(pattern)
    if minute.minute not in minutes or minute.hour not in hours or minute.month not in months:
        return False
    on_day, on_weekday = minute.day in days, minute.isoweekday() % 7 in weekdays
    _, _, day_text, _, weekday_text = pattern.split()
    if day_text != "*" and weekday_text != "*":
        return on_day or on_weekday
    return on_day and on_weekday


@functools.cache
def _sets(pattern: str) -> list[frozenset[int]]:
    lowest, highest = (0, 0, 1, 1, 0), (59, 23, 31, 12, 6)
    return [_set(text, *bounds) for text, *bounds in zip(pattern.split(), lowest, highest, strict=True)]


def _set(text: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for item in text.split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            numbers = range(low, high + 1)
        else:
            start = _NAMES.index(first) if first in _NAMES else int(first)
            numbers = range(start, (int(last) if last else high if step else start) + 1)
        found.update(numbers[:: int(step or 1)])
    return frozenset(found)
