"""Idempotency keys of calls that wait for workers, lose them, or lose the database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import gevent
import pytest
from gevent.event import Event

from qinling_falcon.errors import Conflict, Unavailable
from qinling_falcon.invocation.acceptance import Acceptance
from qinling_falcon.invocation.calls import Call
from qinling_falcon.invocation.execution_quota import ExecutionQuota
from qinling_falcon.invocation.idempotency import Answered, IdempotentCalls, RequestKey
from qinling_falcon.models import clock, database, idempotency
from qinling_falcon.models.idempotency import KeyClaim
from qinling_falcon.models.internal_tables import IdempotencyKey
from tests.invocation.conftest import OWNER, House
from tests.pool.side import wait_until
from tests.support.scripted_worker import answers, hangs_up, succeeds, waits

MakeHouse = Callable[..., House]
KEY = RequestKey("k", "d" * 64)


def web_of(house: House) -> IdempotentCalls:
    """The calls of one web process."""
    acceptance = Acceptance(house.resolver, house.pool.ready, ExecutionQuota(), house.settings)
    return IdempotentCalls(house.engine, acceptance, house.pool, house.settings)


def invoke(house: House, web: IdempotentCalls, text: str | None = None) -> Answered:
    return web.invoke(OWNER, Call(house.function_id, input=text), KEY)


def claimed_until() -> datetime | None:
    found = idempotency.find(OWNER.project_id, KEY.text, clock.now())
    return None if found is None else found.claimed_until


def keys() -> list[str]:
    with database.reading():
        return [row.execution_id for row in IdempotencyKey.select()]


def nothing_left(house: House) -> None:
    house.states()
    assert house.journal() == {}
    assert house.lost() == {}


def test_the_claim_of_a_call_that_waits_is_extended_until_it_has_a_worker(make_house: MakeHouse) -> None:
    house = make_house(holder_ttl_s=1.0)
    web, other_web = web_of(house), web_of(house)
    first = gevent.spawn(invoke, house, web)
    wait_until(claimed_until)
    at_first = claimed_until()
    assert at_first is not None

    wait_until(lambda: clock.now() > at_first)  # a claim that is not extended has ended
    until = claimed_until()
    assert until is not None
    assert until > at_first
    with pytest.raises(Conflict, match="has not ended"):
        invoke(house, other_web)
    house.start(succeeds())

    answered = first.get(timeout=20)
    assert (answered.is_replay, answered.execution.status) == (False, "success")
    again = invoke(house, other_web)
    assert (again.is_replay, again.execution.id) == (True, answered.execution.id)
    assert len(house.rows()) == 1
    nothing_left(house)


def test_a_call_with_a_key_is_listed_while_it_runs_and_its_key_is_bound(house: House) -> None:
    over = Event()
    house.start(waits(over, succeeds()))
    call = gevent.spawn(invoke, house, web_of(house))

    wait_until(lambda: [row.status for row in house.rows()] == ["running"])
    assert claimed_until() is None
    with pytest.raises(Conflict, match="has not ended"):
        invoke(house, web_of(house))
    over.set()

    assert call.get(timeout=10).execution.status == "success"
    nothing_left(house)


@pytest.mark.parametrize("given", [None, "x" * 20_000], ids=["no input", "large input"])
def test_a_second_worker_serves_and_the_execution_has_one_row(house: House, given: str | None) -> None:
    house.start(answers(409, error="busy"))
    house.start(succeeds())

    answered = invoke(house, web_of(house), given)

    assert answered.execution.status == "success"
    assert [row.id for row in house.rows()] == [answered.execution.id] == keys()
    nothing_left(house)


@pytest.mark.parametrize("given", [None, "x" * 20_000], ids=["no input", "large input"])
def test_after_workers_that_refuse_neither_row_nor_key_is_left(house: House, given: str | None) -> None:
    for _ in range(5):
        house.start(answers(409, error="busy"))

    with pytest.raises(Unavailable, match="has not run"):
        invoke(house, web_of(house), given)

    assert (house.rows(), keys()) == ([], [])
    nothing_left(house)


def test_a_call_whose_worker_was_lost_is_not_repeated(house: House) -> None:
    house.start(hangs_up())
    other = house.start(succeeds())
    web = web_of(house)

    first, again = invoke(house, web), invoke(house, web)

    assert (first.execution.status, again.execution.status, again.is_replay) == ("error", "error", True)
    assert house.workers[other].asked == []
    nothing_left(house)


def test_a_worker_is_returned_unused_if_the_key_was_taken_over(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, other_id = house.start(succeeds()), clock.new_id(clock.now())
    begin = idempotency.begin

    def overtaken(claimed: KeyClaim, started: Any) -> bool:
        database.transact(lambda: IdempotencyKey.update(claimed_until=1).execute())
        taken = replace(claimed, execution_id=other_id, instead_of=claimed.execution_id)
        assert idempotency.claim(taken, clock.now(), clock.now() + timedelta(minutes=1))
        return begin(claimed, started)

    monkeypatch.setattr(idempotency, "begin", overtaken)
    with pytest.raises(Conflict, match=other_id):
        invoke(house, web_of(house))

    assert house.states() == {worker: "warm"}
    assert (house.rows(), keys()) == ([], [other_id])
    nothing_left(house)


def test_a_key_that_can_not_be_released_at_once_is_released_later(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make_house(holder_ttl_s=1.0, invoke_queue_timeout_s=0.1)
    release, is_away = idempotency.release, Event()

    def fail(claims: Any) -> None:
        if not is_away.is_set():
            is_away.set()
            raise Unavailable("The database can't be reached.")
        release(claims)

    monkeypatch.setattr(idempotency, "release", fail)
    with pytest.raises(Unavailable):
        invoke(house, web_of(house))

    assert is_away.is_set()
    wait_until(lambda: keys() == [])
