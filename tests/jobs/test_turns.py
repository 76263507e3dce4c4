"""Ticks with many jobs: projects take turns, other greenlets have turns, and locked rows hold up nothing."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import gevent
import psycopg2
import pytest

from qinling_falcon.jobs import tick as module
from qinling_falcon.models import cooperation, due_jobs, job
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import Settings
from tests.jobs.bench import MINUTE, OWNER, Bench, executions, row, set_row, utc
from tests.models.factories import make_function

OTHER = Context("project-b")


@pytest.fixture
def other_function(function_id: str, runtime_id: str, bench: Bench) -> str:
    """A function of another project."""
    return make_function(OTHER, runtime_id).id


def test_a_project_with_large_inputs_delays_no_other_one(
    bench: Bench, function_id: str, other_function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH", 3)
    for _ in range(12):
        bench.job(function_id, function_input="ä" * 50_000)
    few = {job.create(OTHER, function_id=other_function, pattern="* * * * *", now=bench.clock.now).id for _ in range(5)}
    for job_id in few:
        set_row(job_id, next_execution_time=utc("2026-11-23 12:01:01"))

    assert bench.run_at("2026-11-23 12:01:02") == 17

    jobs = {one.id: one.job_id for one in executions()}
    assert {jobs[execution_id] for execution_id in bench.ready.pushed[:6]} >= few


def test_jobs_that_become_due_during_a_long_tick_have_their_turn(
    bench: Bench, function_id: str, other_function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH", 2)
    monkeypatch.setattr(module, "_TURN_S", 0)
    for _ in range(20):
        bench.job(function_id, count=1)
    at = utc("2026-11-23 12:02:30")
    later = job.create(OTHER, function_id=other_function, first_execution_time=at, now=bench.clock.now)
    fire = due_jobs.fire

    def takes_long(*arguments: Any) -> Any:
        bench.clock.now += MINUTE
        return fire(*arguments)

    monkeypatch.setattr(due_jobs, "fire", takes_long)

    assert bench.run_at("2026-11-23 12:01:00") == 21

    (made,) = [one for one in executions() if one.job_id == later.id]
    assert made.id in bench.ready.pushed[:6]


def test_jobs_without_room_that_stay_due_do_not_keep_other_projects_from_firing(
    bench: Bench, function_id: str, other_function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_FOUND", 4)
    monkeypatch.setattr(module, "_BATCH", 2)
    waiting = [bench.job(function_id, misfire="skip") for _ in range(13)]
    later = job.create(OTHER, function_id=other_function, pattern="* * * * *", now=bench.clock.now)
    set_row(later.id, next_execution_time=utc("2026-11-23 12:01:05"))
    bench.quota.full.add(OWNER.project_id)

    assert bench.run_at("2026-11-23 12:01:06") == 1

    assert [one.job_id for one in executions()] == [later.id]
    assert {row(job_id).next_execution_time for job_id in waiting} == {utc("2026-11-23 12:01")}


def test_the_size_of_an_input_follows_its_changes(bench: Bench, function_id: str) -> None:
    job_id = bench.job(function_id, function_input="ä")
    assert row(job_id).input_size == 2
    job.update(OWNER, job_id, {"function_input": "abc"})
    assert row(job_id).input_size == 3
    assert row(bench.job(function_id)).input_size == 0


def test_other_greenlets_have_turns_while_next_times_are_computed(
    bench: Bench, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for minute in range(40):
        bench.job(function_id, pattern=f"{minute} * * * *")
    next_fire = module.next_fire

    def takes_long(*arguments: Any) -> Any:
        ends_at = time.perf_counter() + 0.006
        while time.perf_counter() < ends_at:
            pass
        return next_fire(*arguments)

    monkeypatch.setattr(module, "next_fire", takes_long)
    monkeypatch.setattr(cooperation, "cooperative", lambda: True)
    woken = []

    def wakes() -> None:
        while True:
            gevent.sleep(0.001)
            woken.append(1)

    waker = gevent.spawn(wakes)
    due = due_jobs.find(utc("2026-11-23 14:00:00"), 100)
    module._next_times(due, utc("2026-11-23 14:00:00"))
    waker.kill()

    assert len(woken) >= 20


def test_a_row_that_someone_holds_does_not_hold_up_others(
    bench: Bench, function_id: str, settings: Settings
) -> None:
    if not settings.database_url:
        pytest.skip("SQLite locks no rows")
    ids = [bench.job(function_id) for _ in range(9)]
    with contextlib.closing(psycopg2.connect(settings.database_url)) as other:
        other.cursor().execute("SELECT 1 FROM jobs WHERE id = %s FOR UPDATE", (ids[4],))

        assert bench.run_at("2026-11-23 12:01:00") == 8
        assert row(ids[4]).next_execution_time == utc("2026-11-23 12:01")
        other.rollback()

    assert bench.run_at("2026-11-23 12:01:10") == 1
    assert {row(job_id).next_execution_time for job_id in ids} == {utc("2026-11-23 12:02")}
