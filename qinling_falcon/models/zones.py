"""Cron patterns in a time zone, with a rule for the hours that daylight saving skips or repeats.

The rule: a local time that is skipped fires at the first moment after the gap, together with others of that moment. A
local time that occurs twice fires once, at its first occurrence.
"""

from __future__ import annotations

import datetime
import functools
import importlib.resources
from zoneinfo import ZoneInfo

from qinling_falcon.models.cron import next_match

UTC = "UTC"

_SECOND = datetime.timedelta(seconds=1)


def check_zone(name: str) -> None:
    """Make sure that a time zone exists.

    Raises:
        ValueError: it does not; the message says what is expected.
    """
    if name not in _names():
        raise ValueError("must be the name of a time zone in the IANA database, such as UTC or Europe/Berlin.")


def next_fire(pattern: str, zone: str, after: datetime.datetime) -> datetime.datetime:
    """The first time after another time at which a pattern fires.

    Args:
        pattern: one that `check_pattern` lets pass. It is read in the zone.
        zone: one that `check_zone` lets pass.
        after: a time in UTC, before the year 9900.

    Returns:
        The time in UTC.
    """
    if zone == UTC:
        return next_match(pattern, after)
    rules = _rules(zone)
    return _first_moment(next_match(pattern, _latest_shown(after, rules)).replace(tzinfo=None), rules)


def _latest_shown(moment: datetime.datetime, rules: ZoneInfo) -> datetime.datetime:
    """The latest local time that the zone's clocks have shown up to `moment`.

    In the second run of a repeated hour this is the end of the first run, less a second.
    """
    local = moment.astimezone(rules)
    if local.fold == 0:
        return local.replace(tzinfo=None)
    # In the second run of a repeated hour, the first run has shown all times of the hour.
    offset, offset_before = local.utcoffset(), local.replace(fold=0).utcoffset()
    assert offset is not None
    assert offset_before is not None
    present = moment.replace(microsecond=0)
    put_back = _first_change(present - (offset_before - offset), present, rules)
    return (put_back + offset_before).replace(tzinfo=None) - _SECOND


def _first_moment(local: datetime.datetime, rules: ZoneInfo) -> datetime.datetime:
    """When a clock of the zone first shows this local time, or a later one if it skips this one."""
    before, after = (local.replace(tzinfo=rules, fold=fold).utcoffset() for fold in (0, 1))
    assert before is not None
    assert after is not None
    moment = (local - before).replace(tzinfo=datetime.UTC)
    if before >= after:
        return moment  # it occurs once, or twice, and `fold=0` is its first occurrence
    # It is skipped. The clock is put forward between these two moments.
    return _first_change((local - after).replace(tzinfo=datetime.UTC), moment, rules)


def _first_change(early: datetime.datetime, late: datetime.datetime, rules: ZoneInfo) -> datetime.datetime:
    """The first whole second after `early` with another UTC offset than that at `early`. `late` has another one."""
    before = early.astimezone(rules).utcoffset()
    while late - early > _SECOND:
        middle = (early + (late - early) // 2).replace(microsecond=0)
        if middle.astimezone(rules).utcoffset() == before:
            early = middle
        else:
            late = middle
    return late


@functools.cache
def _rules(zone: str) -> ZoneInfo:
    """The rules of a zone, from the package `tzdata`: hosts have files of their own, of different ages."""
    with importlib.resources.files("tzdata").joinpath("zoneinfo", zone).open("rb") as file:
        return ZoneInfo.from_file(file, key=zone)


@functools.cache
def _names() -> frozenset[str]:
    """The names of all zones, the same on every machine. `ZoneInfo` also takes `localtime`, for example."""
    return frozenset(importlib.resources.files("tzdata").joinpath("zones").read_text().split())
