"""Rows of the queue whose execution does not run: claims and retries delete them, and count what they have deleted."""

from __future__ import annotations

import logging

import pytest

from qinling_falcon.models import clock, execution, execution_counters, execution_queue, execution_retries
from qinling_falcon.models.database import transact
from qinling_falcon.models.internal_tables import QueuedExecution
from qinling_falcon.models.records import record
from qinling_falcon.models.scope import Context
from qinling_falcon.models.tables import Execution
from tests.models.factories import end_claimed
from tests.models.test_execution_counters import counters
from tests.models.test_execution_queue import accepted, claim, ended, queued_row, unclaimed


def left_by_an_old_manager(function_id: str, backend: str, status: str = "failed") -> str:
    """An execution that a pool manager of an earlier release has recorded as lost, with its row in the queue."""
    one = accepted(function_id)
    assert record(ended(one, 1, status=status))
    if backend == "sqlite":  # where a trigger has done more than the old manager
        transact(lambda: QueuedExecution.insert(id=one.id, project_id="project-a", not_before=0).execute())
        sql = "UPDATE execution_counters SET ended = ended - 1 WHERE shard = ?"
        transact(lambda: execution_counters.engine().execute_sql(sql, (execution_counters.shard(),)))
    assert queued_row(one.id) is not None
    return one.id


def gone(function_id: str) -> str:
    """An execution whose record was deleted by hand."""
    one = accepted(function_id)
    transact(lambda: Execution.delete().where(Execution.id == one.id).execute())
    return one.id


def test_a_claim_deletes_the_row_of_an_execution_that_has_ended(
    function_id: str, owner: Context, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    stray, good = left_by_an_old_manager(function_id, backend), accepted(function_id)
    assert counters() == (2, 0, 2, 0)

    assert [one.id for one in claim(stray, good.id)] == [good.id]

    assert queued_row(stray) is None
    assert counters() == (2, 1, 1, 0)
    assert execution.get(owner, stray).status == "failed"
    assert [(one.levelno, vars(one)["count"]) for one in caplog.records] == [(logging.WARNING, 1)]


def test_a_claim_deletes_the_row_of_an_execution_that_is_gone(function_id: str) -> None:
    stray = gone(function_id)
    assert counters() == (1, 0, 1, 0)

    assert claim(stray) == []

    assert unclaimed() == []
    assert counters() == (1, 0, 0, 1)


def test_a_row_that_was_never_counted_as_accepted_is_deleted_uncounted(function_id: str) -> None:
    accepted(function_id)
    transact(lambda: QueuedExecution.insert(id="by-hand", project_id="project-a", not_before=0).execute())

    claim("by-hand")

    assert queued_row("by-hand") is None
    assert counters() == (1, 0, 1, 0)


def test_rows_of_executions_that_run_or_wait_stay(
    function_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    running, waiting = accepted(function_id), accepted(function_id)
    claim(running.id, waiting.id)
    later = clock.from_micros(clock.to_micros(clock.now()) + 60_000_000)
    execution_queue.give_back(waiting.id, 1, later, was_started=False)

    assert claim(running.id, waiting.id, "unknown") == []

    assert queued_row(running.id) is not None
    assert queued_row(waiting.id) is not None
    assert caplog.records == []
    assert end_claimed(ended(running, 1))


def test_an_execution_whose_row_was_left_can_be_retried(function_id: str, owner: Context, backend: str) -> None:
    one, other = (left_by_an_old_manager(function_id, backend) for _ in range(2))
    execution_retries.retry(owner, one, "again")
    assert counters() == (2, 0, 2, 0)

    assert [queued.id for queued in execution_retries.retry_some(owner, "failed", None, 9, "again")] == [other]

    assert counters() == (2, 0, 2, 0)
    assert sorted(found.id for found in claim(one, other)) == sorted((one, other))
