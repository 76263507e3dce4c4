"""A tick fires what is due: it makes executions, and moves jobs to their next times."""

from __future__ import annotations

from typing import Any

import pytest

from qinling_falcon.models import alias, due_jobs, execution_counters, job, version
from qinling_falcon.models.states import JobStatus
from tests.jobs.bench import (
    MINUTE,
    OWNER,
    Bench,
    due_time,
    end_all,
    executions,
    fired_at,
    queued,
    row,
    set_row,
    utc,
)


def test_a_job_fires_at_each_of_its_times_and_not_before(bench: Bench, function_id: str) -> None:
    job_id = bench.job(function_id)

    assert bench.run_at("2026-11-23 12:00:59.999999") == 0
    assert bench.run_at("2026-11-23 12:01:00") == 1
    assert bench.run_at("2026-11-23 12:01:00") == 0
    assert bench.run_at("2026-11-23 12:02:00.3") == 1

    made = row(job_id)
    assert (made.next_execution_time, made.count, made.status) == (utc("2026-11-23 12:03"), None, "running")
    assert (made.updated_at, made.first_execution_time) == (None, utc("2026-11-23 12:01"))
    assert fired_at() == [utc("2026-11-23 12:01"), utc("2026-11-23 12:02:00.3")]
    assert [due_time(one) for one in executions()] == [utc("2026-11-23 12:01"), utc("2026-11-23 12:02")]


def test_its_execution_is_queued_with_all_that_the_job_says(bench: Bench, function_id: str) -> None:
    version.create(OWNER, function_id, most=10)
    job_id = bench.job(function_id, function_version=1, function_input='{"a": "ä"}')

    bench.run_at("2026-11-23 12:01:00")

    (made,) = executions()
    assert (made.project_id, made.function_id, made.function_version) == ("project-a", function_id, 1)
    assert (made.input, made.function_alias, made.status, made.sync) == ('{"a": "ä"}', None, "running", False)
    assert (made.source, made.job_id, made.description) == ("job", job_id, f"Created by Job {job_id}")
    assert (made.attempt, made.created_at, made.updated_at) == (0, utc("2026-11-23 12:01"), None)
    assert bench.ready.pushed == [made.id]
    assert queued() == {made.id}
    assert row(job_id).last_execution_id == made.id
    assert execution_counters.read()[:3] == (1, 0, 1)


def test_a_job_with_a_count_fires_so_often_and_keeps_its_last_time(bench: Bench, function_id: str) -> None:
    job_id = bench.job(function_id, count=2)

    assert [bench.run_at(f"2026-11-23 12:0{minute}:01") for minute in (1, 2, 3)] == [1, 1, 0]

    made = row(job_id)
    assert (made.count, made.status, made.next_execution_time) == (0, "done", utc("2026-11-23 12:02"))


def test_a_job_without_a_pattern_fires_once(bench: Bench, function_id: str) -> None:
    job_id = bench.job(function_id, first_execution_time=utc("2026-11-23 12:05:07"))

    assert [bench.run_at(f"2026-11-23 12:05:{second}") for second in ("06", "07", "08")] == [0, 1, 0]

    made = row(job_id)
    assert (made.count, made.status, made.next_execution_time) == (0, "done", utc("2026-11-23 12:05:07"))


@pytest.mark.parametrize("status", [JobStatus.PAUSED, JobStatus.CANCELLED, JobStatus.DONE])
def test_only_running_jobs_fire(bench: Bench, function_id: str, status: JobStatus) -> None:
    job_id = bench.job(function_id)
    set_row(job_id, status=status.value)

    assert bench.run_at("2026-11-23 13:00:00") == 0
    assert row(job_id).next_execution_time == utc("2026-11-23 12:01")


def test_a_deleted_job_does_not_fire(bench: Bench, function_id: str) -> None:
    job.delete(OWNER, bench.job(function_id))
    assert bench.run_at("2026-11-23 13:00:00") == 0


def test_an_alias_is_followed_when_its_job_fires(bench: Bench, function_id: str) -> None:
    version.create(OWNER, function_id, most=10)
    alias.create(OWNER, name="prod", function_id=function_id)
    bench.job(function_id, function_alias="prod")

    bench.run_at("2026-11-23 12:01:00")
    alias.update(OWNER, "prod", {"function_version": 1})
    bench.run_at("2026-11-23 12:02:00")

    assert [(one.function_alias, one.function_id, one.function_version) for one in executions()] == [
        ("prod", function_id, 0),
        ("prod", function_id, 1),
    ]


def test_a_weighted_alias_is_drawn_for_each_job(bench: Bench, function_id: str) -> None:
    version.create(OWNER, function_id, most=10)
    alias.create(OWNER, name="prod", function_id=function_id, routing=(1, 0.5))
    for _ in range(40):
        bench.job(function_id, function_alias="prod")

    bench.run_at("2026-11-23 12:01:00")

    assert {one.function_version for one in executions()} == {0, 1}


def test_more_jobs_than_a_batch_fire_in_one_tick(
    bench: Bench, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qinling_falcon.jobs.tick._BATCH", 7)
    ids = [bench.job(function_id) for _ in range(30)]

    assert bench.run_at("2026-11-23 12:01:00") == 30

    assert {row(job_id).next_execution_time for job_id in ids} == {utc("2026-11-23 12:02")}
    assert sorted(one.job_id or "" for one in executions()) == sorted(ids)
    assert sorted(bench.ready.pushed) == [one.id for one in executions()]


def test_a_batch_is_bounded_by_the_size_of_its_inputs(
    bench: Bench, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qinling_falcon.jobs.tick._BATCH_BYTES", 1000)
    for _ in range(12):
        bench.job(function_id, function_input="ä" * 200)  # 400 bytes

    assert bench.run_at("2026-11-23 12:01:00") == 12


# Times that were missed


def test_times_that_were_missed_are_made_up_once(bench: Bench, function_id: str) -> None:
    job_id = bench.job(function_id, count=5)

    assert bench.run_at("2026-11-23 13:30:30") == 1
    assert bench.run_at("2026-11-23 13:30:31") == 0
    made = row(job_id)
    assert (made.count, made.next_execution_time) == (4, utc("2026-11-23 13:31"))

    assert bench.run_at("2026-11-23 13:31:00") == 1
    assert fired_at() == [utc("2026-11-23 13:30:30"), utc("2026-11-23 13:31")]


def test_a_job_can_skip_times_that_were_missed(bench: Bench, function_id: str) -> None:
    job_id = bench.job(function_id, count=5, misfire="skip")

    assert bench.run_at("2026-11-23 13:30:30") == 0
    made = row(job_id)
    assert (made.count, made.next_execution_time, made.status) == (5, utc("2026-11-23 13:31"), "running")

    assert bench.run_at("2026-11-23 13:31:59") == 1, "within the grace time"
    assert row(job_id).count == 4


def test_a_job_that_fires_once_and_skips_is_done_when_it_has_missed_its_time(bench: Bench, function_id: str) -> None:
    at = utc("2026-11-23 12:05")
    job_id = bench.job(function_id, first_execution_time=at, misfire="skip")

    assert bench.run_at("2026-11-23 12:06:01") == 0

    made = row(job_id)
    assert (made.status, made.count, made.next_execution_time) == ("done", 1, at)


def test_a_job_that_fires_once_makes_up_for_its_time(bench: Bench, function_id: str) -> None:
    job_id = bench.job(function_id, first_execution_time=utc("2026-11-23 12:05"))
    assert bench.run_at("2026-11-25 12:06:01") == 1
    assert row(job_id).status == "done"


# Overlap


def test_a_job_that_forbids_overlap_waits_for_its_last_execution(bench: Bench, function_id: str) -> None:
    job_id = bench.job(function_id, overlap="forbid", count=3)
    assert bench.run_at("2026-11-23 12:01:00") == 1

    assert bench.run_at("2026-11-23 12:02:00") == 0
    made = row(job_id)
    assert (made.count, made.next_execution_time) == (2, utc("2026-11-23 12:03"))

    end_all()
    assert bench.run_at("2026-11-23 12:03:00") == 1
    assert row(job_id).count == 1


def test_a_job_that_allows_overlap_fires_in_any_case(bench: Bench, function_id: str) -> None:
    bench.job(function_id, overlap="allow")
    assert [bench.run_at(f"2026-11-23 12:0{minute}:00") for minute in (1, 2, 3)] == [1, 1, 1]


# No room


def test_a_job_of_a_project_without_room_does_not_fire_and_keeps_its_count(bench: Bench, function_id: str) -> None:
    ids = [bench.job(function_id, count=3) for _ in range(5)]
    bench.quota.left = 2

    assert bench.run_at("2026-11-23 12:01:00") == 2
    assert sorted(row(job_id).count or 0 for job_id in ids) == [2, 2, 3, 3, 3]
    assert {row(job_id).next_execution_time for job_id in ids} == {utc("2026-11-23 12:02")}

    bench.quota.left = 100
    assert bench.run_at("2026-11-23 12:02:00") == 5


def test_a_nightly_job_without_room_is_tried_again_each_minute_and_not_a_day_later(
    bench: Bench, function_id: str
) -> None:
    job_id = bench.job(function_id, pattern="0 2 * * *", count=3)
    bench.quota.left = 0

    assert [bench.run_at(f"2026-11-24 02:0{minute}:00") for minute in (0, 1, 2)] == [0, 0, 0]
    assert (row(job_id).count, row(job_id).next_execution_time) == (3, utc("2026-11-24 02:03"))

    bench.quota.left = 1
    assert bench.run_at("2026-11-24 02:03:00") == 1
    assert (row(job_id).count, row(job_id).next_execution_time) == (2, utc("2026-11-25 02:00"))


def test_a_job_that_skips_missed_times_is_tried_again_until_its_time_is_missed(
    bench: Bench, function_id: str
) -> None:
    job_id = bench.job(function_id, pattern="0 2 * * *", misfire="skip", count=3)
    bench.quota.left = 0

    assert [bench.run_at(f"2026-11-24 02:0{time}") for time in ("0:00", "0:30", "1:00")] == [0, 0, 0]
    assert row(job_id).next_execution_time == utc("2026-11-24 02:00")

    bench.quota.left = 1
    assert bench.run_at("2026-11-24 02:01:01") == 0
    assert (row(job_id).next_execution_time, row(job_id).count) == (utc("2026-11-25 02:00"), 3)


def test_a_job_that_skips_missed_times_fires_for_its_time_when_there_is_room_again(
    bench: Bench, function_id: str
) -> None:
    job_id = bench.job(function_id, pattern="0 2 * * *", misfire="skip")
    bench.quota.left = 0
    assert bench.run_at("2026-11-24 02:00:00") == 0

    bench.quota.left = 1
    assert bench.run_at("2026-11-24 02:00:59") == 1
    assert [due_time(one) for one in executions()] == [utc("2026-11-24 02:00")]
    assert row(job_id).next_execution_time == utc("2026-11-25 02:00")


def test_a_job_that_skips_missed_times_is_not_late_for_its_next_time_because_there_was_no_room(
    bench: Bench, function_id: str
) -> None:
    job_id = bench.job(function_id, misfire="skip")
    bench.quota.left = 0
    assert [bench.run_at(f"2026-11-23 12:01:{second}") for second in ("00", "57")] == [0, 0]
    assert row(job_id).next_execution_time == utc("2026-11-23 12:01")
    assert bench.run_at("2026-11-23 12:01:58") == 0, "the last try before its next time"
    assert row(job_id).next_execution_time == utc("2026-11-23 12:02")

    bench.quota.left = 1
    assert bench.run_at("2026-11-23 12:02:01") == 1
    assert [due_time(one) for one in executions()] == [utc("2026-11-23 12:02")]


def test_a_job_that_fires_once_and_skips_fires_when_there_is_room_in_time(bench: Bench, function_id: str) -> None:
    at = utc("2026-11-23 12:05:07")
    job_id = bench.job(function_id, first_execution_time=at, misfire="skip")
    bench.quota.left = 0

    assert [bench.run_at(f"2026-11-23 12:0{time}") for time in ("5:08", "6:07")] == [0, 0]
    assert (row(job_id).status, row(job_id).count, row(job_id).next_execution_time) == ("running", 1, at)

    bench.quota.left = 1
    assert bench.run_at("2026-11-23 12:06:07") == 1
    assert [due_time(one) for one in executions()] == [at]
    assert (row(job_id).status, row(job_id).count, row(job_id).next_execution_time) == ("done", 0, at)


def test_a_job_that_fires_once_and_skips_is_done_when_it_has_had_no_room_in_time(
    bench: Bench, function_id: str
) -> None:
    at = utc("2026-11-23 12:05:07")
    job_id = bench.job(function_id, first_execution_time=at, misfire="skip")
    bench.quota.left = 0
    assert bench.run_at("2026-11-23 12:05:08") == 0
    assert row(job_id).status == "running"

    bench.quota.left = 1
    assert bench.run_at("2026-11-23 12:06:08") == 0
    assert (row(job_id).status, row(job_id).count, row(job_id).next_execution_time) == ("done", 1, at)


def test_a_job_of_a_project_with_a_full_queue_does_not_fire(bench: Bench, function_id: str) -> None:
    job_id = bench.job(function_id, count=3)
    bench.ready.left = 0

    assert bench.run_at("2026-11-23 12:01:00") == 0
    assert row(job_id).count == 3


def test_a_job_that_fires_once_is_tried_again_until_there_is_room(bench: Bench, function_id: str) -> None:
    job_id = bench.job(function_id, first_execution_time=utc("2026-11-23 12:05:07"))
    bench.quota.left = 0

    assert bench.run_at("2026-11-23 12:05:08") == 0
    made = row(job_id)
    assert (made.status, made.count, made.next_execution_time) == ("running", 1, utc("2026-11-23 12:06:08"))

    bench.quota.left = 1
    assert bench.run_at("2026-11-23 12:06:08") == 1
    assert row(job_id).status == "done"


# Odd rows


def test_a_job_whose_pattern_cannot_be_read_does_not_hold_up_others(bench: Bench, function_id: str) -> None:
    broken, sound = bench.job(function_id), bench.job(function_id)
    set_row(broken, pattern="nonsense")

    assert bench.run_at("2026-11-23 12:01:00") == 1
    assert row(broken).next_execution_time == utc("2026-11-23 12:02")
    assert row(sound).count is None
    assert [one.job_id for one in executions()] == [sound]


def test_a_job_whose_alias_is_gone_does_not_hold_up_others(bench: Bench, function_id: str) -> None:
    alias.create(OWNER, name="prod", function_id=function_id)
    broken, sound = bench.job(function_id, function_alias="prod", count=2), bench.job(function_id)
    set_row(broken, function_alias="gone")

    assert bench.run_at("2026-11-23 12:01:00") == 1
    assert (row(broken).count, row(broken).next_execution_time) == (2, utc("2026-11-23 12:02"))
    assert [one.job_id for one in executions()] == [sound]


def test_a_job_that_cannot_be_fired_does_not_hold_up_others(
    bench: Bench, function_id: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ids = [bench.job(function_id) for _ in range(9)]
    record = due_jobs._record

    def fails_for_one(due: Any, *arguments: Any) -> Any:
        if due.id == ids[4]:
            raise RuntimeError("on purpose")
        return record(due, *arguments)

    monkeypatch.setattr(due_jobs, "_record", fails_for_one)

    assert bench.run_at("2026-11-23 12:01:00") == 8
    assert row(ids[4]).next_execution_time == utc("2026-11-23 12:01")
    assert [entry.__dict__["job_id"] for entry in caplog.records if entry.levelname == "ERROR"] == [ids[4]]


def test_a_time_that_was_fired_is_not_fired_again_though_the_row_is_set_back(bench: Bench, function_id: str) -> None:
    job_id = bench.job(function_id, count=5)
    bench.run_at("2026-11-23 12:01:00")
    set_row(job_id, next_execution_time=utc("2026-11-23 12:01"))

    assert bench.run_at("2026-11-23 12:01:10") == 0
    assert (row(job_id).count, row(job_id).next_execution_time) == (4, utc("2026-11-23 12:02"))


# The clock


def test_nothing_fires_twice_when_the_clock_is_set_back(bench: Bench, function_id: str) -> None:
    job_id = bench.job(function_id)
    bench.run_at("2026-11-23 12:01:00")
    bench.run_at("2026-11-23 12:02:00")

    for _ in range(3):
        assert bench.run_at("2026-11-23 12:00:59") == 0
        assert bench.run_at("2026-11-23 12:02:59") == 0

    bench.clock.now = utc("2026-11-23 12:00:10")
    job.update(OWNER, job_id, {"status": "paused"}, now=bench.clock.now)
    resumed = job.update(OWNER, job_id, {"status": "running"}, now=bench.clock.now)
    assert resumed.next_execution_time == utc("2026-11-23 12:01"), "it is reckoned from the clock"
    assert [bench.run_at(f"2026-11-23 12:0{minute}:00") for minute in (1, 2, 3)] == [0, 0, 1]
    assert len({due_time(one) for one in executions()}) == 3


def test_an_hour_of_sleep_costs_one_execution(bench: Bench, function_id: str) -> None:
    bench.job(function_id)
    bench.run_at("2026-11-23 12:01:00")
    bench.clock.now += 60 * MINUTE
    assert [bench.run(), bench.run()] == [1, 0]
    bench.clock.now += MINUTE
    assert bench.run() == 1
