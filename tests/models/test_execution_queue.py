"""The queue of asynchronous executions: every change of both rows is one, and only the latest claim counts."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg2
import pytest

from qinling_falcon.errors import NotFound
from qinling_falcon.models import clock, execution, execution_queue, execution_retries, function
from qinling_falcon.models.database import reading, transact
from qinling_falcon.models.internal_tables import QueuedExecution
from qinling_falcon.models.listing import ListParams, page
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.models.scope import Context
from qinling_falcon.models.tables import Execution
from qinling_falcon.settings import Settings
from tests.models.factories import end_claimed, make_record, together

MINUTE = timedelta(minutes=1)


def accepted(function_id: str, **fields: object) -> ExecutionRecord:
    record = make_record(
        function_id, status="running", sync=False, attempt=0, result=None, log=None, updated_at=None, **fields
    )
    execution_queue.accept(record)
    return record


def claim(*ids: str) -> list[execution_queue.ClaimedExecution]:
    now = clock.now()
    return execution_queue.claim(ids, now, now + MINUTE)


def ended(record: ExecutionRecord, attempt: int, **fields: object) -> ExecutionRecord:
    return record._replace(status="success", result="{}", log="", updated_at=clock.now(), attempt=attempt)._replace(
        **fields
    )


def unclaimed() -> list[str]:
    found, _ = execution_queue.unclaimed("", clock.now(), 1000)
    return [queued.id for queued in found]


def queued_row(execution_id: str) -> QueuedExecution | None:
    with reading():
        return QueuedExecution.get_or_none(QueuedExecution.id == execution_id)


def test_an_accepted_execution_is_queued_and_shown_as_running(function_id: str, owner: Context) -> None:
    record = accepted(function_id, input='{"a": 1}')

    row = execution.get(owner, record.id)
    assert (row.status, row.sync, row.attempt, row.input) == ("running", False, 0, '{"a": 1}')
    assert unclaimed() == [record.id]


def test_a_claim_takes_each_execution_once(function_id: str) -> None:
    records = [accepted(function_id) for _ in range(5)]
    ids = [record.id for record in records]

    claims = together([lambda: claim(*ids) for _ in range(4)])

    claimed = sorted(one.id for found in claims for one in found)
    assert claimed == sorted(ids)
    assert {one.attempt for found in claims for one in found} == {1}
    assert unclaimed() == []


def test_a_claim_has_what_is_needed_to_run_the_execution(function_id: str) -> None:
    record = accepted(function_id, input="x", function_version=3, function_alias="live", request_id="r-1")

    [claimed] = claim(record.id)

    assert claimed.created_at == record.created_at
    assert (claimed.input, claimed.function_version, claimed.function_alias) == ("x", 3, "live")
    assert (claimed.project_id, claimed.function_id, claimed.request_id) == ("project-a", function_id, "r-1")


def test_an_execution_that_is_not_due_is_not_claimed(function_id: str) -> None:
    record = accepted(function_id)
    claim(record.id)
    execution_queue.give_back(record.id, 1, clock.now() + MINUTE, was_started=True)

    assert claim(record.id) == []
    assert unclaimed() == [record.id]


def test_an_execution_is_claimed_also_if_the_clock_of_this_machine_is_behind(function_id: str) -> None:
    record = accepted(function_id)
    now = record.created_at - timedelta(seconds=0.5)

    assert [one.id for one in execution_queue.claim([record.id], now, now + MINUTE)] == [record.id]


def test_an_accepted_execution_is_due_also_if_its_process_is_an_hour_ahead(function_id: str) -> None:
    """As after the machine's clock was set back, see `clock.now`."""
    record = accepted(function_id, created_at=clock.wall() + timedelta(hours=1))

    ([queued], _) = execution_queue.unclaimed("", clock.wall(), 1)
    assert queued.not_before <= clock.to_micros(clock.wall())
    assert [one.id for one in claim(record.id)] == [record.id]
    execution_queue.give_back(record.id, 1, clock.wall() + MINUTE, was_started=False)
    assert claim(record.id) == [], "its pause lasts"


def test_an_end_is_written_once_and_counted_once(function_id: str, owner: Context) -> None:
    record = accepted(function_id)
    claim(record.id)

    won = together([lambda: end_claimed(ended(record, 1)) for _ in range(4)])

    assert sorted(won) == [False, False, False, True]
    assert execution.get(owner, record.id).status == "success"
    assert execution.get(owner, record.id).attempt == 1
    assert function.get(owner, function_id).count == 1
    assert queued_row(record.id) is None


def test_many_ends_share_a_statement_and_each_learns_its_own_outcome(function_id: str, owner: Context) -> None:
    records = [accepted(function_id) for _ in range(6)]
    claim(*(record.id for record in records))
    execution_queue.cancel(execution.get(owner, records[2].id), "no longer wanted")

    won = together([lambda record=record: end_claimed(ended(record, 1)) for record in records])

    assert won == [True, True, False, True, True, True]
    assert execution.get(owner, records[2].id).status == "cancelled"
    assert function.get(owner, function_id).count == 6


def test_an_earlier_claim_can_change_nothing_any_more(function_id: str, owner: Context) -> None:
    record = accepted(function_id)
    now = clock.now()
    execution_queue.claim([record.id], now, now)  # which ends at once
    [second] = claim(record.id)

    assert second.attempt == 2
    assert not end_claimed(ended(record, 1))
    assert not execution_queue.postpone(
        record._replace(attempt=1, updated_at=clock.now()), 1, clock.now(), 1
    )
    assert not execution_queue.give_back(record.id, 1, clock.now(), was_started=False)
    assert execution.get(owner, record.id).status == "running"
    assert end_claimed(ended(record, 2))


@pytest.mark.parametrize("filters", [[], [("status", "in:running,success")], [("attempt", "in:0,1,2")]])
def test_an_execution_shows_its_present_attempt_alone_and_in_a_list(
    function_id: str, owner: Context, filters: list[tuple[str, str]]
) -> None:
    records = [accepted(function_id, input="x" * size) for size in (1, 1, 5000)]
    for record in records[1:]:
        claim(record.id)
    done = accepted(function_id)
    claim(done.id)
    assert end_claimed(ended(done, 1))

    listed = list(page(execution.listed(owner), execution.LISTS, ListParams(limit=10, filters=filters)).rows)

    attempts = {row.id: row.attempt for row in listed}
    assert [attempts[record.id] for record in (*records, done)] == [0, 1, 1, 1]
    assert [execution.get(owner, execution_id).attempt for execution_id in attempts] == list(attempts.values())


def test_an_extended_claim_is_not_taken_by_another_process(function_id: str) -> None:
    record = accepted(function_id)
    now = clock.now()
    execution_queue.claim([record.id], now, now)

    assert execution_queue.extend({record.id: 1}, clock.now() + MINUTE) == {record.id}

    assert claim(record.id) == []


def test_only_a_claim_that_has_not_ended_is_extended(function_id: str) -> None:
    other, returned, ended = (accepted(function_id) for _ in range(3))
    for one in (other, returned, ended):
        now = clock.now()
        execution_queue.claim([one.id], now, now)
    claim(other.id)
    execution_queue.give_back(returned.id, 1, clock.now(), was_started=False)
    end_claimed(ended._replace(status="success", attempt=1, updated_at=clock.now()))

    assert execution_queue.extend(dict.fromkeys((other.id, returned.id, ended.id), 1), clock.now() + MINUTE) == set()
    assert [one.id for one in claim(returned.id)] == [returned.id]


def test_a_postponed_execution_shows_why_and_is_queued_again(function_id: str, owner: Context) -> None:
    record = accepted(function_id)
    claim(record.id)

    shown = record._replace(attempt=1, status_reason="It raised.", log="a log", updated_at=clock.now())
    assert execution_queue.postpone(shown, 1, clock.now(), 1)

    row = execution.get(owner, record.id)
    assert (row.status, row.attempt, row.status_reason) == ("running", 1, "It raised.")
    assert execution.get_log(owner, record.id) == "a log"
    [again] = claim(record.id)
    assert (again.attempt, again.failures) == (2, 1)


@pytest.mark.parametrize(("was_started", "next_attempt"), [(True, 2), (False, 1)])
def test_an_execution_that_is_given_back_counts_its_attempt_only_if_it_was_started(
    function_id: str, was_started: bool, next_attempt: int
) -> None:
    record = accepted(function_id)
    claim(record.id)

    assert execution_queue.give_back(record.id, 1, clock.now(), was_started=was_started)

    [again] = claim(record.id)
    assert (again.attempt, again.claim, again.failures) == (next_attempt, 2, 0)


def due_at(record: ExecutionRecord) -> int:
    """From when on the execution has waited for the attempt of its next claim, in microseconds."""
    [claimed] = claim(record.id)
    shown = execution_queue.due_at(record.id)
    assert (shown or claimed.created_at) == clock.from_micros(claimed.due_at)
    return claimed.due_at


def test_a_first_attempt_is_due_since_the_execution_was_accepted_also_if_there_was_no_worker(function_id: str) -> None:
    record = accepted(function_id, created_at=clock.now() - MINUTE)
    assert due_at(record) == clock.to_micros(record.created_at)
    execution_queue.give_back(record.id, 1, clock.now(), was_started=False)

    assert due_at(record) == clock.to_micros(record.created_at)


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_later_attempt_is_due_since_the_end_of_its_pause(function_id: str, interrupted: bool) -> None:
    record = accepted(function_id, created_at=clock.now() - 9 * MINUTE)
    claim(record.id)
    again_at = clock.now() - MINUTE
    if interrupted:
        execution_queue.give_back(record.id, 1, again_at, was_started=True)
    else:
        execution_queue.postpone(record._replace(attempt=1, updated_at=clock.now()), 1, again_at, 1)
    assert due_at(record) == clock.to_micros(again_at)

    execution_queue.give_back(record.id, 2, clock.now(), was_started=False)  # without a worker

    assert due_at(record) == clock.to_micros(again_at)


def test_the_attempt_after_an_expired_claim_is_due_since_its_end(function_id: str) -> None:
    record = accepted(function_id, created_at=clock.now() - 9 * MINUTE)
    expired_at = clock.now() - MINUTE
    execution_queue.claim([record.id], clock.now(), expired_at)

    assert due_at(record) == clock.to_micros(expired_at)


def test_a_retried_execution_is_due_since_its_retry(function_id: str, owner: Context) -> None:
    record = accepted(function_id, created_at=clock.now() - 9 * MINUTE)
    claim(record.id)
    end_claimed(ended(record, 1, status="failed"))

    execution_retries.retry(owner, record.id, "again")

    assert due_at(record) > clock.to_micros(clock.now() - MINUTE)


def test_a_cancelled_execution_has_ended_and_is_not_claimed(function_id: str, owner: Context) -> None:
    queued, running = accepted(function_id), accepted(function_id)
    claim(running.id)

    assert execution_queue.cancel(execution.get(owner, queued.id), "by the caller")
    assert execution_queue.cancel(execution.get(owner, running.id), "by the caller")

    for record in (queued, running):
        row = execution.get(owner, record.id)
        assert (row.status, row.status_reason) == ("cancelled", "by the caller")
    assert claim(queued.id) == []
    assert not end_claimed(ended(running, 1))
    assert not execution_queue.cancel(execution.get(owner, queued.id), "again")
    assert function.get(owner, function_id).count == 2


def test_a_cancelled_execution_shows_how_often_it_was_started(function_id: str, owner: Context) -> None:
    record = accepted(function_id)
    claim(record.id)

    assert execution_queue.cancel(execution.get(owner, record.id), "by the caller")

    assert execution.get(owner, record.id).attempt == 1


def test_a_claim_is_ended_once_even_if_that_is_repeated(function_id: str) -> None:
    """As after a commit whose outcome was unknown."""
    postponed, returned = accepted(function_id), accepted(function_id)
    claim(postponed.id, returned.id)
    shown = postponed._replace(attempt=1, status_reason="It raised.", updated_at=clock.now())

    assert execution_queue.postpone(shown, 1, clock.now(), 1)
    assert not execution_queue.postpone(shown, 1, clock.now(), 1)
    assert execution_queue.give_back(returned.id, 1, clock.now(), was_started=False)
    assert not execution_queue.give_back(returned.id, 1, clock.now(), was_started=False)

    again = {one.id: (one.attempt, one.failures) for one in claim(postponed.id, returned.id)}
    assert again == {postponed.id: (2, 1), returned.id: (1, 0)}


def test_an_execution_that_has_ended_is_not_claimed(function_id: str) -> None:
    record = accepted(function_id)
    transact(
        lambda: QueuedExecution.insert(id="orphan", project_id="project-a", not_before=0).execute()
    )

    assert [one.id for one in claim(record.id, "orphan")] == [record.id]


def test_an_execution_that_was_cancelled_again_after_it_was_found_is_not_retried(
    function_id: str, owner: Context
) -> None:
    record = accepted(function_id)

    def cancel_and_find() -> dict[str, Any]:
        execution_queue.cancel(execution.get(owner, record.id), "no longer wanted")
        return execution_retries.find_some(owner, "cancelled", None, 9)

    def retry(found: dict[str, Any]) -> list[str]:
        return [one.id for one in execution_retries.retry_some(owner, "cancelled", None, 9, "again", found)]

    first = cancel_and_find()
    assert retry(first) == [record.id]
    second = cancel_and_find()
    assert retry(first) == []
    assert retry(second) == [record.id]


def test_a_retried_execution_is_as_young_as_its_retry(function_id: str, owner: Context) -> None:
    record = accepted(function_id, created_at=clock.now() - 100 * MINUTE)
    claim(record.id)
    end_claimed(ended(record, 1, status="failed"))

    execution_retries.retry(owner, record.id, "again")

    [again] = claim(record.id)
    assert clock.from_micros(again.since) > clock.now() - MINUTE


def test_the_sweep_reads_the_queue_in_pages(function_id: str) -> None:
    ids = sorted(accepted(function_id, id=clock.new_id(clock.now())).id for _ in range(5))
    claim(ids[1])

    first, last = execution_queue.unclaimed("", clock.now(), 3)
    rest, end = execution_queue.unclaimed(last or "", clock.now(), 3)

    assert [queued.id for queued in first] == [ids[0], ids[2]]
    assert last == ids[2]
    assert [queued.id for queued in rest] == ids[3:]
    assert end is None


def test_nothing_of_a_refused_batch_is_queued(function_id: str, owner: Context) -> None:
    record = accepted(function_id)

    with pytest.raises(Exception, match=r"(?i)unique"):
        execution_queue.accept(record)

    assert unclaimed() == [record.id]
    with reading():
        assert Execution.select().count() == 1
    with pytest.raises(NotFound):
        execution.get(owner, "0" * 36)


def test_an_end_waits_for_a_new_claim_of_its_execution_and_then_loses(
    function_id: str, settings: Settings, backend: str
) -> None:
    """The claim is in a transaction of another process that has not committed when the end begins."""
    if backend != "postgresql":
        pytest.skip("SQLite has one writer at a time")
    record = accepted(function_id)
    claim(record.id)
    assert settings.database_url is not None
    other = psycopg2.connect(settings.database_url)
    try:
        other.cursor().execute("UPDATE execution_queue SET claim = 2, attempt = 2 WHERE id = %s", (record.id,))
        with ThreadPoolExecutor(1) as threads:
            ending = threads.submit(end_claimed, ended(record, attempt=1))
            time.sleep(0.5)  # it can't end before the other transaction, so a short time only makes the test weaker
            other.commit()
            won = ending.result()
    finally:
        other.close()

    assert not won
    row = queued_row(record.id)
    assert row is not None
    assert row.attempt == 2
    assert end_claimed(ended(record, attempt=2))
