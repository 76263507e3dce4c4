"""Accepted executions that are claimed and run: one that may not have run is queued again, and its attempt counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import gevent
import pytest
from gevent.event import Event

from qinling_falcon.errors import Unavailable
from qinling_falcon.invocation.attempts import Attempts
from qinling_falcon.invocation.calls import Accepted, Call, accepted_record
from qinling_falcon.invocation.run_cancellation import Interrupted
from qinling_falcon.models import clock, execution_queue
from qinling_falcon.models.execution_queue import Queued
from tests.invocation.conftest import OWNER, House
from tests.pool.side import wait_until
from tests.support.scripted_worker import answers, hangs_up, succeeds, waits


@pytest.fixture
def accepted(house: House) -> Accepted:
    return make_accepted(house)


def make_accepted(house: House) -> Accepted:
    """An execution that was accepted and claimed."""
    now = clock.now()
    target = house.resolver.resolve(OWNER, house.function_id, 0)
    record = accepted_record(target, Call(house.function_id), clock.new_id(now), now)
    execution_queue.accept(record)
    (claimed,) = execution_queue.claim([record.id], now, now + timedelta(minutes=1))
    return Accepted(
        claimed.id, claimed.project_id, claimed.function_id, claimed.created_at, claimed.attempt, claimed.claim
    )


def unclaimed() -> list[Queued]:
    found, _ = execution_queue.unclaimed("", clock.now(), 100)
    return found


def run(house: House, accepted: Accepted) -> str:
    return str(house.engine.run(Call(house.function_id), accepted).status)


def test_an_execution_whose_worker_is_lost_is_queued_again(house: House, accepted: Accepted) -> None:
    """Also if its function has a single attempt: it may not have run."""
    worker = house.start(hangs_up())
    running = gevent.spawn(run, house, accepted)
    wait_until(lambda: house.registry.draining() == [worker])
    gevent.sleep(0.1)
    assert not running.ready(), "the worker may still run it"
    assert unclaimed() == []

    house.registry.remove(worker)

    assert running.get(timeout=10) == "running"
    row = house.recorded(accepted.id)
    assert (row.status, row.attempt) == ("running", 1)
    assert "The worker was lost" in str(row.status_reason)
    assert [queued.id for queued in unclaimed()] == [accepted.id]
    assert execution_queue.attempt_of(accepted.id) == 1
    assert house.journal() == {}


def test_an_execution_whose_claim_has_ended_is_not_run(house: House, accepted: Accepted) -> None:
    """The database was away for longer than a claim, and another process may run the execution now."""
    house.start(succeeds())
    accepted.claimed_until = time.monotonic()

    with pytest.raises(Interrupted):
        run(house, accepted)

    assert house.recorded(accepted.id).status == "running"
    assert house.journal() == {}


def test_a_worker_that_does_not_end_delays_its_execution_for_a_part_of_the_claim_only(
    make_house: Callable[..., House], caplog: pytest.LogCaptureFixture
) -> None:
    house = make_house(async_claim_s=0.4)
    it = make_accepted(house)
    house.start(hangs_up())

    assert run(house, it) == "running"

    assert [queued.id for queued in unclaimed()] == [it.id]
    assert "although its worker may still run it" in caplog.text


def test_an_execution_whose_worker_is_lost_again_and_again_ends_when_it_is_too_old(
    make_house: Callable[..., House],
) -> None:
    house = make_house(async_max_age_s=1, async_claim_s=0.1)
    now = clock.now()
    target = house.resolver.resolve(OWNER, house.function_id, 0)
    record = accepted_record(target, Call(house.function_id), clock.new_id(now), now)
    execution_queue.accept(record)
    execution_queue.claim([record.id], clock.now(), clock.now() + timedelta(minutes=1))
    over = Event()
    worker = house.start(waits(over, hangs_up()))
    running = gevent.spawn(run, house, Accepted(record.id, record.project_id, record.function_id, now, 1, 1))
    house.wait_for_call(worker)
    wait_until(lambda: clock.now() > now + timedelta(seconds=1))
    over.set()

    assert running.get(timeout=10) == "dead"

    assert house.recorded(record.id).status == "dead"
    assert unclaimed() == []


def test_an_execution_that_finds_the_disk_full_has_not_run(house: House, accepted: Accepted) -> None:
    worker = house.start(load=answers(507, error="The disk is full."))

    with pytest.raises(Unavailable, match="The disk is full"):
        run(house, accepted)

    assert house.recorded(accepted.id).status == "running"
    assert house.states() == {worker: "warm"}
    assert house.journal() == {}


def test_a_run_that_is_cancelled_before_it_has_a_worker_is_interrupted(house: House, accepted: Accepted) -> None:
    def until_interrupted() -> bool:
        with pytest.raises(Interrupted):
            run(house, accepted)
        return True

    running = gevent.spawn(until_interrupted)
    gevent.sleep(0.1)

    house.engine.cancel(accepted.id)

    assert running.get(timeout=10)
    assert house.lost() == {}
    assert house.all_waiting() == 0


def test_a_run_that_is_killed_during_its_function_is_queued_again_by_the_manager(
    house: House, accepted: Accepted
) -> None:
    returns = Event()
    worker = house.start(waits(returns, succeeds()))
    running = gevent.spawn(run, house, accepted)
    house.wait_for_call(worker)

    running.kill()

    assert isinstance(running.value, gevent.GreenletExit)
    wait_until(lambda: accepted.id in house.lost())
    assert house.states() == {worker: "draining"}
    returns.set()


def test_a_run_that_is_cancelled_while_its_end_is_committed_goes_on(
    house: House, accepted: Accepted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not be given back as one that has not run."""
    house.start(succeeds())
    committing, may_commit = Event(), Event()
    end = Attempts.end

    def slow(*args: Any, **options: Any) -> Any:
        committing.set()
        may_commit.wait(30)
        return end(*args, **options)

    monkeypatch.setattr(Attempts, "end", slow)
    running = gevent.spawn(run, house, accepted)
    assert committing.wait(10)

    house.engine.cancel(accepted.id)
    may_commit.set()

    assert running.get(timeout=10) == "success"
    assert house.recorded(accepted.id).status == "success"
