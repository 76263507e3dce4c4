"""A process dies between any two steps, from a job's row to its execution: each time fires once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rq_scheduler import Scheduler

from qinling_falcon.jobs.alarms import Alarms
from qinling_falcon.jobs.queues import JsonQueue
from qinling_falcon.jobs.scheduler import DueScheduler
from qinling_falcon.models import due_jobs, execution_queue
from tests.integration.service import wait_until
from tests.jobs.bench import SECOND, Bench, Ready, due_time, executions, queued, row, utc
from tests.jobs.house import Died, House, RolledBack

DUE = utc("2026-11-23 12:01:00")


@pytest.fixture
def house(bench: Bench, client: Any, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(bench, client, monkeypatch)


@pytest.fixture
def job_id(house: House, function_id: str) -> str:
    """A job whose alarm was not set, as if `web` had died after the commit of its row."""
    return house.bench.job(function_id, count=10)


def fires_each_minute(house: House, job_id: str) -> None:
    """Whatever has happened in the first minute, four minutes later each time has one execution, and the count fits."""
    house.pass_seconds(240)

    made = executions()
    times = [due_time(one) for one in made]
    assert times == [utc(f"2026-11-23 12:0{minute}") for minute in range(1, len(times) + 1)]
    assert len(made) >= 4
    assert queued() == {one.id for one in made}
    assert row(job_id).count == 10 - len(made)


def test_web_dies_before_it_sets_the_alarm(house: House, job_id: str) -> None:
    assert house.alarms_set() == []
    fires_each_minute(house, job_id)


def test_the_scheduler_dies_before_it_moves_an_alarm(house: House, job_id: str) -> None:
    house.restore()
    house.bench.clock.now = DUE
    house.die(house.schedule, DueScheduler, "enqueue_job", after=False)
    fires_each_minute(house, job_id)


def test_the_scheduler_dies_when_it_has_queued_an_alarm_and_not_removed_it(
    house: House, job_id: str, client: Any
) -> None:
    house.restore()
    house.bench.clock.now = DUE
    # rq-scheduler puts the task into its queue, and then removes the entry.
    house.die(house.schedule, JsonQueue, "enqueue_job", after=True)
    assert client.llen("rq:queue:tasks") == 1
    assert house.alarms_set() == [int(DUE.timestamp())], "it will ring again"
    fires_each_minute(house, job_id)


def test_the_scheduler_dies_while_it_has_the_lock(house: House, job_id: str, client: Any) -> None:
    house.restore()
    house.bench.clock.now = DUE
    house.die(house.schedule, DueScheduler, "remove_lock", after=False)
    house.work()
    assert 0 < client.pttl(Scheduler.scheduler_lock_key) <= 2000, "the lock expires by itself"
    house.bench.clock.now = DUE + 60 * SECOND
    wait_until("another scheduler has the lock", lambda: house.schedule() or client.llen("rq:queue:tasks"), 20)
    fires_each_minute(house, job_id)


def test_a_process_dies_when_it_has_saved_an_alarm_and_not_set_it(house: House, job_id: str, client: Any) -> None:
    house.die(house.restore, type(client), "zadd", after=False)
    assert client.exists(f"rq:job:alarm-{DUE.timestamp():.0f}")
    assert house.alarms_set() == []
    fires_each_minute(house, job_id)


@pytest.mark.parametrize("name", ["enqueue_job", "push_job_id"])
def test_the_scheduler_dies_when_it_has_read_an_alarm(house: House, job_id: str, client: Any, name: str) -> None:
    house.restore()
    house.bench.clock.now = DUE
    house.die(house.schedule, JsonQueue, name, after=False)
    assert client.llen("rq:queue:tasks") == 0
    fires_each_minute(house, job_id)


def test_a_worker_dies_when_it_has_taken_an_alarm(house: House, job_id: str) -> None:
    house.restore()
    house.bench.clock.now = DUE
    house.schedule()
    house.die(house.work, due_jobs, "find", after=False)
    assert executions() == []
    fires_each_minute(house, job_id)


POINTS: dict[str, tuple[Callable[[], Any], str, bool, bool]] = {
    # name: (owner, function, after, whether the execution is there)
    "it has found the due jobs": (lambda: due_jobs, "find", True, False),
    "it has locked them, in the transaction": (lambda: due_jobs, "_locked", True, False),
    "it has moved the job, in the transaction": (lambda: due_jobs, "_move", True, False),
    "it has inserted the execution, in the transaction": (lambda: execution_queue, "insert", True, False),
    "it has committed": (lambda: due_jobs, "fire", True, True),
    "it is about to add to the ready sets": (lambda: Ready, "push_all", False, True),
    "it has added to the ready sets": (lambda: Ready, "push_all", True, True),
    "it is about to set the next alarm": (lambda: Alarms, "set", False, True),
    "it has set the next alarm": (lambda: Alarms, "set", True, True),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_dies_in_its_tick_when(house: House, job_id: str, point: str) -> None:
    owner, name, after, is_made = POINTS[point]
    house.restore()
    house.bench.clock.now = DUE
    house.schedule()

    error = RolledBack if "transaction" in point else Died
    house.die(house.work_once, owner(), name, after=after, error=error)

    assert len(executions()) == is_made
    assert row(job_id).next_execution_time == (utc("2026-11-23 12:02") if is_made else DUE)
    fires_each_minute(house, job_id)


def test_the_restoring_process_dies_between_two_alarms(house: House, job_id: str, function_id: str) -> None:
    house.bench.job(function_id, first_execution_time=utc("2026-11-23 12:02:10"))
    house.die(house.restore, Alarms, "_set", after=True)
    assert house.alarms_set() == [int(DUE.timestamp())]
    house.pass_seconds(10)
    assert house.alarms_set() == [int(DUE.timestamp()), int((DUE + 70 * SECOND).timestamp())]
