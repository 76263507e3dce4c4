"""Clocks that are set back, that differ between machines, and that jump because the machine was asleep."""

from __future__ import annotations

import datetime
import logging
import time
from types import SimpleNamespace
from typing import Any

import pytest

from qinling_falcon.jobs import alarms
from qinling_falcon.jobs.tick import Tick
from qinling_falcon.models import clock as clocks
from qinling_falcon.models import job
from tests.jobs.bench import MINUTE, OWNER, SECOND, Bench, Clock, due_time, executions, fired_at, row, utc
from tests.jobs.house import House


class Running(Clock):
    """A clock that goes on by itself."""

    def __init__(self, now: datetime.datetime) -> None:
        self._ahead = now - clocks.wall()

    def __call__(self) -> datetime.datetime:
        return clocks.wall() + self._ahead


@pytest.fixture
def house(bench: Bench, client: Any, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(bench, client, monkeypatch)


def test_jobs_follow_the_clock_of_the_machine_when_it_is_set_back(
    bench: Bench, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clocks, "_last", 0)
    monkeypatch.setattr(clocks, "time", SimpleNamespace(time_ns=lambda: clocks.to_micros(bench.clock.now) * 1000))
    parts: Any = (bench.ready, bench.quota, bench.alarms, bench.settings)

    def ticks_at(text: str) -> int:
        bench.clock.now = utc(text)
        before = len(executions())
        Tick(*parts).run()
        return len(executions()) - before

    clocks.now()
    assert ticks_at("2026-11-23 12:04:00") == 0
    clocks.now()
    bench.clock.now = utc("2026-11-23 11:54:00")
    once = {"function_id": function_id, "first_execution_time": utc("2026-11-23 11:56"), "misfire": "skip"}
    made = job.create(OWNER, **once)
    every_minute = job.create(OWNER, function_id=function_id, pattern="* * * * *")

    assert every_minute.next_execution_time == utc("2026-11-23 11:55")
    assert [ticks_at("2026-11-23 11:54:59"), ticks_at("2026-11-23 11:55:00")] == [0, 1]
    assert [ticks_at("2026-11-23 11:55:59"), ticks_at("2026-11-23 11:56:00")] == [0, 2]
    assert row(made.id).status == "done"
    paused = job.update(OWNER, every_minute.id, {"status": "paused"})
    resumed = job.update(OWNER, every_minute.id, {"status": "running"})
    assert resumed.next_execution_time == utc("2026-11-23 11:57")
    assert resumed.updated_at > paused.updated_at > every_minute.created_at > made.created_at, "rows keep their order"


def test_an_alarm_that_rings_a_little_early_waits(house: House, function_id: str) -> None:
    house.bench.job(function_id)
    house.bench.clock = Running(utc("2026-11-23 12:00:59.7"))
    alarms.set_tick(house.bench.tick())

    alarms.ring(int(utc("2026-11-23 12:01:00").timestamp()))

    assert [due_time(one) for one in executions()] == [utc("2026-11-23 12:01:00")]
    assert house.alarms_set() == [int(utc("2026-11-23 12:02:00").timestamp())], "and no others"


def test_an_alarm_that_rings_much_too_early_sets_no_others_and_its_jobs_fire_soon_after_their_time(
    house: House, function_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    house.bench.job(function_id)
    house.bench.clock.now = utc("2026-11-23 12:00:50")

    with caplog.at_level(logging.WARNING):
        alarms.ring(int(utc("2026-11-23 12:01:00").timestamp()))

    assert caplog.messages == ["the scheduler's clock is ahead of this one"]
    assert (executions(), house.alarms_set()) == ([], [])
    house.pass_seconds(25)
    assert len(executions()) == 1


def test_a_scheduler_whose_clock_is_ahead_by_more_delays_jobs_by_seconds_and_floods_nothing(
    house: House, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.bench.job(function_id)
    ahead = SimpleNamespace(time=lambda: (house.bench.clock() + 5 * SECOND).timestamp(), monotonic=time.monotonic)
    monkeypatch.setattr("qinling_falcon.jobs.scheduler.time", ahead)
    rung: list[int] = []
    ring = alarms.ring
    monkeypatch.setattr(alarms, "ring", lambda second: rung.append(second) or ring(second))

    house.pass_seconds(180)

    assert [due_time(one).minute for one in executions()] == [1, 2, 3]
    assert all(one.created_at - due_time(one) <= 12 * SECOND for one in executions())
    assert len(rung) <= 30


def test_jobs_fire_by_the_clock_of_tasks_also_if_that_of_the_scheduler_is_far_behind(
    house: House, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = house.bench.job(function_id, count=3, misfire="skip")
    behind = SimpleNamespace(time=lambda: (house.bench.clock() - 5 * MINUTE).timestamp(), monotonic=time.monotonic)
    monkeypatch.setattr("qinling_falcon.jobs.scheduler.time", behind)

    house.pass_seconds(200)

    assert [due_time(one).minute for one in executions()] == [1, 2, 3]
    assert row(job_id).status == "done"


@pytest.mark.parametrize("misfire", ["run_once", "skip"])
def test_after_an_hour_of_sleep_the_processes_go_on(house: House, function_id: str, misfire: str) -> None:
    job_id = house.bench.job(function_id, count=100, misfire=misfire)
    house.pass_seconds(60)
    house.bench.clock.now += 60 * MINUTE
    house.pass_seconds(60)

    late = [utc("2026-11-23 13:01:31")] if misfire == "run_once" else []
    assert fired_at() == [utc("2026-11-23 12:01"), *late, utc("2026-11-23 13:02")]
    assert row(job_id).count == 100 - len(fired_at())


def test_alarms_go_on_when_the_clock_is_set_back(house: House, function_id: str) -> None:
    house.bench.job(function_id)
    house.pass_seconds(100)
    house.bench.clock.now -= 10 * MINUTE
    later = house.bench.job(function_id)

    house.pass_seconds(120)

    assert [due_time(one) for one in executions() if one.job_id == later] == [
        utc("2026-11-23 11:53"),
        utc("2026-11-23 11:54"),
    ]
    assert len(executions()) == 4
