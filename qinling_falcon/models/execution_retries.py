"""Queues asynchronous executions again that have ended: one, or many at once."""

from __future__ import annotations

import datetime
import random
from collections.abc import Mapping, Sequence

from qinling_falcon.errors import Conflict
from qinling_falcon.models import clock, execution_counters, strays
from qinling_falcon.models.database import reading, transact
from qinling_falcon.models.execution import lock_ended, select_ended
from qinling_falcon.models.execution_queue import Queued
from qinling_falcon.models.internal_tables import QueuedExecution
from qinling_falcon.models.rows import check_owner, find
from qinling_falcon.models.scope import Context, scoped
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.models.tables import Execution

_MOST_FIRST_CLAIM = 2**30
RETRIED = tuple(
    status.value
    for status in (ExecutionStatus.FAILED, ExecutionStatus.ERROR, ExecutionStatus.DEAD, ExecutionStatus.CANCELLED)
)
"""The states of executions that can be queued again."""


class CancelledMeanwhile(Conflict):
    """An execution was cancelled, and nothing has waited for the end of its function."""


def retry(
    context: Context, execution_id: str, reason: str, awaited: datetime.datetime | None = None
) -> Execution:
    """Queue an asynchronous execution again that has ended without success; durable on return.

    `attempt` goes on counting. It may fail as often as a new execution before it ends again.

    Args:
        context: the caller.
        execution_id: the execution.
        reason: what its row shows meanwhile.
        awaited: `updated_at` of the cancelled execution, read before the caller waited for the end of its function;
            None: the caller has not waited.

    Raises:
        CancelledMeanwhile: it was cancelled after `awaited`. Its function may still run.
        NotFound: unknown, or not the caller's.
        Forbidden: the caller is an admin, and the execution belongs to another project.
        Conflict: it is synchronous, has not ended, or was successful.
        Unavailable: see `transact`.
    """

    def write() -> Execution:
        row = _retriable(context, execution_id, lock=True)
        # A cancelled execution ends before its function does. Without this check its two runs could overlap.
        if row.status == ExecutionStatus.CANCELLED and row.updated_at != awaited:
            raise CancelledMeanwhile(
                f"Execution {execution_id} was cancelled just now, and its function may still run. Try again in a"
                " moment."
            )
        _reopen([row], reason)
        return find(scoped(context, by_id=True).executions(), execution_id)

    return transact(write)


def find_some(
    context: Context, status: str, function_id: str | None, most: int
) -> dict[str, datetime.datetime | None]:
    """The executions that `retry_some` would queue again now: `updated_at` by id.

    Raises:
        Unavailable: see `reading`.
    """
    with reading():
        rows = select_ended(context, status, function_id, most, ~Execution.sync)
        return {row.id: row.updated_at for row in rows}


def check(context: Context, execution_id: str) -> None:
    """Check that the caller may retry an execution. Raises as `retry`."""
    _retriable(context, execution_id)


def retry_some(
    context: Context,
    status: str,
    function_id: str | None,
    most: int,
    reason: str,
    only: Mapping[str, datetime.datetime | None] | None = None,
) -> list[Queued]:
    """Queue some of a project's asynchronous executions again that have ended with a status; durable on return.

    Args:
        context: the caller.
        status: one of `RETRIED`.
        function_id: only those of this function; None: those of all functions.
        most: how many, at most.
        reason: as in `retry`.
        only: only some of these, at most some hundreds, by id, as `find_some` has found them. Those that have changed
            since are left out. None: no matter which.

    Raises:
        Unavailable: see `transact`.
    """
    conditions = [~Execution.sync] if only is None else [~Execution.sync, Execution.id.in_(list(only))]

    def write() -> list[Queued]:
        rows = lock_ended(context, status, function_id, most, *conditions)
        return _reopen([row for row in rows if only is None or row.updated_at == only[row.id]], reason)

    return transact(write)


def count_retriable(context: Context, status: str, function_id: str | None, most: int) -> int:
    """How many executions `retry_some` would find. It counts up to `most`.

    Raises:
        Unavailable: see `reading`.
    """
    found = scoped(context).executions().where(Execution.status == status, ~Execution.sync)
    if function_id is not None:
        found = found.where(Execution.function_id == function_id)
    with reading():
        return int(found.select(Execution.id).limit(most).count())


def _retriable(context: Context, execution_id: str, *, lock: bool = False) -> Execution:
    row = find(scoped(context, by_id=True).executions(), execution_id, lock=lock)
    check_owner(context, row, "retry")
    if row.sync:
        raise Conflict(f"Execution {execution_id} was synchronous, and such executions are not retried.")
    if row.status not in RETRIED:
        raise Conflict(f"Execution {execution_id} can't be retried: its status is {row.status}.")
    return row


def _reopen(rows: Sequence[Execution], reason: str) -> list[Queued]:
    """Queue executions again that have ended.

    The numbers of their claims begin at a random value, so a process with an old claim can't change the row.
    """
    now = clock.to_micros(clock.wall())
    if not rows:
        return []
    strays.delete([row.id for row in rows])
    Execution.update(
        status=ExecutionStatus.RUNNING.value, status_reason=reason, result=None, log=None, cold=None, queued_ms=None,
        run_ms=None, updated_at=clock.now(),
    ).where(Execution.id.in_([row.id for row in rows])).execute()  # fmt: skip
    QueuedExecution.insert_many(
        [
            (row.id, row.project_id, row.function_id, now, random.randrange(_MOST_FIRST_CLAIM), row.attempt, now)
            for row in rows
        ],
        fields=[
            QueuedExecution.id, QueuedExecution.project_id, QueuedExecution.function_id, QueuedExecution.not_before,
            QueuedExecution.claim, QueuedExecution.attempt, QueuedExecution.since,
        ],
    ).execute()  # fmt: skip
    execution_counters.count(ended=-len(rows))
    return [Queued(row.id, row.project_id, row.function_id, now) for row in rows]
