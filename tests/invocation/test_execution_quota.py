"""The quota of executions: the cost and the accuracy of its check."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from qinling_falcon.errors import QuotaExceeded
from qinling_falcon.invocation import execution_quota
from qinling_falcon.invocation.execution_quota import ExecutionQuota, Reservation
from qinling_falcon.models import database, execution, quotas
from qinling_falcon.models.records import begin, record
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import Settings
from tests.models.factories import make_record
from tests.support.tables import make_tables

PROJECT = "project-a"


@pytest.fixture(autouse=True)
def settings(tmp_path: Path) -> Iterator[Settings]:
    made = Settings(var_dir=tmp_path, quota_executions=100_000)
    make_tables(made)
    database.connect(made)
    yield made
    database.disconnect()


@pytest.fixture
def quota(settings: Settings) -> Iterator[ExecutionQuota]:
    made = ExecutionQuota()
    yield made
    made.stop()  # or it would make statements in the database of the next test


@pytest.fixture
def slowly_counted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project has 30 executions, and the count at its first call stops at 10."""
    monkeypatch.setattr(execution_quota, "_QUICKLY_COUNTED", 10)
    monkeypatch.setattr(quotas, "_STEP", 5)
    for _ in range(30):
        record(make_record("function", PROJECT))


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The SQL statements of the test."""
    made: list[str] = []
    execute = database.engine().execute_sql
    monkeypatch.setattr(database.engine(), "execute_sql", lambda sql, *args: made.append(sql) or execute(sql, *args))
    return made


def run(quota: ExecutionQuota, project_id: str = PROJECT) -> str:
    """Make a reservation, record an execution and end the reservation, as a call does. Returns the execution's id."""
    made = make_record("function", project_id)
    with Reservation(quota) as reservation:
        reservation.take(project_id)
        assert record(made)
        reservation.recorded()
    return made.id


def check(quota: ExecutionQuota, project_id: str = PROJECT) -> None:
    """Make a reservation and end it, as a call does that ends without a record."""
    with Reservation(quota) as reservation:
        reservation.take(project_id)


def test_a_call_far_from_the_limit_asks_the_database_nothing(quota: ExecutionQuota, statements: list[str]) -> None:
    check(quota)
    quota._projects[PROJECT].took_s = 0.0  # counting costs nothing, so that nothing but the distance forbids it
    statements.clear()
    for _ in range(1000):
        with Reservation(quota) as reservation:
            reservation.take(PROJECT)
            reservation.recorded()
    assert statements == []


def test_a_call_without_a_limit_asks_the_database_nothing(quota: ExecutionQuota, statements: list[str]) -> None:
    quotas.change(PROJECT, {quotas.EXECUTIONS: quotas.UNLIMITED})
    check(quota)
    statements.clear()
    for _ in range(100):
        check(quota)
    assert statements == []


def test_the_limit_is_exact_for_successive_calls_of_several_processes(quota: ExecutionQuota) -> None:
    other = ExecutionQuota()
    quotas.change(PROJECT, {quotas.EXECUTIONS: 9})
    for number in range(9):
        run((quota, other, other)[number % 3])
    for refusing in (quota, other, quota):
        with pytest.raises(QuotaExceeded, match=r"for executions: limit 9, used 9\. Delete some executions"):
            run(refusing)
    run(quota, "project-b")


def test_a_deletion_makes_room(quota: ExecutionQuota) -> None:
    quotas.change(PROJECT, {quotas.EXECUTIONS: 2})
    first, _ = run(quota), run(quota)
    with pytest.raises(QuotaExceeded):
        check(quota)
    execution.delete(Context(PROJECT), first)
    _once_it_is_counted_anew(quota)
    with pytest.raises(QuotaExceeded):
        check(quota)


def test_a_new_limit_applies_once_the_process_has_forgotten_the_old_one(quota: ExecutionQuota) -> None:
    run(quota)
    quotas.change(PROJECT, {quotas.EXECUTIONS: 1})
    check(quota)  # a call of a target that was not stale yet
    quota.forget(PROJECT)
    with pytest.raises(QuotaExceeded):
        check(quota)


def test_a_new_limit_and_others_executions_are_seen_in_the_background(quota: ExecutionQuota) -> None:
    check(quota)
    quotas.change(PROJECT, {quotas.EXECUTIONS: 2000})
    for _ in range(3):
        record(make_record("function", PROJECT))
    quota._count_active()
    use = quota._projects[PROJECT]
    assert (use.limit, use.counted, use.recorded) == (2000, 3, 0)


def test_projects_without_calls_are_not_counted(
    quota: ExecutionQuota, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(quota)
    statements.clear()
    quota._count_active()
    assert statements != []
    monkeypatch.setattr(execution_quota, "_ACTIVE_S", -1.0)
    statements.clear()
    quota._count_active()
    assert statements == []


def test_projects_that_are_remembered_are_bounded(quota: ExecutionQuota, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution_quota, "_REMEMBERED", 3)
    for number in range(9):
        check(quota, f"project-{number}")
    assert list(quota._projects) == ["project-6", "project-7", "project-8"]


@pytest.mark.usefixtures("slowly_counted")
def test_the_first_call_of_a_large_project_waits_for_no_long_count(quota: ExecutionQuota) -> None:
    check(quota)
    assert quota._projects[PROJECT].counted == 10
    quota.start()
    deadline = time.monotonic() + 10
    while quota._projects[PROJECT].counted != 30:
        assert time.monotonic() < deadline
        gevent.sleep(0.01)


@pytest.mark.usefixtures("slowly_counted")
def test_a_limit_below_the_use_is_seen_whatever_was_counted_first(quota: ExecutionQuota) -> None:
    quotas.change(PROJECT, {quotas.EXECUTIONS: 25})
    with pytest.raises(QuotaExceeded, match="limit 25, used 30"):
        check(quota)
    quotas.change(PROJECT, {quotas.EXECUTIONS: 31})
    run(quota)
    with pytest.raises(QuotaExceeded, match="limit 31, used 31"):
        check(quota)
    assert quota.used(PROJECT) == 31


def test_calls_that_are_refused_are_not_counted_one_by_one(quota: ExecutionQuota, statements: list[str]) -> None:
    quotas.change(PROJECT, {quotas.EXECUTIONS: 0})
    for _ in range(2):
        with pytest.raises(QuotaExceeded):
            check(quota)
    quota._projects[PROJECT].took_s = 60.0  # counting takes long
    statements.clear()
    for _ in range(100):
        with pytest.raises(QuotaExceeded):
            check(quota)
    assert [sql for sql in statements if '"executions"' in sql] == []


def test_calls_in_flight_never_exceed_the_limit_together(quota: ExecutionQuota) -> None:
    for _ in range(5):
        run(quota)
    quotas.change(PROJECT, {quotas.EXECUTIONS: 60})
    quota.forget(PROJECT)
    refused = 0

    def call() -> None:
        nonlocal refused
        for _ in range(4):
            try:
                with Reservation(quota) as reservation:
                    reservation.take(PROJECT)
                    gevent.sleep(0.001)  # it runs
                    record(make_record("function", PROJECT))
                    gevent.sleep(0)  # the row is there, and the process does not know it yet
                    reservation.recorded()
            except QuotaExceeded:
                refused += 1

    gevent.joinall([gevent.spawn(call) for _ in range(50)], raise_error=True)
    assert (quotas.executions_kept(PROJECT), refused) == (60, 145)
    assert quota._projects[PROJECT].in_flight == 0


def test_first_calls_wait_for_the_first_count(quota: ExecutionQuota, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        record(make_record("function", PROJECT))
    quotas.change(PROJECT, {quotas.EXECUTIONS: 1500})
    count = quotas.executions_kept

    def as_slow_as_a_large_one(project_id: str, **asked: float) -> int:
        gevent.sleep(0.05)
        return count(project_id, **asked) + 1496

    monkeypatch.setattr(quotas, "executions_kept", as_slow_as_a_large_one)
    calls = [gevent.spawn(run, quota) for _ in range(9)]
    gevent.joinall(calls)
    assert sum(call.successful() for call in calls) == 1


def test_a_call_that_ends_without_a_record_ends_its_reservation(quota: ExecutionQuota) -> None:
    quotas.change(PROJECT, {quotas.EXECUTIONS: 1})
    with pytest.raises(ZeroDivisionError), Reservation(quota) as reservation:
        reservation.take(PROJECT)
        with pytest.raises(QuotaExceeded, match="limit 1, used 1"):
            check(quota)
        raise ZeroDivisionError
    run(quota)


def test_a_call_is_counted_once_however_often_it_is_tried_and_recorded(quota: ExecutionQuota) -> None:
    quotas.change(PROJECT, {quotas.EXECUTIONS: 2})
    made = make_record("function", PROJECT)
    with Reservation(quota) as reservation:
        reservation.take(PROJECT)
        reservation.take(PROJECT)  # before the row: the target was stale
        begin(made)
        reservation.recorded()
        reservation.take(PROJECT)  # after the row: the worker was gone
        record(made)
        reservation.recorded()
        assert quota._projects[PROJECT].used == 1
        run(quota)
        reservation.take(PROJECT)  # its own row is no reason to refuse it
    with pytest.raises(QuotaExceeded, match="limit 2, used 2"):
        check(quota)


def test_a_project_with_calls_in_flight_is_not_forgotten(
    quota: ExecutionQuota, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution_quota, "_REMEMBERED", 3)
    with Reservation(quota) as reservation:
        reservation.take(PROJECT)
        for number in range(9):
            check(quota, f"project-{number}")
        assert list(quota._projects) == [PROJECT, "project-7", "project-8"]
        assert quota._projects[PROJECT].in_flight == 1


def _once_it_is_counted_anew(quota: ExecutionQuota) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            run(quota)
        except QuotaExceeded:
            time.sleep(0.01)
        else:
            return
    raise AssertionError("the deletion is not seen")
