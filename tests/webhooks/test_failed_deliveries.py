"""Callbacks that fail, are repeated, are dropped, or are interrupted."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gevent
import pytest

from qinling_falcon.jobs import callbacks as jobs
from qinling_falcon.jobs.callbacks import Callbacks
from qinling_falcon.models import callbacks, clock, database, execution, function
from qinling_falcon.models.database import transact
from qinling_falcon.models.execution_ends import end
from qinling_falcon.models.execution_queue import claim
from qinling_falcon.models.internal_tables import Callback
from qinling_falcon.schemas.executions import ExecutionShown
from qinling_falcon.settings import Settings
from qinling_falcon.webhooks.sender import NotDelivered, Sender
from tests.models.test_callbacks import ended, queue_again
from tests.support.secrets import SECRET, fernet_key
from tests.webhooks.deliveries import OWNER, check_signature, deliver, deliver_all, rows, run
from tests.webhooks.receiver import Receiver


def dropped(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.getMessage() == "callback dropped"]


def test_a_failed_delivery_is_repeated_with_its_id(
    calling_id: str, receiving: Receiver, delivering: Callbacks
) -> None:
    receiving.statuses = [500, 302]
    run(calling_id)

    assert deliver_all(delivering) == 3

    assert len({request.headers["webhook-id"] for request in receiving.received}) == 1
    assert len({request.body for request in receiving.received}) == 1
    for request in receiving.received:
        check_signature(request)


def test_a_process_that_is_an_hour_ahead_sets_claims_and_pauses_by_the_clock(
    calling_id: str, receiving: Receiver, delivering: Callbacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the machine's clock was set back, see `clock.now`."""
    claimed_until: list[int] = []
    post = delivering._sender.post

    def note_claim(*given: Any) -> int:
        claimed_until.extend(row.claimed_until for row in rows())
        return post(*given)

    monkeypatch.setattr(delivering._sender, "post", note_claim)
    monkeypatch.setattr(clock, "_last", clock.to_micros(clock.wall() + datetime.timedelta(hours=1)))
    receiving.statuses = [500]
    run(calling_id)

    assert deliver(delivering) == 1

    soon = clock.to_micros(clock.wall() + datetime.timedelta(minutes=2))
    [row] = rows()
    [first] = claimed_until
    assert row.not_before < soon
    assert first < soon


def test_after_the_last_attempt_a_callback_is_dropped(
    calling_id: str, receiving: Receiver, delivering: Callbacks, caplog: pytest.LogCaptureFixture
) -> None:
    receiving.statuses = [500] * 10
    final = run(calling_id)

    assert deliver_all(delivering) == 3

    assert len(receiving.received) == 3
    [event] = dropped(caplog)
    assert vars(event)["execution_id"] == final.id
    assert vars(event)["attempt"] == 3
    assert "status 500" in vars(event)["reason"]
    assert SECRET not in caplog.text


def test_gone_ends_a_callback_at_once(
    calling_id: str, receiving: Receiver, delivering: Callbacks, caplog: pytest.LogCaptureFixture
) -> None:
    receiving.statuses = [410]
    run(calling_id)

    assert deliver_all(delivering) == 1
    assert "410" in vars(dropped(caplog)[0])["reason"]


def test_an_address_that_is_not_public_gets_no_request(
    calling_id: str, receiving: Receiver, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    strict = replace(settings, callback_networks=None, callback_max_attempts=1)
    run(calling_id)

    assert deliver_all(Callbacks(strict, ExecutionShown().show)) == 1

    assert receiving.received == []
    assert "is not public" in vars(dropped(caplog)[0])["reason"]


def test_the_deepest_execution_has_no_callback(
    calling_id: str, receiving: Receiver, delivering: Callbacks, caplog: pytest.LogCaptureFixture
) -> None:
    run(calling_id, callback_depth=3)

    assert deliver_all(delivering) == 1

    assert receiving.received == []
    assert "3 callbacks led to the execution" in vars(dropped(caplog)[0])["reason"]


def test_a_crash_after_the_answer_repeats_the_delivery_with_its_id(
    calling_id: str, receiving: Receiver, delivering: Callbacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(calling_id)

    def crash(callback_id: str, attempt: int, *, is_delivered: bool) -> bool:
        raise gevent.GreenletExit  # as when the process dies: nothing more is written

    with monkeypatch.context() as patched:
        patched.setattr(callbacks, "finish", crash)
        assert deliver(delivering) == 1
    assert deliver(delivering) == 0  # the claim has not ended
    transact(lambda: Callback.update(claimed_until=clock.to_micros(clock.now())).execute())
    assert deliver(delivering) == 1

    first, second = receiving.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert rows() == []


def test_crashes_at_the_last_attempt_end_too(
    calling_id: str, receiving: Receiver, delivering: Callbacks, caplog: pytest.LogCaptureFixture
) -> None:
    run(calling_id)
    transact(lambda: Callback.update(attempt=3).execute())

    assert deliver_all(delivering) == 1

    assert receiving.received == []
    assert "not delivered in 3 attempts" in vars(dropped(caplog)[0])["reason"]


def test_a_deleted_execution_or_function_has_no_callback(
    calling_id: str, receiving: Receiver, delivering: Callbacks, caplog: pytest.LogCaptureFixture
) -> None:
    first = run(calling_id)
    run(calling_id)
    execution.delete(OWNER, first.id)
    assert deliver(delivering) == 2
    run(calling_id)
    function.delete(OWNER, calling_id)
    assert deliver(delivering) == 1

    assert len(receiving.received) == 1
    assert [vars(event)["reason"] for event in dropped(caplog)] == [
        "The execution was deleted.",
        "The function was deleted.",
    ]


def test_an_execution_that_was_queued_again_has_no_callback_until_it_ends(
    calling_id: str, receiving: Receiver, delivering: Callbacks, caplog: pytest.LogCaptureFixture
) -> None:
    first = run(calling_id, "failed")
    queue_again(first)

    assert deliver(delivering) == 1
    assert receiving.received == []
    assert "queued again" in vars(dropped(caplog)[0])["reason"]

    now = clock.now()
    [again] = claim([first.id], now, now + datetime.timedelta(minutes=1))
    assert end(ended(first._replace(attempt=2)), again.claim)
    assert deliver(delivering) == 1
    assert [request.message["type"] for request in receiving.received] == ["execution.success"]


def test_a_secret_that_no_key_reads_is_not_sent_unsigned(
    calling_id: str, receiving: Receiver, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    run(calling_id)
    database.disconnect()
    changed = replace(settings, secret_keys=fernet_key(2))
    database.connect(changed)

    assert deliver_all(Callbacks(changed, ExecutionShown().show)) == 3

    assert receiving.received == []
    assert "SECRET_KEYS" in vars(dropped(caplog)[0])["reason"]


def test_pauses_grow_and_are_random(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[tuple[float, float]] = []
    monkeypatch.setattr(jobs.random, "uniform", lambda low, high: bounds.append((low, high)) or high)
    made = Callbacks(replace(settings, callback_backoff_s=10.0), ExecutionShown().show)

    assert [made._pause_s(attempt) for attempt in (1, 2, 3, 9, 10, 100)] == [10, 20, 40, 2560, 3600, 3600]
    assert {low for low, _ in bounds} == {0}


def test_a_delivery_that_fails_unexpectedly_frees_its_place(
    calling_id: str, receiving: Receiver, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(row: object) -> dict[str, Any]:
        raise KeyError("odd")

    run(calling_id)
    delivering = Callbacks(replace(settings, callback_concurrency=1), broken)

    assert deliver(delivering) == 1

    assert "callback failed unexpectedly" in caplog.text
    assert (delivering._running.free_count(), delivering._by_project) == (1, {})
    assert len(rows()) == 1


def test_a_refused_delivery_is_attempted_three_times(
    calling_id: str, settings: Settings, make_refusing: Callable[[str], Sender]
) -> None:
    run(calling_id)

    assert deliver_all(Callbacks(settings, ExecutionShown().show, make_refusing("no"))) == 3


@pytest.fixture
def make_refusing(settings: Settings) -> Callable[[str], Sender]:
    class Refusing(Sender):
        def __init__(self, reason: str):
            super().__init__(settings)
            self._reason = reason

        def post(self, url: str, headers: Any, body: bytes, project_id: str = "") -> int:
            raise NotDelivered(self._reason)

    return Refusing
