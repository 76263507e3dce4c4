"""Two years of several jobs, with a clock that jumps from time to time, against models of cron and of missed times."""

from __future__ import annotations

import datetime
import random
from typing import NamedTuple

import pytest

from tests.jobs.bench import MINUTE, SECOND, Bench, due_time, executions, row, utc
from tests.jobs.cron_model import watched

START, END = utc("2026-02-01 00:00"), utc("2028-02-01 00:00")
GRACE = 60 * SECOND
PATTERNS = (
    ("30 2 * * *", "Europe/Berlin", "run_once"),
    ("0 */12 * * *", "UTC", "skip"),
    ("30 1,2 * * SUN", "America/New_York", "run_once"),
    ("15 2 1,15 * *", "Australia/Lord_Howe", "skip"),
    ("0 0 29 2 *", "UTC", "run_once"),
    ("10 0 13 * 5", "Asia/Tokyo", "skip"),
)


class Modelled(NamedTuple):
    """A job of the model."""

    id: str
    misfire: str
    times: list[datetime.datetime]


@pytest.fixture(scope="module")
def times() -> list[list[datetime.datetime]]:
    return [list(watched(pattern, zone, START, END)) for pattern, zone, _ in PATTERNS]


@pytest.mark.timeout(300)
def test_each_time_of_two_years_fires_once_or_is_missed_by_the_rules(
    bench: Bench, function_id: str, times: list[list[datetime.datetime]]
) -> None:
    draw = random.Random(7)
    bench.clock.now = START
    jobs = [
        Modelled(bench.job(function_id, pattern=pattern, timezone=zone, misfire=misfire), misfire, list(all_times))
        for (pattern, zone, misfire), all_times in zip(PATTERNS, times, strict=True)
    ]
    expected: list[tuple[datetime.datetime, str, datetime.datetime]] = []
    while pending := [one.times[0] for one in jobs if one.times]:
        # Late by an instant, by seconds, or by an outage of up to four days.
        late = draw.choice((0 * SECOND, SECOND, draw.uniform(0, 59) * SECOND, draw.uniform(0, 59) * SECOND))
        if draw.random() < 0.02:
            late = draw.uniform(0, 4 * 24 * 60) * MINUTE
        now = bench.clock.now = max(bench.clock.now, min(pending) + late).replace(microsecond=0)
        if now >= END:
            break
        for one in jobs:
            due = [moment for moment in one.times if moment <= now] if one.times and one.times[0] <= now else []
            if due and not (one.misfire == "skip" and now - due[0] > GRACE):
                expected.append((now, one.id, due[0]))
            del one.times[: len(due)]
        bench.run()

    found = [(made.created_at, made.job_id or "", due_time(made)) for made in executions()]
    assert sorted(found) == sorted(expected)
    assert len(found) > 1500
    for one in jobs:
        if one.times:
            assert row(one.id).next_execution_time == one.times[0]
