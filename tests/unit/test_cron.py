"""Cron patterns: what they mean, in UTC, and what is none."""

from __future__ import annotations

import datetime
import time
from itertools import pairwise
from typing import Any

import croniter as cron_library
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qinling_falcon.models import cron
from qinling_falcon.models.cron import check_pattern, next_match


def utc(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


NOW = utc("2026-11-23 12:00:30")  # a Monday


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("* * * * *", ["2026-11-23 12:01", "2026-11-23 12:02"]),
        ("  */20\t* * *  * ", ["2026-11-23 12:20", "2026-11-23 12:40", "2026-11-23 13:00"]),
        ("7/20 * * * *", ["2026-11-23 12:07", "2026-11-23 12:27", "2026-11-23 12:47", "2026-11-23 13:07"]),
        ("5-5 * * * *", ["2026-11-23 12:05", "2026-11-23 13:05"]),
        ("0 22-2 * * *", [f"2026-11-{at}" for at in ("23 22:00", "23 23:00", "24 00:00", "24 01:00", "24 02:00")]),
        ("0 23-3/2 * * *", ["2026-11-23 23:00", "2026-11-24 01:00", "2026-11-24 03:00", "2026-11-24 23:00"]),
        ("0 0 * * SUN", ["2026-11-29 00:00", "2026-12-06 00:00"]),
        ("0 0 * * 0", ["2026-11-29 00:00"]),
        ("0 0 * * 07", ["2026-11-29 00:00"]),
        ("0 0 * * 5-7", ["2026-11-27 00:00", "2026-11-28 00:00", "2026-11-29 00:00", "2026-12-04 00:00"]),
        ("0 0 * * fri-Mon", ["2026-11-27 00:00", "2026-11-28 00:00", "2026-11-29 00:00", "2026-11-30 00:00"]),
        ("0 0 1 jan,JUL *", ["2027-01-01 00:00", "2027-07-01 00:00"]),
        ("0 0 1 nov-feb/2 *", ["2027-01-01 00:00", "2027-11-01 00:00"]),
        # Either day fires when both are given, as in cron, also when one of them never comes.
        ("0 0 13 * 5", ["2026-11-27 00:00", "2026-12-04 00:00", "2026-12-11 00:00", "2026-12-13 00:00"]),
        ("0 0 31 2 MON", ["2027-02-01 00:00", "2027-02-08 00:00", "2027-02-15 00:00", "2027-02-22 00:00"]),
        ("0 0 31 * *", ["2026-12-31 00:00", "2027-01-31 00:00", "2027-03-31 00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 0 30,29 FEB *", ["2028-02-29 00:00"]),
        ("0 0 L * *", ["2026-11-30 00:00", "2026-12-31 00:00", "2027-01-31 00:00", "2027-02-28 00:00"]),
        ("0 0 15,l 2 *", ["2027-02-15 00:00", "2027-02-28 00:00", "2028-02-15 00:00", "2028-02-29 00:00"]),
        ("0 0 30,L 2 *", ["2027-02-28 00:00", "2028-02-29 00:00"]),
        ("0 0 * * MON#1", ["2026-12-07 00:00", "2027-01-04 00:00"]),
        ("0 0 * * 7#1,FRI#5", ["2026-12-06 00:00", "2027-01-03 00:00", "2027-01-29 00:00"]),
        ("0 0 * 2 MON#5", ["2044-02-29 00:00", "2072-02-29 00:00", "2112-02-29 00:00"]),
    ],
)
def test_a_pattern_fires_when_cron_says(pattern: str, expected: list[str]) -> None:
    check_pattern(pattern)
    found = [NOW]
    for _ in expected:
        found.append(next_match(pattern, found[-1]))
    assert found[1:] == [utc(text) for text in expected]


@pytest.mark.parametrize(
    ("pattern", "word"),
    [
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("* * * * * *", "five fields"),
        ("0 * * * * * 2027", "five fields"),
        ("@hourly", "five fields"),
        ("0\n0 * * *", "five fields"),
        ("0\u00a00 * * *", "five fields"),
        ("60 * * * *", "'60' is no minute"),
        ("-5 * * * *", "'-5' is no minute"),
        ("1,,2 * * * *", "'' is no minute"),
        ("0.5 * * * *", "'0.5' is no minute"),
        ("\u0663 * * * *", "is no minute"),
        ("MON * * * *", "'MON' is no minute"),
        ("* 24 * * *", "'24' is no hour"),
        ("* * 0 * *", "'0' is no day of the month"),
        ("* * 32 * *", "'32' is no day of the month"),
        ("* * * 13 *", "'13' is no month"),
        ("* * * MON *", "'MON' is no month"),
        ("* * * * 8", "'8' is no day of the week"),
        ("* * * * MONDAY", "'MONDAY' is no day of the week"),
        ("*/0 * * * *", "a step of the minute is from 1 to 60"),
        ("*/90 * * * *", "a step of the minute is from 1 to 60"),
        ("* */25 * * *", "a step of the hour"),
        # What croniter takes beyond cron.
        ("r * * * *", "'R' is no minute"),
        ("H * * * *", "'H' is no minute"),
        ("R(0-9) * * * *", "is no minute"),
        ("* * ? * *", "'?' is no day"),
        ("* * 15W * *", "'15W' is no day"),
        ("* * 5-L * *", "'L' is no day"),
        ("* * * * L5", "'L5' is no day of the week"),
        ("* * * * MON#6", "'MON#6' is no day of the week"),
        ("* * * * MON#1,TUE", "'TUE' is no day of the week with its place"),
        ("* * 13 * FRI#2", "can't be combined"),
        # Days that never come.
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 2,4,6,9,NOV *", "never fires"),
        ("* * 30-31 FEB *", "never fires"),
    ],
)
def test_what_is_no_pattern_is_refused_with_the_field_at_fault(pattern: str, word: str) -> None:
    with pytest.raises(ValueError) as caught:
        check_pattern(pattern)
    assert word in str(caught.value)


def test_a_pattern_is_refused_without_looking_for_its_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cron, "croniter", None)
    with pytest.raises(ValueError, match="never fires"):
        check_pattern("* * 30,31 2 *")


def test_days_that_never_come_are_not_looked_for_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def croniter(pattern: str, start: datetime.datetime) -> Any:
        asked.append(pattern)
        return cron_library.croniter(pattern, start)

    monkeypatch.setattr(cron, "croniter", croniter)
    assert next_match("0 0 30,31 2 MON", NOW) == utc("2027-02-01 00:00")
    assert asked == ["0 0 * 2 1"]


def test_a_match_is_later_than_the_time_asked_from() -> None:
    minute = utc("2026-11-23 12:01")
    instant = datetime.timedelta(microseconds=1)
    assert next_match("* * * * *", minute - instant) == minute
    assert next_match("* * * * *", minute) == minute + datetime.timedelta(minutes=1)
    for year in (1970, 2026, 2400, 9899):
        last = utc(f"{year}-12-31 23:59:59.999999")
        assert next_match("* * * * *", last) == utc(f"{year + 1}-01-01 00:00")


def test_times_are_utc_whatever_the_zone_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        for zone in ("America/New_York", "Pacific/Kiritimati"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            # In New York, 02:30 does not exist on the first of these days, and 01:30 comes twice on the second.
            assert next_match("30 2 * * *", utc("2027-03-14 00:00")) == utc("2027-03-14 02:30")
            assert next_match("30 * * * *", utc("2027-11-07 05:30")) == utc("2027-11-07 06:30")
    finally:
        monkeypatch.undo()
        time.tzset()


def fields(low: int, high: int) -> st.SearchStrategy[tuple[str, set[int]]]:
    """Texts of a field, each with the numbers that it means."""

    def ranged(first: int, last: int, step: int) -> tuple[str, set[int]]:
        cycle = [*range(first, high + 1), *range(low, first)]
        return f"{first}-{last}/{step}", set(cycle[: cycle.index(last) + 1 : step])

    number = st.integers(low, high)
    step = st.integers(1, high - low + 1)
    item = st.one_of(
        number.map(lambda n: (str(n), {n})),
        st.builds(ranged, number, number, step),
        st.builds(lambda first, by: (f"{first}/{by}", set(range(first, high + 1, by))), number, step),
        step.map(lambda by: (f"*/{by}", set(range(low, high + 1, by)))),
    )
    several = st.lists(item, min_size=1, max_size=3)
    joined = several.map(lambda items: (",".join(text for text, _ in items), set().union(*(some for _, some in items))))
    return st.just(("*", set(range(low, high + 1)))) | joined


@settings(max_examples=150, deadline=None)
@given(
    minute=fields(0, 59),
    hour=fields(0, 23),
    day=fields(1, 31),
    month=fields(1, 12),
    weekday=fields(0, 6),
    last_day=st.booleans(),
    after=st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2200, 1, 1)),
)
def test_times_are_those_that_trying_every_minute_finds(
    minute: tuple[str, set[int]],
    hour: tuple[str, set[int]],
    day: tuple[str, set[int]],
    month: tuple[str, set[int]],
    weekday: tuple[str, set[int]],
    last_day: bool,
    after: datetime.datetime,
) -> None:
    if last_day:
        day = ("L", set()) if day[0] == "*" else (f"{day[0]},L", day[1])
    either = day[0] != "*" and weekday[0] != "*"

    def fires(on: datetime.date) -> bool:
        ends_month = last_day and (on + datetime.timedelta(days=1)).day == 1
        on_day, on_weekday = ends_month or on.day in day[1], on.isoweekday() % 7 in weekday[1]
        return on.month in month[1] and (on_day or on_weekday if either else on_day and on_weekday)

    def every_match() -> list[datetime.datetime]:
        found: list[datetime.datetime] = []
        for days in range(9 * 366):
            on = after.date() + datetime.timedelta(days=days)
            if fires(on):
                times = [datetime.time(h, m) for h in sorted(hour[1]) for m in sorted(minute[1])]
                found += [at for at in (datetime.datetime.combine(on, time) for time in times) if at > after]
            if len(found) >= 3:
                break
        return [at.replace(tzinfo=datetime.UTC) for at in found[:3]]

    pattern = " ".join(text for text, _ in (minute, hour, day, month, weekday))
    expected = every_match()
    if not expected:
        with pytest.raises(ValueError, match="never fires"):
            check_pattern(pattern)
        return
    check_pattern(pattern)
    chain = [after.replace(tzinfo=datetime.UTC), *expected]
    assert [next_match(pattern, earlier) for earlier, _ in pairwise(chain)] == expected
