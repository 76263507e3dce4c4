"""Patterns in time zones, and in the hours that daylight saving skips and repeats, against a clock that is watched."""

from __future__ import annotations

import datetime
import itertools
import random
import zoneinfo
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qinling_falcon.models import zones
from qinling_falcon.models.cron import next_match
from qinling_falcon.models.zones import check_zone, next_fire
from tests.jobs.bench import MINUTE, SECOND, utc
from tests.jobs.cron_model import rules_of, watched


def times(pattern: str, zone: str, after: str, count: int) -> list[str]:
    """The first times of a pattern, in UTC."""
    found = [utc(after)]
    for _ in range(count):
        found.append(next_fire(pattern, zone, found[-1]))
    return [f"{moment:%m-%d %H:%M}" for moment in found[1:]]


def test_a_pattern_is_read_in_its_zone() -> None:
    assert times("30 9 * * *", "Asia/Tokyo", "2026-06-01 00:00", 2) == ["06-01 00:30", "06-02 00:30"]
    assert times("30 9 * * *", "Asia/Kathmandu", "2026-06-01 00:00", 1) == ["06-01 03:45"]
    assert times("0 0 1 * *", "Pacific/Kiritimati", "2026-05-31 09:00", 1) == ["05-31 10:00"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        # 02:00 to 03:00 is skipped on March 28; it is 01:00 UTC then.
        ("30 2 * * *", ["03-27 01:30", "03-28 01:00", "03-29 00:30"]),
        ("0 2 * * *", ["03-27 01:00", "03-28 01:00", "03-29 00:00"]),
        ("0 3 * * *", ["03-27 02:00", "03-28 01:00", "03-29 01:00"]),
        # Several skipped times fire together, with those of the moment after the gap.
        ("*/20 2,3 * * *", ["03-27 01:00", "03-27 01:20", "03-27 01:40", "03-27 02:00", "03-27 02:20", "03-27 02:40",
                            "03-28 01:00", "03-28 01:20", "03-28 01:40", "03-29 00:00"]),
    ],
)  # fmt: skip
def test_a_skipped_time_fires_at_the_first_moment_after_the_gap(pattern: str, expected: list[str]) -> None:
    assert times(pattern, "Europe/Berlin", "2027-03-27 00:00", len(expected)) == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        # 02:00 to 03:00 occurs twice on October 31, first from 00:00 UTC on.
        ("30 2 * * *", ["10-30 00:30", "10-31 00:30", "11-01 01:30"]),
        ("0 3 * * *", ["10-30 01:00", "10-31 02:00", "11-01 02:00"]),
        ("45 * * * *", ["10-30 00:45", "10-30 01:45"]),
    ],
)
def test_a_time_that_occurs_twice_fires_once_at_the_first(pattern: str, expected: list[str]) -> None:
    assert times(pattern, "Europe/Berlin", "2027-10-30 00:00", len(expected)) == expected
    every_hour = times("45 * * * *", "Europe/Berlin", "2027-10-30 23:00", 3)
    assert every_hour == ["10-30 23:45", "10-31 00:45", "10-31 02:45"]
    # Asked during the second run of the hour, whose times are over.
    assert times(pattern="45 * * * *", zone="Europe/Berlin", after="2027-10-31 01:10", count=1) == ["10-31 02:45"]


def test_a_gap_of_half_an_hour_is_known() -> None:
    assert times("15 2 * * *", "Australia/Lord_Howe", "2027-10-02 00:00", 2) == ["10-02 15:30", "10-03 15:15"]


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "US/Eastern", "America/Argentina/Buenos_Aires", "Etc/GMT+3"])
def test_names_of_the_database_are_known(name: str) -> None:
    check_zone(name)


@pytest.mark.parametrize("name", ["", "Europe", "europe/berlin", "CEST+1", "../UTC", "localtime", "right/UTC", "\0"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="IANA"):
        check_zone(name)


@settings(max_examples=150, deadline=None)
@given(
    pattern=st.sampled_from(
        ["30 2 * * *", "*/20 1-3 * * *", "0 * * * *", "0 3 * * SUN", "59 1,2 25-31 * *", "15 0 * 3,10 *", "7 2 1 * 0"]
    ),
    change=st.sampled_from(
        [
            ("Europe/Berlin", "2026-03-29 01:00"),
            ("Europe/Berlin", "2026-10-25 01:00"),
            ("America/New_York", "2026-03-08 07:00"),
            ("America/New_York", "2026-11-01 06:00"),
            ("America/St_Johns", "2026-11-01 04:30"),
            ("Australia/Lord_Howe", "2026-04-04 15:00"),
            ("Australia/Lord_Howe", "2026-10-03 15:30"),
            ("Africa/Casablanca", "2026-02-15 02:00"),
            ("UTC", "2026-03-29 01:00"),
        ]
    ),
    minutes=st.integers(-180, 120),
)
def test_times_are_those_that_watching_a_clock_gives(pattern: str, change: tuple[str, str], minutes: int) -> None:
    zone, after = change[0], utc(change[1]) + minutes * MINUTE
    until = after + 1440 * MINUTE
    expected = list(watched(pattern, zone, after, until))

    found: list[datetime.datetime] = []
    moment = next_fire(pattern, zone, after)
    while moment <= until:
        found.append(moment)
        moment = next_fire(pattern, zone, moment)

    assert found == expected


def test_the_rules_of_this_machine_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "Europe").mkdir()
    (tmp_path / "Europe" / "Madrid").write_bytes(files("tzdata").joinpath("zoneinfo", "Asia", "Tokyo").read_bytes())
    try:
        zoneinfo.reset_tzpath((tmp_path,))
        zoneinfo.ZoneInfo.clear_cache()
        assert times("0 12 * * *", "Europe/Madrid", "2026-06-01 00:00", 1) == ["06-01 10:00"]
    finally:
        zoneinfo.reset_tzpath()
        zoneinfo.ZoneInfo.clear_cache()


def test_a_time_in_the_second_run_of_a_repeated_hour_needs_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense pattern has many times in the first run, and 2 hours are repeated here."""
    looks = []
    monkeypatch.setattr(zones, "next_match", lambda *arguments: looks.append(1) or next_match(*arguments))

    found = next_fire("0-59 0-23 1-31 1-12 0-6", "Antarctica/Troll", utc("2027-10-31 01:00:01"))

    assert found == utc("2027-10-31 03:00")
    assert len(looks) == 1


@pytest.mark.timeout(120)
def test_dense_patterns_in_all_zones_fire_as_watching_a_clock_gives_around_each_change() -> None:
    draw = random.Random(3)
    for zone in ("Australia/Lord_Howe", "Antarctica/Troll", "Africa/Cairo", "America/St_Johns", "Asia/Gaza",
                 "America/Havana", "Pacific/Chatham", "Europe/Dublin", "America/Nuuk"):  # fmt: skip
        for change in changes_of(zone, 2027):
            for pattern in ("* * * * *", "*/7 0-5 * * *", "13-50/3 * * * SUN"):
                moment = change + draw.randrange(-200, 130) * MINUTE + draw.uniform(0, 59) * SECOND
                expected = list(watched(pattern, zone, moment, moment + 300 * MINUTE))
                found = [moment]
                while len(found) <= len(expected):
                    found.append(next_fire(pattern, zone, found[-1]))
                assert found[1:] == expected, (zone, pattern, moment)


def changes_of(zone: str, year: int) -> list[datetime.datetime]:
    """The hours in which clocks of the zone are changed, in a year."""
    first = utc(f"{year}-01-01")
    offsets = [
        (moment, moment.astimezone(rules_of(zone)).utcoffset())
        for moment in (first + hours * 60 * MINUTE for hours in range(366 * 24))
    ]
    found = [after for (_, before), (after, offset) in itertools.pairwise(offsets) if offset != before]
    assert found
    return found
