"""A model of cron that shares nothing with the service: it looks at one minute after the other."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterator
from importlib.resources import files
from zoneinfo import ZoneInfo

MINUTE = datetime.timedelta(minutes=1)

_NAMES = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]


def watched(pattern: str, zone: str, after: datetime.datetime, until: datetime.datetime) -> Iterator[datetime.datetime]:
    """When the pattern fires, as someone sees it who watches a clock of the zone, minute by minute.

    Each local minute that the clock passes for the first time fires, also those that it jumps over. Quarters of an hour
    in which the clock just goes on, and none of whose hours is in the pattern, are left out to save time.
    """
    hours = _sets(pattern)[1]
    rules = rules_of(zone)
    moment = (after - 2880 * MINUTE).replace(second=0, microsecond=0)
    reached = moment.astimezone(rules).replace(tzinfo=None)
    while moment < until:
        if moment.minute % 15 == 0:
            begins, ends = (at.astimezone(rules).replace(tzinfo=None) for at in (moment, moment + 15 * MINUTE))
            if ends - begins == 15 * MINUTE and not hours & {reached.hour, ends.hour}:
                reached = max(reached, ends)
                moment += 15 * MINUTE
                continue
        moment += MINUTE
        shown = moment.astimezone(rules).replace(tzinfo=None)
        fires = False
        while reached < shown:
            reached += MINUTE
            fires = fires or matches(pattern, reached)
        if fires and moment > after:
            yield moment


@functools.cache
def rules_of(zone: str) -> ZoneInfo:
    with files("tzdata").joinpath("zoneinfo", zone).open("rb") as file:
        return ZoneInfo.from_file(file, key=zone)


def matches(pattern: str, minute: datetime.datetime) -> bool:
    """Whether a pattern of numbers, lists, ranges, steps, `L`, `MON#1` (and `SUN` to `SAT`) fires in this minute."""
    minutes, hours, days, months, weekdays = _sets(pattern)
    if minute.minute not in minutes or minute.hour not in hours or minute.month not in months:
        return False
    _, _, day_text, _, weekday_text = pattern.split()
    weekday = minute.isoweekday() % 7
    on_day, on_weekday = minute.day in days, weekday in weekdays
    if "L" in day_text:
        on_day = on_day or (minute + 1440 * MINUTE).day == 1
    if "#" in weekday_text:
        on_weekday = f"{_NAMES[weekday]}#{(minute.day + 6) // 7}" in weekday_text.split(",")
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
        if item == "L" or "#" in item:
            continue
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            numbers = range(low, high + 1)
        else:
            start = _NAMES.index(first) if first in _NAMES else int(first)
            numbers = range(start, (int(last) if last else high if step else start) + 1)
        found.update(numbers[:: int(step or 1)])
    return frozenset(found)
