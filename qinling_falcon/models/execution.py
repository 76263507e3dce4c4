"""Executions: what the API does with them. They are written by `records`."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Iterator
from typing import Any

import peewee

from qinling_falcon.errors import Conflict
from qinling_falcon.models import execution_counters
from qinling_falcon.models.database import engine, reading, transact
from qinling_falcon.models.filters import Kind
from qinling_falcon.models.internal_tables import QueuedExecution
from qinling_falcon.models.listing import Column, ListParams, ListSpec, page
from qinling_falcon.models.rows import check_owner, find
from qinling_falcon.models.scope import WITHOUT_LOG, Context, scoped, system
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.models.tables import Execution

__all__ = [
    "LISTS",
    "Execution",
    "ExecutionStatus",
    "delete",
    "delete_ended",
    "get",
    "get_log",
    "listed",
    "lock_ended",
    "running",
    "running_since",
    "withdraw",
]  # fmt: skip

# While an asynchronous execution is queued or runs, the queue has its present attempt. Its row gets it at its end.
_QUEUED_ATTEMPT = QueuedExecution.select(QueuedExecution.attempt).where(QueuedExecution.id == Execution.id)
_ATTEMPT = peewee.Case(
    None,
    [
        (
            (Execution.status == ExecutionStatus.RUNNING.value) & ~Execution.sync,
            peewee.fn.COALESCE(_QUEUED_ATTEMPT, Execution.attempt),
        )
    ],
    Execution.attempt,
)
_SHOWN = [_ATTEMPT.alias("attempt") if field is Execution.attempt else field for field in WITHOUT_LOG]

LISTS = ListSpec(
    Execution,
    filters={
        "id": Column(Execution.id, Kind.TEXT),
        "function_id": Column(Execution.function_id, Kind.TEXT),
        "function_version": Column(Execution.function_version, Kind.INTEGER),
        "function_alias": Column(Execution.function_alias, Kind.TEXT),
        "description": Column(Execution.description, Kind.TEXT),
        "input": Column(Execution.input, Kind.TEXT),
        "result": Column(Execution.result, Kind.TEXT),
        "status": Column(Execution.status, Kind.TEXT, frozenset(status.value for status in ExecutionStatus)),
        "status_reason": Column(Execution.status_reason, Kind.TEXT),
        "sync": Column(Execution.sync, Kind.BOOLEAN),
        "source": Column(Execution.source, Kind.TEXT),
        "attempt": Column(Execution.attempt, Kind.INTEGER, compared=_ATTEMPT),
        "webhook_id": Column(Execution.webhook_id, Kind.TEXT),
        "job_id": Column(Execution.job_id, Kind.TEXT),
        "request_id": Column(Execution.request_id, Kind.TEXT),
        "cold": Column(Execution.cold, Kind.TEXT),
        "queued_ms": Column(Execution.queued_ms, Kind.NUMBER),
        "run_ms": Column(Execution.run_ms, Kind.NUMBER),
        "project_id": Column(Execution.project_id, Kind.TEXT),
        "created_at": Column(Execution.created_at, Kind.TIME),
        "updated_at": Column(Execution.updated_at, Kind.TIME),
    },
    sort_keys={
        "created_at": Execution.created_at,
        "updated_at": Execution.updated_at,
        "status": Execution.status,
    },
    merged=("project_id", "function_id", "created_at", "status"),
    # A function's executions are its project's, so one look finds it, and keeps other projects' out.
    grouped={"function_id": Execution.project_id},
    has_timed_ids=True,
)


def get(context: Context, execution_id: str) -> Execution:
    """An execution that the caller may see, without its log. `attempt` is the present one.

    Raises:
        NotFound: unknown, or not the caller's.
    """
    return find(scoped(context, by_id=True).executions().select(*_SHOWN), execution_id)


def listed(context: Context, *, all_projects: bool = False) -> peewee.ModelSelect[Execution]:
    """The executions that the caller may list, as `get` shows them; see `scoped`."""
    return scoped(context, all_projects=all_projects).executions().select(*_SHOWN)


def get_log(context: Context, execution_id: str) -> str:
    """The log of an execution that the caller may see; empty while it runs.

    Raises:
        NotFound: as `get`.
    """
    select = scoped(context, by_id=True).executions().select(Execution.id, Execution.log)
    return find(select, execution_id).log or ""


def delete(context: Context, execution_id: str) -> None:
    """Delete the record of an execution that has ended.

    Raises:
        NotFound: as `get`.
        Forbidden: it is another project's, and the caller an admin.
        Conflict: it is running: it has to be cancelled first.
    """

    def write() -> None:
        execution = find(scoped(context, by_id=True).executions(), execution_id, lock=True)
        check_owner(context, execution, "delete")
        if execution.status == ExecutionStatus.RUNNING:
            raise Conflict(f"Execution {execution_id} is running.")
        Execution.delete().where(Execution.id == execution_id).execute()
        execution_counters.count(deleted=int(not execution.sync))

    transact(write)


def delete_ended(context: Context, status: str, function_id: str | None, most: int) -> list[str]:
    """Delete some of a project's executions that have ended with a status; durable on return.

    Args:
        context: the caller.
        status: a final one.
        function_id: only those of this function; None: those of all functions.
        most: how many, at most.

    Returns:
        Their ids.

    Raises:
        Unavailable: see `transact`.
    """

    def write() -> list[str]:
        rows = list(lock_ended(context, status, function_id, most))
        ids = [row.id for row in rows]
        if ids:
            Execution.delete().where(Execution.id.in_(ids)).execute()
            execution_counters.count(deleted=sum(not row.sync for row in rows))
        return ids

    return transact(write)


def select_ended(
    context: Context, status: str, function_id: str | None, most: int, *conditions: Any
) -> peewee.ModelSelect[Execution]:
    """The project's executions that have ended with a status, the oldest first.

    The rows have no inputs and results, because many can be large.

    Args:
        context: the caller.
        status: a final one.
        function_id: only those of this function; None: those of all functions.
        most: how many, at most.
        conditions: further ones.
    """
    select = scoped(context).executions().select(
        Execution.id,
        Execution.project_id,
        Execution.function_id,
        Execution.sync,
        Execution.attempt,
        Execution.updated_at,
    )
    select = select.where(Execution.status == status, *conditions)
    if function_id is not None:
        select = select.where(Execution.function_id == function_id)
    return select.order_by(Execution.created_at, Execution.id).limit(most)


def lock_ended(
    context: Context, status: str, function_id: str | None, most: int, *conditions: Any
) -> peewee.ModelSelect[Execution]:
    """As `select_ended`, inside a write transaction. Rows that another process changes now are left out."""
    select = select_ended(context, status, function_id, most, *conditions)
    # SQLite has one writer at a time, and no such clause.
    return select if not engine().for_update else select.for_update(skip_locked=True)


def withdraw(execution_id: str) -> None:
    """Delete the row of an execution that was begun and has not run, if it is still `running`.

    Raises:
        Unavailable: the database is away.
    """
    transact(
        lambda: Execution.delete()
        .where(Execution.id == execution_id, Execution.status == ExecutionStatus.RUNNING)
        .execute()
    )


def running(ids: Collection[str]) -> set[str]:
    """Those of these executions (at most some hundreds), of any project, that have a row and have not ended.

    Raises:
        Unavailable: see `reading`.
    """
    with reading():
        select = system("waited-for executions of all projects are looked at").executions().select(Execution.id)
        select = select.where(Execution.id.in_(ids), Execution.status == ExecutionStatus.RUNNING)
        return {row.id for row in select}


def running_since(before: datetime.datetime) -> Iterator[Execution]:
    """Synchronous executions of all projects that began before a time and have not ended, the oldest first."""
    select = system("lost executions of all projects are looked for").executions()
    running = [("status", ExecutionStatus.RUNNING.value)]
    select = select.where(Execution.created_at < before, Execution.sync)
    return page(select, LISTS, ListParams(limit=None, filters=running)).rows
