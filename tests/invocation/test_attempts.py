"""Accepted executions: an attempt ends the execution, or has it started again, as its function says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import gevent
import pytest
from gevent.event import Event

from qinling_falcon.errors import NotFound, Unavailable
from qinling_falcon.invocation import calls
from qinling_falcon.invocation.calls import Accepted, Call
from qinling_falcon.invocation.losses import record_lost
from qinling_falcon.models import clock, database, execution, execution_ends, execution_queue, function
from qinling_falcon.models.internal_tables import QueuedExecution
from qinling_falcon.models.tables import Function
from tests.invocation.conftest import OWNER, House, MakeHouse, nothing_left
from tests.models.factories import end_claimed, make_record
from tests.pool.side import wait_until
from tests.support.scripted_worker import fails, succeeds, waits

MINUTE = timedelta(minutes=1)


def claimed(house: House, *, age_s: float = 0, attempt: int = 1, failures: int = 0, **fields: Any) -> Accepted:
    """An execution that was accepted, and claimed so often."""
    created_at = clock.now() - timedelta(seconds=age_s)
    row = make_record(
        house.function_id, status="running", result=None, log=None, created_at=created_at, updated_at=None, sync=False,
        attempt=0, **fields,
    )  # fmt: skip
    execution_queue.accept(row)
    for _ in range(attempt):
        now = clock.now()
        [claim] = execution_queue.claim([row.id], now, now)
    execution_queue.extend({row.id: attempt}, clock.now() + MINUTE)
    return Accepted(
        claim.id, claim.project_id, claim.function_id, claim.created_at, claim.attempt, claim.claim, failures
    )


def claim_again(it: Accepted) -> Accepted:
    """Claim an execution that was queued again, after its pause."""
    again: list[execution_queue.ClaimedExecution] = []

    def claim() -> bool:
        now = clock.now()
        again.extend(execution_queue.claim([it.id], now, now + MINUTE))
        return bool(again)

    wait_until(claim)
    return replace(it, attempt=again[0].attempt, claim=again[0].claim)


def retries(house: House, **fields: Any) -> None:
    """Set how the function's executions are retried."""
    database.transact(lambda: Function.update(**fields).where(Function.id == house.function_id).execute())


def queued(execution_id: str) -> QueuedExecution | None:
    with database.reading():
        found: QueuedExecution | None = QueuedExecution.get_or_none(QueuedExecution.id == execution_id)
    return found


def ready(house: House) -> list[str]:
    """The executions of the function that a drain would take, now and later."""
    key = f"qf:{{pool}}:queued:project-a:{house.function_id}"
    return [member.decode() for member in house.connection.call("ZRANGE", key, 0, -1)]


def test_an_accepted_execution_ends_its_row(house: House) -> None:
    over = Event()
    worker = house.start(waits(over, succeeds("accepted")))
    it = claimed(house, attempt=2, input="the input", description="kept")
    run = gevent.spawn(house.engine.run, Call(house.function_id, input="the input"), it)
    house.wait_for_call(worker)

    detail = json.loads(house.journal()[it.id])
    assert (detail["attempt"], detail["input"]) == (2, None)
    over.set()

    assert run.get(timeout=10).status == "success"
    (row,) = house.rows()
    assert (row.id, row.status, row.input, row.description) == (it.id, "success", "the input", "kept")
    assert (row.attempt, row.sync) == (2, False)
    assert clock.to_micros(row.created_at) == clock.to_micros(it.created_at)
    assert function.get(OWNER, house.function_id).count == 1
    assert queued(it.id) is None
    nothing_left(house)


def test_an_accepted_execution_that_was_cancelled_meanwhile_keeps_its_end(house: House) -> None:
    over = Event()
    worker = house.start(waits(over, succeeds()))
    it = claimed(house)
    run = gevent.spawn(house.engine.run, Call(house.function_id), it)
    house.wait_for_call(worker)
    assert execution_queue.cancel(house.rows()[0], "by the caller")
    over.set()

    run.get(timeout=10)
    assert [row.status for row in house.rows()] == ["cancelled"]
    assert function.get(OWNER, house.function_id).count == 1
    nothing_left(house)


def test_an_accepted_execution_for_which_there_is_no_worker_stays_as_it_is(make_house: MakeHouse) -> None:
    house = make_house(invoke_queue_timeout_s=0.2)
    it = claimed(house)

    with pytest.raises(Unavailable):
        house.engine.run(Call(house.function_id), it)

    assert [row.status for row in house.rows()] == ["running"]
    nothing_left(house)


def test_an_accepted_execution_of_a_function_that_is_gone_is_not_run(house: House) -> None:
    it = claimed(house)
    with pytest.raises(NotFound):
        house.engine.run(Call("0" * 36), it)
    assert [row.status for row in house.rows()] == ["running"]


def test_a_failed_attempt_ends_an_execution_with_one_attempt(house: House) -> None:
    house.start(fails("exception"))
    it = claimed(house)

    assert house.engine.run(Call(house.function_id), it).status == "failed"

    assert [row.status for row in house.rows()] == ["failed"]
    assert queued(it.id) is None


@pytest.mark.parametrize("reason", ["exception", "timeout", "memory", "exited"])
def test_a_failed_attempt_is_followed_by_another_one_after_a_pause(house: House, reason: str) -> None:
    retries(house, max_attempts=3, backoff_s=100)
    house.start(fails(reason))
    it = claimed(house)

    assert house.engine.run(Call(house.function_id), it).status == "running"

    (row,) = house.rows()
    assert (row.status, row.attempt) == ("running", 1)
    assert "Attempt 1 has failed" in str(row.status_reason)
    waiting = queued(it.id)
    assert waiting is not None
    assert waiting.claimed_until == 0
    assert clock.to_micros(it.created_at) < waiting.not_before <= clock.to_micros(clock.now() + timedelta(seconds=100))
    wait_until(lambda: ready(house) == [it.id])
    nothing_left(house)


@pytest.mark.parametrize(("waited_s", "least_ms", "most_ms"), [(60, 60_000, 90_000), (-60, 0, 0)])
def test_an_execution_shows_for_how_long_it_was_queued(
    house: House, waited_s: float, least_ms: float, most_ms: float
) -> None:
    """Also if the clock of the machine that has accepted it is ahead."""
    house.start(succeeds())
    it = replace(claimed(house), due_at=clock.now() - timedelta(seconds=waited_s))

    house.engine.run(Call(house.function_id), it)

    (row,) = house.rows()
    assert row.queued_ms is not None
    assert least_ms <= row.queued_ms <= most_ms


def test_the_last_of_several_attempts_ends_the_execution_as_dead(house: House) -> None:
    retries(house, max_attempts=3)
    house.start(fails("exception"))
    it = claimed(house, attempt=3, failures=2)

    assert house.engine.run(Call(house.function_id), it).status == "dead"

    (row,) = house.rows()
    assert (row.status, row.attempt) == ("dead", 3)
    assert "3 attempts have failed, which is the maximum" in str(row.status_reason)


def test_an_execution_that_is_too_old_is_not_started_again(house: House) -> None:
    retries(house, max_attempts=3, max_age_s=60, backoff_s=1e9)
    house.start(fails("exception"))
    it = claimed(house, age_s=50)

    assert house.engine.run(Call(house.function_id), it).status == "dead"

    (row,) = house.rows()
    assert row.attempt == 1
    assert "too old for another one" in str(row.status_reason)


def test_an_execution_that_is_too_old_before_its_first_attempt_is_not_started(house: House) -> None:
    retries(house, max_age_s=60)
    worker = house.start(succeeds())
    it = claimed(house, age_s=61)

    assert house.engine.run(Call(house.function_id), it).status == "dead"

    (row,) = house.rows()
    assert (row.status, row.attempt) == ("dead", 0)
    assert "too old to be started" in str(row.status_reason)
    assert house.workers[worker].asked == []
    assert queued(it.id) is None


def test_a_result_that_is_not_json_is_the_end(house: House) -> None:
    retries(house, max_attempts=3)
    house.start(fails("result"))
    it = claimed(house)

    assert house.engine.run(Call(house.function_id), it).status == "failed"


def test_an_attempt_that_is_cancelled_by_its_process_is_queued_again_and_counts(house: House) -> None:
    over = Event()
    worker = house.start(waits(over, fails("cancelled", status="cancelled")))
    it = claimed(house)
    run = gevent.spawn(house.engine.run, Call(house.function_id), it)
    house.wait_for_call(worker)
    over.set()
    run.get(timeout=10)

    assert [row.status for row in house.rows()] == ["running"]
    waiting = queued(it.id)
    assert waiting is not None
    assert (waiting.claimed_until, waiting.attempt) == (0, 1)
    wait_until(lambda: ready(house) == [it.id])


@pytest.fixture
def database_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that lets the next `count` ends of executions fail."""
    end = execution_ends.end
    left = [0]

    def fail(record: Any, claim: int) -> bool:
        if left[0]:
            left[0] -= 1
            raise Unavailable("The database can't be reached.")
        return end(record, claim)

    monkeypatch.setattr(execution_ends, "end", fail)
    yield lambda count: left.__setitem__(0, count)
    assert left == [0], "the end was tried as often as it failed"


def test_an_end_is_written_when_the_database_is_back(house: House, database_away: Any) -> None:
    house.start(succeeds())
    it = claimed(house)
    database_away(2)

    assert house.engine.run(Call(house.function_id), it).status == "success"
    assert [row.status for row in house.rows()] == ["success"]
    nothing_left(house)


def test_an_execution_whose_process_was_lost_is_queued_again_even_after_its_only_attempt(house: House) -> None:
    it = claimed(house)
    ended = claimed(house)
    end_claimed(make_record(house.function_id, id=ended.id, attempt=1, created_at=ended.created_at))
    details = {one.id: calls.detail(make_record(house.function_id, id=one.id), one) for one in (it, ended)}

    record_lost(details, house.attempts, house.pool.ended)

    rows = {row.id: row for row in house.rows()}
    assert (rows[ended.id].status, rows[it.id].status) == ("success", "running")
    assert "was lost" in str(rows[it.id].status_reason)
    wait_until(lambda: ready(house) == [it.id])
    assert claim_again(it).attempt == 2


def test_an_execution_whose_process_was_lost_ends_at_the_maximum_age_of_its_function(make_house: MakeHouse) -> None:
    house = make_house(async_max_age_s=60)
    it = claimed(house, age_s=100)
    lost = make_record(house.function_id, id=it.id, created_at=it.created_at)
    record_lost({it.id: calls.detail(lost, it)}, house.attempts, house.pool.ended)
    assert execution.get(OWNER, it.id).status == "running", "the manager does not know the function's maximum age"

    assert house.engine.run(Call(house.function_id), claim_again(it)).status == "dead"

    assert execution.get(OWNER, it.id).status == "dead"
    assert queued(it.id) is None


def test_lost_attempts_do_not_count_as_failures(house: House) -> None:
    retries(house, max_attempts=2, backoff_s=0)
    house.start(fails("exception"))
    it = claimed(house, attempt=5, failures=0)

    assert house.engine.run(Call(house.function_id), it).status == "running"

    waiting = queued(it.id)
    assert waiting is not None
    assert (waiting.attempt, waiting.failures) == (5, 1)


def test_an_execution_without_a_worker_is_dead_at_the_maximum_age(make_house: MakeHouse) -> None:
    house = make_house(async_max_age_s=60)
    young, old = claimed(house), claimed(house, age_s=61)
    for it in (young, old):
        [row] = [row for row in house.rows() if row.id == it.id]
        again = execution_queue.ClaimedExecution(
            row.id, row.project_id, it.claim, it.attempt, 0, 0, row.function_id, 0, None, None, None, "api",
            row.created_at, None, None, None,
        )  # fmt: skip
        house.attempts.wait(again, it, clock.now(), "All workers are busy.")

    assert execution.get(OWNER, young.id).status == "running"
    row = execution.get(OWNER, old.id)
    assert (row.status, row.attempt) == ("dead", 0)
    assert "All workers are busy." in str(row.status_reason)
