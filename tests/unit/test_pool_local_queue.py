"""The calls of one process that wait for a worker of one target."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from qinling_falcon.pool import local_queue
from qinling_falcon.pool.leases import LeasedWorker, LeaseRequest
from qinling_falcon.pool.local_queue import PATIENCE_S, SPARE_S, LocalQueue
from qinling_falcon.pool.waiter import Waiter

NOW = 1000.0
REQUEST = LeaseRequest("f:0:d", "python3", "f", "p", "e", (), 30, "detail")


def test_time_before_a_call_began_to_wait_is_no_reason_for_another_worker() -> None:
    """Another worker does not help against a slow database."""
    queue = LocalQueue("python3|f:0:d|any|p", leased=1, busy_s=0.01, running_since={"w": NOW})
    queue.enter(Waiter(REQUEST, NOW - 10, 60, entered=NOW))
    assert queue.may_delay_escalation(0.02)


def waiter(age_s: float = 0.0, *, is_counted: bool = False) -> Waiter:
    made = Waiter(REQUEST, NOW - age_s, 60, entered=NOW - age_s)
    made.is_counted = is_counted
    return made


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time stands still, so that a slow machine does not change what is expected."""
    monkeypatch.setattr(local_queue, "time", SimpleNamespace(monotonic=lambda: NOW))


@pytest.fixture
def queue() -> LocalQueue:
    return LocalQueue(REQUEST.queue)


def test_the_oldest_call_is_first_also_if_it_came_back_later(queue: LocalQueue) -> None:
    calls = [waiter(3), waiter(1), waiter(2)]
    for call in calls:
        queue.enter(call)
    assert [queue.take() for _ in range(3)] == [calls[0], calls[2], calls[1]]


def run(queue: LocalQueue, *ages_s: float) -> None:
    """The process has leased workers that have run a call for so long."""
    queue.leased = len(ages_s)
    queue.running_since = {f"w{number}": NOW - age_s for number, age_s in enumerate(ages_s)}


def test_a_call_waits_here_while_its_turn_comes_within_its_patience(queue: LocalQueue) -> None:
    queue.note_busy(PATIENCE_S * 1.8)
    assert not queue.expects_worker_soon()  # no worker runs a call
    run(queue, PATIENCE_S * 1.7, PATIENCE_S * 1.7)
    assert queue.expects_worker_soon()
    queue.enter(waiter())
    assert queue.expects_worker_soon()
    queue.enter(waiter())
    assert not queue.expects_worker_soon()


def test_a_call_asks_redis_while_it_is_not_known_how_long_calls_take(queue: LocalQueue) -> None:
    run(queue, 0, 0)
    assert not queue.expects_worker_soon()


def test_a_call_does_not_wait_here_for_workers_that_have_only_begun(queue: LocalQueue) -> None:
    queue.note_busy(60)
    run(queue, 0)
    assert not queue.expects_worker_soon()
    run(queue, 59.999, 0)
    assert queue.expects_worker_soon()


def test_a_call_does_not_wait_here_for_workers_whose_calls_take_much_longer_than_others(queue: LocalQueue) -> None:
    queue.note_busy(PATIENCE_S / 2)
    run(queue, 0)
    assert queue.expects_worker_soon()
    run(queue, 60)
    assert not queue.expects_worker_soon()


def test_spare_workers_shorten_no_wait(queue: LocalQueue) -> None:
    queue.note_busy(PATIENCE_S / 2)
    run(queue, 0)
    queue.leased = 2
    queue.enter(waiter())
    assert queue.expects_worker_soon()
    queue.enter(waiter())
    assert queue.expected_wait_s() == pytest.approx(PATIENCE_S, rel=0.1)
    queue.spares.append((LeasedWorker("w9", "127.0.0.1:1", "", 1, False), NOW))
    assert queue.expected_wait_s() == pytest.approx(PATIENCE_S * 1.5, rel=0.1)


def test_a_quick_function_gets_some_workers_before_its_calls_wait(queue: LocalQueue) -> None:
    queue.note_busy(PATIENCE_S / 100)
    run(queue, 0, 0, 0)
    assert not queue.expects_worker_soon()
    run(queue, 0, 0, 0, 0)
    assert queue.expects_worker_soon()


def test_asynchronous_executions_share_a_worker_until_their_backlog_takes_longer_than_their_grace() -> None:
    queue = LocalQueue(REQUEST.queue, grace_s=0.05)
    assert not queue.expects_worker_soon(), "it has no worker"
    run(queue, 0)
    assert queue.expects_worker_soon(), "of which nothing is known"
    queue.note_busy(0.002)
    for _ in range(25):
        assert queue.expects_worker_soon()
        queue.enter(waiter())
    assert queue.may_delay_escalation(START_S)
    for _ in range(5):
        queue.enter(waiter())
    assert not queue.expects_worker_soon()


def test_many_asynchronous_executions_of_a_quick_function_get_some_workers() -> None:
    """Then several of them end together and share a commit."""
    queue = LocalQueue(REQUEST.queue, grace_s=0.05)
    run(queue, 0)
    queue.note_busy(PATIENCE_S / 100)
    for _ in range(32):
        assert queue.expects_worker_soon()
        queue.enter(waiter())
    assert not queue.expects_worker_soon()
    run(queue, 0, 0, 0, 0)
    assert queue.expects_worker_soon()


START_S = 0.02


def test_calls_want_no_further_worker_while_those_of_their_process_are_quick(queue: LocalQueue) -> None:
    """Such calls wait for their process, which more workers do not make faster."""
    queue.note_busy(PATIENCE_S / 8)
    for _ in range(3):
        queue.enter(waiter(2 * PATIENCE_S))
    run(queue, 0, 0, 0, 0)
    assert queue.may_delay_escalation(START_S)
    for _ in range(400):
        queue.enter(waiter())
    assert not queue.may_delay_escalation(START_S)


def test_calls_want_no_further_worker_before_their_waits_cost_as_much_as_two_starts(queue: LocalQueue) -> None:
    queue.note_busy(START_S / 2)
    run(queue, 0)
    queue.enter(waiter(PATIENCE_S))
    assert queue.may_delay_escalation(START_S)
    queue.waited_lately.add(START_S)
    assert not queue.may_delay_escalation(START_S)
    assert queue.may_delay_escalation(2 * START_S)


def test_a_call_that_would_wait_for_longer_than_two_starts_wants_a_further_worker(queue: LocalQueue) -> None:
    queue.note_busy(2 * START_S)
    run(queue, 0)
    queue.enter(waiter(PATIENCE_S))
    assert not queue.may_delay_escalation(START_S)


def test_waits_are_forgotten_after_a_time(queue: LocalQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    queue.waited_lately.add(0.05)
    monkeypatch.setattr("qinling_falcon.pool.local_queue.time.monotonic", lambda: NOW + 1)
    assert queue.waited_lately.sum() == pytest.approx(0.04)
    monkeypatch.setattr("qinling_falcon.pool.local_queue.time.monotonic", lambda: NOW + 60)
    assert queue.waited_lately.sum() == 0


def test_the_wait_before_the_first_worker_of_the_process_does_not_count(queue: LocalQueue) -> None:
    queue.enter(waiter(60))
    assert not queue.may_delay_escalation(START_S)
    queue.add_leased()
    assert queue.waited_s(queue.waiters[0]) == 0
    assert queue.may_delay_escalation(START_S)  # how long calls take will be known soon


def test_calls_that_have_waited_for_very_long_want_a_further_worker_in_any_case(queue: LocalQueue) -> None:
    run(queue, 0, 0, 0, 0)
    queue.note_busy(PATIENCE_S / 100)
    assert queue.expects_worker_soon()
    queue.enter(waiter(60))
    assert not queue.may_delay_escalation(START_S)


def test_the_longer_calls_take_the_longer_a_free_worker_is_kept(queue: LocalQueue) -> None:
    assert queue.spare_s == SPARE_S
    queue.note_busy(SPARE_S / 10)
    assert queue.spare_s == SPARE_S
    queue.busy_s = 4 * SPARE_S
    assert queue.spare_s == 4 * SPARE_S
    queue.busy_s = 60
    assert queue.spare_s == 5 * SPARE_S


def test_the_time_that_a_worker_is_busy_is_a_moving_mean(queue: LocalQueue) -> None:
    queue.note_busy(1.0)
    queue.note_busy(2.0)
    assert queue.busy_s == pytest.approx(1.1)


def test_redis_is_told_of_each_change_of_the_number_of_calls_that_asked_it(queue: LocalQueue) -> None:
    for _ in range(2):  # as after two answers 'queued'
        queue.enter(waiter(is_counted=True))
        queue.entry_count += 1
    queue.enter(waiter())  # has not asked
    assert queue.change() == "+0"
    queue.take()
    assert queue.change() == "-1"
    assert queue.change() == "+0"


def test_calls_that_have_waited_for_long_are_counted(queue: LocalQueue) -> None:
    for age_s in (1.0, 0.5, 0.0):
        queue.enter(waiter(age_s))
    queue.waiters[-1].arrived = NOW + 60
    queue.count_impatient()
    assert queue.counted == 2 and queue.change() == "+2"


def test_after_a_lost_message_the_whole_number_is_said_once_no_call_is_asking(queue: LocalQueue) -> None:
    queue.enter(waiter(is_counted=True))
    queue.entry_count, queue.is_unsure, queue.asking = 5, True, 1
    assert queue.change() == "-4"
    queue.asking = 0
    assert queue.change() == "=1"
    assert queue.change() == "+0"


def test_a_queue_is_forgotten_when_nothing_needs_it(queue: LocalQueue) -> None:
    assert queue.is_unused
    for name in ("asking", "leased", "entry_count", "is_unsure"):
        setattr(queue, name, 1)
        assert not queue.is_unused
        setattr(queue, name, 0)
    call = waiter()
    queue.enter(call)
    assert not queue.is_unused
    queue.remove(call)
    assert queue.is_unused


def test_a_worker_goes_to_the_next_call_only_in_a_queue_of_calls(queue: LocalQueue) -> None:
    assert queue.is_for_calls
    assert not LocalQueue(queue.name.replace("|any|", "|warm|")).is_for_calls


def test_a_free_worker_is_kept_while_calls_follow_soon(queue: LocalQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("qinling_falcon.pool.local_queue.time.monotonic", lambda: now)
    assert not queue.expects_call()  # nothing is known yet
    now += SPARE_S / 2
    queue.note_arrival()
    assert queue.expects_call()
    now += 100 * SPARE_S
    queue.note_arrival()
    assert queue.expects_call()  # one pause says little
    for _ in range(3):
        now += 100 * SPARE_S
        queue.note_arrival()
        queue.expects_call()
    assert not queue.expects_call()


def test_a_kept_worker_is_given_up_when_no_call_came(queue: LocalQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("qinling_falcon.pool.local_queue.time.monotonic", lambda: now)
    worker = LeasedWorker("w", "127.0.0.1:1", "secret", 1, needs_load=False)
    queue.spares.append((worker, now))
    assert queue.expired_spares() == []
    now += SPARE_S
    assert queue.expired_spares() == [worker]
    assert not queue.spares
