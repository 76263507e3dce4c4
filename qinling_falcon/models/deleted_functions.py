"""Cancels the queued executions of deleted functions, a batch at a time.

The transaction that deletes a function adds a row to `deleted_functions`, so the executions are cancelled also if the
process dies after that. The row goes when the function has no execution in the queue any more. Executions that run
when the function is deleted run to their end; one that is queued again after a failed attempt is cancelled then.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from qinling_falcon.models import clock, execution_counters
from qinling_falcon.models.database import engine, reading, transact
from qinling_falcon.models.internal_tables import DeletedFunction, QueuedExecution
from qinling_falcon.models.tables import Execution, Function

_QUEUED = (
    f"FROM {Execution._meta.table_name} e JOIN {QueuedExecution._meta.table_name} q ON q.id = e.id"
    " WHERE e.function_id = {0} AND e.project_id = {0} AND e.status = 'running'"
)


class Deleted(NamedTuple):
    """A deleted function that may have queued executions."""

    id: str
    project_id: str


def note(function: Function) -> None:
    """Note that a function is deleted, in the transaction that deletes it."""
    DeletedFunction.insert(id=function.id, project_id=function.project_id).execute()


def page(after: str, most: int) -> list[Deleted]:
    """Deleted functions that may have queued executions, in the order of their ids.

    Args:
        after: the last id that was looked at before; '' for the first page.
        most: how many, at most.

    Raises:
        Unavailable: see `reading`.
    """
    with reading():
        rows = DeletedFunction.select().where(DeletedFunction.id > after).order_by(DeletedFunction.id).limit(most)
        return [Deleted(row.id, row.project_id) for row in rows]


def has_work(function: Deleted) -> bool:
    """Whether `cancel_queued` or `forget` has something to do for a deleted function.

    While each of its executions in the queue is claimed, neither has.

    Raises:
        Unavailable: see `reading`.
    """
    with reading():
        database = engine()
        queued = f"SELECT 1 {_QUEUED.format(database.param)}"
        given = (function.id, function.project_id)
        if database.execute_sql(f"{queued} LIMIT 1", given).fetchone() is None:
            return True
        unclaimed = f"{queued} AND q.claimed_until <= {database.param} LIMIT 1"
        return database.execute_sql(unclaimed, (*given, clock.to_micros(clock.wall()))).fetchone() is not None


def cancel_queued(function: Deleted, most: int) -> list[str]:
    """Cancel executions of a deleted function that no process has claimed; durable on return.

    Args:
        function: the function.
        most: how many, at most.

    Returns:
        The executions that were cancelled. If they are fewer than `most`, all others are claimed or locked now.

    Raises:
        Unavailable: see `transact`.
    """
    return transact(lambda: _cancel_queued(function, most))


def forget(function: Deleted) -> bool:
    """Forget a deleted function if it has no execution in the queue. Returns whether it had none.

    Raises:
        Unavailable: see `transact`.
    """

    def write() -> bool:
        database = engine()
        sql = f"SELECT 1 {_QUEUED.format(database.param)} LIMIT 1"
        if database.execute_sql(sql, (function.id, function.project_id)).fetchone() is not None:
            return False
        DeletedFunction.delete().where(DeletedFunction.id == function.id).execute()
        return True

    return transact(write)


def _cancel_queued(function: Deleted, most: int) -> list[str]:
    database = engine()
    now = clock.wall()
    lock = "" if database.complete_statements else " FOR UPDATE OF q SKIP LOCKED"
    found = database.execute_sql(
        f"SELECT e.id {_QUEUED.format(database.param)} AND q.claimed_until <= {database.param}"
        f" ORDER BY e.created_at, e.id LIMIT {int(most)}{lock}",
        (function.id, function.project_id, clock.to_micros(now)),
    ).fetchall()
    ids = [execution_id for (execution_id,) in found]
    if ids:
        _cancel(ids, f"Function {function.id} not found: it was deleted while the execution was queued.")
    return ids


def _cancel(ids: Collection[str], reason: str) -> None:
    """Cancel queued executions, whose rows in the queue are locked. The function has no counts any more."""
    attempt = QueuedExecution.select(QueuedExecution.attempt).where(QueuedExecution.id == Execution.id)
    ended = (
        Execution.update(
            status="cancelled", status_reason=reason, result=None, log="", updated_at=clock.now(), attempt=attempt
        )
        .where(Execution.id.in_(ids), Execution.status == "running")
        .execute()
    )
    # In SQLite triggers have done both.
    QueuedExecution.delete().where(QueuedExecution.id.in_(ids)).execute()
    execution_counters.count(ended=ended)
