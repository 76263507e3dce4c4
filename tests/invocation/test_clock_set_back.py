"""The machine's clock is set back by an hour: executions run at once all the same.

A process that was there before goes on from the old time (see `clock.now`), and a process that was started since then
has the new one only.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from qinling_falcon.invocation.acceptance import Acceptance
from qinling_falcon.invocation.calls import Accepted, Call, record_overdue
from qinling_falcon.invocation.execution_quota import ExecutionQuota
from qinling_falcon.jobs.drain import Drain
from qinling_falcon.jobs.sweep import Sweep
from qinling_falcon.models import clock, database, execution_queue, execution_retries
from qinling_falcon.models.internal_tables import QueuedExecution
from qinling_falcon.models.records import begin
from qinling_falcon.models.tables import Function
from tests.invocation.conftest import OWNER, House, MakeHouse
from tests.models.factories import end_claimed, make_record
from tests.pool.side import wait_until
from tests.support.scripted_worker import fails, succeeds

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


class Machine:
    """A machine whose clock was an hour ahead, and has just been set to the present.

    Args:
        monkeypatch: undoes what a test sets.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self._patch = monkeypatch

    def be_new(self) -> None:
        """Go on as a process that was started after the clock was set back."""
        self._patch.setattr(clock, "_last", 0)

    def be_old(self) -> None:
        """Go on as a process that has read the clock before it was set back."""
        self._patch.setattr(clock, "_last", clock.to_micros(clock.wall() + HOUR))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def house(make_house: MakeHouse) -> House:
    return make_house("worker")


@pytest.fixture
def drain(house: House) -> Iterator[Drain]:
    drain = Drain(house.engine, house.pool, house.attempts, house.settings)
    yield drain
    drain.stop_taking()


def accept(house: House) -> str:
    """Accept an execution, as `web` does for calls, deliveries and runs of jobs."""
    acceptance = Acceptance(house.resolver, house.pool.ready, ExecutionQuota(), house.settings)
    return acceptance.accept(OWNER, Call(house.function_id)).id


def run_all(drain: Drain) -> None:
    """Run the executions that can be taken now."""
    drain.run(0.3)
    wait_until(lambda: drain._in_flight == {})


def queued(execution_id: str) -> QueuedExecution:
    with database.reading():
        return QueuedExecution.get(QueuedExecution.id == execution_id)


def is_soon(micros: int) -> bool:
    """Whether a time is in the past, or not more than a minute ahead."""
    return clock.from_micros(micros) < clock.wall() + MINUTE


def test_an_execution_that_an_old_process_has_accepted_is_run_by_a_new_one(
    house: House, drain: Drain, machine: Machine
) -> None:
    house.start(succeeds())
    machine.be_old()
    execution_id = accept(house)
    machine.be_new()

    run_all(drain)

    row = house.recorded(execution_id)
    assert (row.status, row.attempt, row.queued_ms) == ("success", 1, 0)
    assert row.created_at > clock.wall() + HOUR - MINUTE, "rows keep their order"


def test_the_sweep_does_not_delay_such_an_execution(house: House, drain: Drain, machine: Machine) -> None:
    house.start(succeeds())
    machine.be_old()
    execution_id = accept(house)
    machine.be_new()

    assert Sweep(house.pool.ready, house.settings.async_claim_s, 4).step() == 1
    run_all(drain)

    assert house.recorded(execution_id).status == "success"


def test_an_execution_that_an_old_process_has_retried_is_run_by_a_new_one(
    house: House, drain: Drain, machine: Machine
) -> None:
    house.start(succeeds())
    machine.be_new()
    execution_id = accept(house)
    [claimed] = execution_queue.claim([execution_id], clock.wall(), clock.wall() + MINUTE)
    failed = make_record(house.function_id, id=execution_id, status="failed", sync=False, attempt=1)
    assert end_claimed(failed)
    machine.be_old()
    execution_retries.retry(OWNER, execution_id, "again")
    machine.be_new()
    house.pool.ready.push(claimed.project_id, claimed.function_id, execution_id)

    run_all(drain)

    row = house.recorded(execution_id)
    assert (row.status, row.attempt) == ("success", 2)
    assert row.queued_ms is not None
    assert row.queued_ms < 60_000


def test_an_old_process_queues_a_failed_attempt_again_for_all_processes(
    house: House, drain: Drain, machine: Machine
) -> None:
    database.transact(lambda: Function.update(max_attempts=2, backoff_s=30).execute())
    house.start(fails("exception"))
    execution_id = accept(house)
    machine.be_old()

    run_all(drain)

    row = queued(execution_id)
    assert (row.attempt, row.claimed_until) == (1, 0)
    assert is_soon(row.not_before)


@pytest.mark.parametrize("is_extended", [False, True])
def test_a_claim_of_an_old_process_ends_in_time(
    house: House, drain: Drain, machine: Machine, is_extended: bool
) -> None:
    execution_id = accept(house)
    machine.be_old()
    drain.run(0.2)
    if is_extended:
        drain._extend()

    assert clock.wall() < clock.from_micros(queued(execution_id).claimed_until) < clock.wall() + 2 * MINUTE


def test_an_old_process_does_not_take_an_execution_that_another_one_runs(
    house: House, drain: Drain, machine: Machine
) -> None:
    worker = house.start(succeeds())
    machine.be_new()
    execution_id = accept(house)
    execution_queue.claim([execution_id], clock.wall(), clock.wall() + MINUTE)
    machine.be_old()
    sweep = Sweep(house.pool.ready, 0, 4)  # with no time for the extension of claims

    assert sweep.step() == 0
    house.pool.ready.push("project-a", house.function_id, execution_id)
    run_all(drain)

    assert (queued(execution_id).claim, house.workers[worker].paths()) == (1, [])


def test_an_execution_is_not_too_old_for_an_old_process(house: House, machine: Machine) -> None:
    database.transact(lambda: Function.update(max_age_s=60).execute())
    house.start(succeeds())
    machine.be_new()
    execution_id = accept(house)
    [claimed] = execution_queue.claim([execution_id], clock.wall(), clock.wall() + MINUTE)
    due_at = clock.from_micros(claimed.due_at)
    it = Accepted(execution_id, "project-a", house.function_id, claimed.created_at, 1, 1, due_at=due_at)
    machine.be_old()

    house.engine.run(Call(house.function_id), it)

    row = house.recorded(execution_id)
    assert row.status == "success"
    assert row.queued_ms is not None
    assert row.queued_ms < 60_000


def test_an_old_process_does_not_end_calls_of_new_ones_as_overdue(house: House, machine: Machine) -> None:
    machine.be_new()
    begin(make_record(house.function_id, result=None, log=None))
    machine.be_old()

    assert record_overdue(house.settings, house.pool.ended) == []
