"""Alarms: one for each second in which jobs are due, set again when they are lost."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event
from rq.job import JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from qinling_falcon.errors import Unavailable
from qinling_falcon.jobs import alarms as module
from qinling_falcon.jobs import queues
from qinling_falcon.jobs.alarms import Alarms
from qinling_falcon.jobs.queues import TASKS, JsonJob, JsonQueue
from qinling_falcon.jobs.scheduler import DueScheduler
from qinling_falcon.jobs.worker import GeventWorker
from qinling_falcon.models import due_jobs
from qinling_falcon.settings import Settings
from tests.jobs.bench import MINUTE, SECOND, Bench, due_time, executions, fired_at, row, set_row, utc
from tests.jobs.house import House


@pytest.fixture
def house(bench: Bench, client: Any, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(bench, client, monkeypatch)


def second(text: str) -> int:
    return int(utc(text).timestamp())


def test_there_is_one_alarm_for_each_second_however_many_jobs(house: House, function_id: str) -> None:
    for _ in range(20):
        house.bench.job(function_id)
    late = house.bench.job(function_id)
    set_row(late, next_execution_time=utc("2026-11-23 12:01:03.2"))

    for _ in range(2):
        house.restore()
        assert house.alarms_set() == [second("2026-11-23 12:01:00"), second("2026-11-23 12:01:04")]


def test_alarms_are_set_for_the_near_future_of_running_jobs_only(house: House, function_id: str) -> None:
    times = ["12:00:31", "12:02:59", "12:03:00", "12:03:01", "13:00:00"]
    for text in times:
        set_row(house.bench.job(function_id), next_execution_time=utc(f"2026-11-23 {text}"))
    set_row(house.bench.job(function_id), next_execution_time=utc("2026-11-23 12:02:00"), status="paused")

    house.restore()

    assert house.alarms_set() == [second(f"2026-11-23 {text}") for text in times[:3]]


def test_overdue_jobs_have_one_alarm_which_needs_no_scheduler(house: House, client: Any, function_id: str) -> None:
    for minute in range(5):
        set_row(house.bench.job(function_id), next_execution_time=utc(f"2026-11-23 11:0{minute}"))

    house.restore()

    assert house.alarms_set() == []
    assert JsonQueue(TASKS, connection=client).job_ids == [f"alarm-{second('2026-11-23 12:00:30')}"]


def test_two_processes_that_restore_alarms_at_once_set_each_alarm_and_fire_each_time_once(
    house: House, client: Any, redis_url: str, function_id: str
) -> None:
    overdue, due = house.bench.job(function_id), house.bench.job(function_id)
    set_row(overdue, next_execution_time=utc("2026-11-23 12:00:10"))
    with contextlib.closing(queues.connect(Settings(redis_url=redis_url))) as other_connection:
        other = Alarms(other_connection)
        for _ in range(70):
            house.bench.clock.now += SECOND
            both = [gevent.spawn(alarms.restore, house.bench.clock.now) for alarms in (house.bench.alarms, other)]
            gevent.joinall(both, raise_error=True)
            assert len(house.alarms_set()) == len(set(house.alarms_set())) <= 3
            house.schedule()
            house.work()

    times = [(one.job_id, due_time(one)) for one in executions()]
    minute = utc("2026-11-23 12:01")
    assert sorted(times) == sorted([(overdue, utc("2026-11-23 12:00:10")), (overdue, minute), (due, minute)])
    assert JsonQueue(TASKS, connection=client).job_ids == []


def test_without_jobs_there_are_no_alarms(house: House) -> None:
    house.restore()
    assert house.alarms_set() == []


def test_a_tick_sets_the_alarms_of_the_next_times(house: House, function_id: str) -> None:
    house.bench.job(function_id)
    house.bench.job(function_id, pattern="0 * * * *")
    house.bench.run_at("2026-11-23 13:00:00")
    assert house.alarms_set() == [second("2026-11-23 13:01")]


def test_a_job_that_is_announced_has_its_alarm(house: House) -> None:
    now = module.clock.now()
    house.bench.alarms.announce(now + MINUTE)
    house.bench.alarms.announce(now + 60 * MINUTE)
    gevent.sleep(0.1)
    assert house.alarms_set() == [module._rounded_up(now + MINUTE)]


def test_an_alarm_that_cannot_be_set_now_is_no_error_of_the_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alarms = Alarms(queues.connect(Settings(redis_url=f"unix://{tmp_path}/nothing.sock")))
    with caplog.at_level(logging.WARNING):
        alarms.announce(module.clock.now())
        gevent.sleep(0.1)
    assert caplog.messages == ["alarms are not set yet"]


def test_rq_rings_an_alarm_and_keeps_nothing_of_it(house: House, client: Any, function_id: str) -> None:
    house.bench.job(function_id)
    house.restore()
    house.bench.clock.now = utc("2026-11-23 12:01:00")
    alarm_id = f"alarm-{second('2026-11-23 12:01:00')}"
    assert DueScheduler(client).enqueue_jobs() == [alarm_id]
    assert client.exists(f"rq:job:{alarm_id}")

    GeventWorker(client, TASKS).work(burst=True)

    assert len(executions()) == 1
    assert not client.exists(f"rq:job:{alarm_id}")
    assert house.alarms_set() == [second("2026-11-23 12:02")]


@pytest.mark.parametrize("minute", ["11:59", "12:01"], ids=["overdue", "scheduled"])
def test_rq_forgets_an_alarm_a_day_after_the_loss_of_its_process(
    house: House, client: Any, function_id: str, minute: str
) -> None:
    due = utc(f"2026-11-23 {minute}")
    set_row(house.bench.job(function_id), next_execution_time=due)
    house.restore()
    house.bench.clock.now = max(due, house.bench.clock.now)
    house.schedule()
    (alarm_id,) = JsonQueue(TASKS, connection=client).job_ids
    client.zadd(f"rq:wip:{TASKS}", {f"{alarm_id}:lost": 1})

    StartedJobRegistry(TASKS, connection=client, job_class=JsonJob, serializer=JSONSerializer).cleanup()

    alarm = JsonJob.fetch(alarm_id, connection=client)
    assert (alarm.get_status(), alarm.result_ttl) == (JobStatus.FAILED, 0)
    assert 0 < client.ttl(alarm.key) <= 24 * 3600
    assert client.zscore(f"rq:failed:{TASKS}", alarm_id) - time.time() <= 24 * 3600


def test_an_alarm_rings_again_soon_if_the_database_is_away(
    house: House, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.bench.job(function_id)
    house.bench.clock.now = utc("2026-11-23 12:01:00")

    def away(*arguments: Any) -> None:
        raise Unavailable("The database can't be reached.")

    with monkeypatch.context() as patch:
        patch.setattr(due_jobs, "find", away)
        module.ring(second("2026-11-23 12:01:00"))
    assert house.alarms_set() == [second("2026-11-23 12:01:02")]

    house.bench.clock.now += 2 * SECOND
    house.schedule()
    house.work()
    assert fired_at() == [utc("2026-11-23 12:01:02")]


def test_jobs_fire_although_redis_is_emptied_again_and_again(house: House, client: Any, function_id: str) -> None:
    job_id = house.bench.job(function_id)
    for _ in range(12):
        house.pass_seconds(15)
        client.flushall()
    house.pass_seconds(10)

    assert [moment.minute for moment in fired_at()] == [1, 2, 3]
    assert row(job_id).next_execution_time == utc("2026-11-23 12:04")


def test_jobs_fire_in_their_second_while_all_is_well(house: House, function_id: str) -> None:
    house.bench.job(function_id)
    house.pass_seconds(300)
    assert fired_at() == [utc(f"2026-11-23 12:0{minute}") for minute in range(1, 6)]


def test_one_greenlet_sets_all_that_is_announced_while_redis_hangs(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    answers = Event()
    monkeypatch.setattr(Alarms, "_set", lambda self, second: tried.append(second) or answers.wait(20))
    moments = [module.clock.wall() + number * SECOND for number in (1, 2, 3)]

    for _ in range(100):
        for moment in moments:
            house.bench.alarms.announce(moment)
        gevent.sleep(0)
    assert len(tried) == 1
    answers.set()
    gevent.sleep(0.1)

    assert len(tried) <= 4
    assert set(tried) == {module._rounded_up(moment) for moment in moments}


def test_jobs_that_wait_for_room_have_one_alarm_every_two_seconds(
    house: House, client: Any, function_id: str
) -> None:
    at = utc("2026-11-23 12:01:37")
    ids = [house.bench.job(function_id, first_execution_time=at, misfire="skip") for _ in range(3)]
    house.bench.quota.left = 0
    for now in ("12:01:37", "12:01:37.5", "12:01:38", "12:01:39"):
        house.bench.run_at(f"2026-11-23 {now}")
    assert house.alarms_set() == [second("2026-11-23 12:01:38"), second("2026-11-23 12:01:40")]
    assert JsonQueue(TASKS, connection=client).job_ids == [], "none rings at once"

    house.pass_seconds(22)
    assert {row(job_id).status for job_id in ids} == {"running"}
    house.bench.quota.left = 3
    for _ in range(2):
        house.bench.clock.now += SECOND
        house.schedule()
        house.work()

    assert fired_at() == [utc("2026-11-23 12:02:02")] * 3
    assert {row(job_id).status for job_id in ids} == {"done"}


def test_a_job_that_waits_for_room_is_done_soon_after_its_time_was_missed(house: House, function_id: str) -> None:
    job_id = house.bench.job(function_id, first_execution_time=utc("2026-11-23 12:01:30"), misfire="skip")
    house.bench.quota.left = 0
    house.pass_seconds(120)
    assert row(job_id).status == "running"
    house.pass_seconds(2)
    assert row(job_id).status == "done"


@pytest.mark.parametrize("state", [JobStatus.QUEUED, JobStatus.STARTED, JobStatus.FAILED, JobStatus.FINISHED])
def test_an_alarm_is_set_again_whatever_rq_has_of_it(
    house: House, client: Any, function_id: str, state: JobStatus
) -> None:
    house.bench.job(function_id)
    house.restore()
    alarm_id = f"alarm-{second('2026-11-23 12:01:00')}"
    assert client.zrem(DueScheduler.scheduled_jobs_key, alarm_id)
    old = JsonJob.fetch(alarm_id, connection=client)
    if state is JobStatus.QUEUED:
        JsonQueue(TASKS, connection=client).enqueue_job(old)
    else:
        old.set_status(state)
        old.save()
        client.zadd(f"rq:{'wip' if state is JobStatus.STARTED else state.value}:{TASKS}", {alarm_id: 2e9})

    house.restore()
    house.bench.clock.now = utc("2026-11-23 12:01:00")
    house.schedule()
    GeventWorker(client, TASKS).work(burst=True)

    assert fired_at() == [utc("2026-11-23 12:01:00")]
    assert house.alarms_set() == [second("2026-11-23 12:02:00")]
    house.pass_seconds(60)
    assert len(executions()) == 2
