"""Executions that are cancelled at any moment: none runs on, and none runs that was cancelled before it began."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from qinling_falcon.invocation.cancellation import cancel
from qinling_falcon.jobs.drain import Drain
from qinling_falcon.models import execution, execution_queue, execution_retries
from qinling_falcon.pool import keys
from tests.invocation.conftest import OWNER, House, MakeHouse, accept, nothing_left
from tests.pool.side import wait_until
from tests.support.scripted_worker import Step, answers, fails, succeeds, waits


@pytest.fixture
def house(make_house: MakeHouse) -> House:
    """A `worker` process, which can cancel executions."""
    house = make_house("worker")
    house.engine.start()
    return house


@pytest.fixture
def drain(house: House) -> Iterator[Drain]:
    drain = Drain(house.engine, house.pool, house.attempts, house.settings)
    yield drain
    drain.stop_taking()


def cancel_now(house: House, execution_id: str) -> None:
    """Cancel an execution, and wait until its process has got the notification."""
    cancel(house.pool, OWNER, execution_id)
    wait_until(lambda: house.connection.call("LLEN", keys.grants(house.pool.holder)) == 0)
    gevent.sleep(0.1)


def retry(house: House, execution_id: str) -> None:
    cancelled = execution.get(OWNER, execution_id)
    execution_retries.retry(OWNER, execution_id, "retried", cancelled.updated_at)
    house.pool.ready.push("project-a", house.function_id, execution_id)


@pytest.fixture
def after_claim(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Sets what happens between the commit of the next claim and the return of its result."""
    claim = execution_queue.claim
    acts: list[Callable[[], None]] = []

    def slow(*args: Any) -> Any:
        claimed = claim(*args)
        if claimed and acts:
            acts.pop()()
        return claimed

    monkeypatch.setattr(execution_queue, "claim", slow)
    yield acts.append
    assert acts == []


def test_a_cancel_between_the_claim_and_the_run_is_not_forgotten(
    house: House, drain: Drain, after_claim: Callable[[Callable[[], None]], None]
) -> None:
    worker = house.start(succeeds())
    execution_id = accept(house)
    after_claim(lambda: cancel_now(house, execution_id))

    drain.run(0.5)

    assert house.recorded(execution_id).status == "cancelled"
    assert house.workers[worker].paths() == []
    assert drain._in_flight == {}
    nothing_left(house)


def test_an_execution_that_was_retried_since_its_cancel_runs(
    house: House, drain: Drain, after_claim: Callable[[Callable[[], None]], None]
) -> None:
    """Once with the claim before the retry, which is void, and then with the claim after it."""
    worker = house.start(succeeds())
    execution_id = accept(house)

    def cancel_and_retry() -> None:
        cancel_now(house, execution_id)
        retry(house, execution_id)

    after_claim(cancel_and_retry)
    drain.run(0.5)
    drain.run(0.5)

    assert house.recorded(execution_id).status == "success"
    assert house.workers[worker].paths().count("/execute") == 1


def test_a_cancel_before_the_claim_does_not_hold_up_the_retry(house: House, drain: Drain) -> None:
    house.start(succeeds())
    execution_id = accept(house)
    cancel_now(house, execution_id)
    retry(house, execution_id)

    drain.run(0.5)

    row = house.recorded(execution_id)
    assert (row.status, row.attempt) == ("success", 1)


@pytest.mark.parametrize("refusal", [answers(404, error="not running"), answers(500, error="no memory")])
def test_a_worker_that_does_not_end_the_call_at_once_is_asked_again(house: House, drain: Drain, refusal: Step) -> None:
    ended = Event()
    answered = [refusal, refusal, answers(202)]

    def cancelled(connection: Any) -> bytes | None:
        step = answered.pop(0)
        if not answered:
            ended.set()
        return step(connection)

    worker = house.start(waits(ended, fails("cancelled", status="cancelled")), cancel=cancelled)
    execution_id = accept(house)
    drain.run(0.2)
    house.wait_for_call(worker)

    cancel(house.pool, OWNER, execution_id)

    assert ended.wait(1.5)
    wait_until(lambda: drain._in_flight == {})
    assert house.recorded(execution_id).status == "cancelled"
    nothing_left(house)


def test_a_worker_that_refuses_the_call_after_the_cancel_is_not_followed_by_another_one(
    house: House, drain: Drain
) -> None:
    """While the first worker has the call, it says that it does not run it. Then it refuses it."""
    asked = Event()

    def not_running(connection: Any) -> bytes | None:
        asked.set()
        return answers(404, error="not running")(connection)

    for _ in range(2):
        house.start(waits(asked, answers(409, error="busy")), cancel=not_running)
    execution_id = accept(house)
    drain.run(0.2)
    wait_until(lambda: any("/execute" in worker.paths() for worker in house.workers.values()))

    cancel(house.pool, OWNER, execution_id)

    wait_until(lambda: drain._in_flight == {})
    assert house.recorded(execution_id).status == "cancelled"
    assert [path for worker in house.workers.values() for path in worker.paths()].count("/execute") == 1


def test_an_answer_that_comes_after_the_cancel_ends_the_asking(
    house: House, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = Event()
    step: Step = waits(over, succeeds())
    worker = house.start(step)
    execution_id = accept(house)
    drain.run(0.2)
    house.wait_for_call(worker)
    asking = gevent.spawn(house.engine.cancel, execution_id)
    wait_until(lambda: "/cancel" in house.workers[worker].paths())

    over.set()

    asking.get(timeout=5)
    wait_until(lambda: house.recorded(execution_id).status == "success")
