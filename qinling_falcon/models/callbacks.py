"""The queue of callbacks: add, claim, finish, postpone.

A callback has a row from the end of its execution until it is delivered or dropped. The row is added in the transaction
that ends the execution. There are three cases when a process dies:

1. After the end of the execution: the row is there, and any process can claim it.
2. After `claim`: the claim ends at `claimed_until`, and the next claim has the next number.
3. After the request was answered and before `finish`: the same. So a callback may be delivered twice, with one id.

Only the latest claim of a callback can change it: each change names the number of its claim, the attempt.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import NamedTuple

from qinling_falcon.models import clock, execution_counters
from qinling_falcon.models.callback_rows import insert_sql, wants_callback
from qinling_falcon.models.database import engine, placeholders, reading, transact
from qinling_falcon.models.internal_tables import Callback
from qinling_falcon.models.scope import system
from qinling_falcon.models.tables import Execution, Function

_TABLE = Callback._meta.table_name


class ClaimedCallback(NamedTuple):
    """A callback that this process has claimed.

    Attributes:
        id: the id of the request, the same for all attempts.
        attempt: the number of the claim, from 1.
    """

    id: str
    execution_id: str
    project_id: str
    function_id: str
    url: str
    event: str
    attempt: int


class Subject(NamedTuple):
    """What a callback tells, and how it is signed.

    Attributes:
        execution: the execution, without its log; None: it was deleted.
        has_function: whether its function is there.
        secret: the function's secret, encrypted; None: requests are not signed.
    """

    execution: Execution | None
    has_function: bool
    secret: str | None


def add(execution_ids: Sequence[str]) -> None:
    """Add the callbacks of executions that have just ended; on the writer's connection, in the caller's transaction.

    Nothing is added for an execution that is synchronous, is cancelled, or whose function has no URL for the outcome.
    With SQLite this does nothing, because triggers have added the callbacks (see `sqlite_triggers`).

    Args:
        execution_ids: the executions, at most some hundreds.
    """
    database = engine()
    if database.complete_statements or not execution_ids:
        return
    marks = placeholders(execution_ids)
    source = f"{Execution._meta.table_name} e JOIN {Function._meta.table_name} f ON f.id = e.function_id"
    sql = insert_sql("e", source, f"e.id IN ({marks}) AND {wants_callback('e')}", "LEAST({}, %s)")
    database.execute_sql(sql, (clock.to_micros(clock.wall()), *execution_ids))


def has_due(now: datetime.datetime) -> bool:
    """Whether a callback is due and not claimed.

    Raises:
        Unavailable: see `reading`.
    """
    micros = clock.to_micros(now)
    with reading():
        database = engine()
        due = database.execute_sql(f"SELECT 1 FROM {_TABLE} WHERE {_due(database.param)} LIMIT 1", (micros, micros))
        return due.fetchone() is not None


def next_project(after: str, now: datetime.datetime) -> str | None:
    """The first project after `after` with a callback that is due and not claimed; None: no project has one.

    Raises:
        Unavailable: see `reading`.
    """
    micros = clock.to_micros(now)
    with reading():
        database = engine()
        row = database.execute_sql(
            f"SELECT project_id FROM {_TABLE} WHERE project_id > {database.param} AND {_due(database.param)}"
            " ORDER BY project_id LIMIT 1",
            (after, micros, micros),
        ).fetchone()
    return None if row is None else row[0]


def claim(project_id: str, now: datetime.datetime, until: datetime.datetime, most: int) -> list[ClaimedCallback]:
    """Claim due callbacks of a project; durable on return.

    Args:
        project_id: the project.
        now: the present.
        until: when the claim ends.
        most: how many at most.

    Returns:
        The claimed callbacks, those that have been due for longest first.

    Raises:
        Unavailable: see `transact`.
    """
    return transact(lambda: _claim(project_id, clock.to_micros(now), clock.to_micros(until), most))


def finish(callback_id: str, attempt: int, *, is_delivered: bool) -> bool:
    """Delete and count a claimed callback, which was delivered or is dropped; durable on return.

    Args:
        callback_id: the callback.
        attempt: the number of the claim.
        is_delivered: whether it was delivered.

    Returns:
        Whether it was deleted now; False: it was claimed anew, or is gone.

    Raises:
        Unavailable: see `transact`. It is safe to call again.
    """

    def write() -> bool:
        deleted = Callback.delete().where(Callback.id == callback_id, Callback.attempt == attempt).execute()
        if deleted:
            execution_counters.count_callback("delivered" if is_delivered else "dropped")
        return bool(deleted)

    return transact(write)


def postpone(callback_id: str, attempt: int, not_before: datetime.datetime) -> bool:
    """Give up the claim of a callback whose attempt has failed, and count the failure; durable on return.

    Args:
        callback_id: the callback.
        attempt: the number of the claim.
        not_before: when the next attempt may start.

    Returns:
        Whether it is queued now; False: it was claimed anew, or is gone.

    Raises:
        Unavailable: see `transact`.
    """

    def write() -> bool:
        changes = Callback.update(claimed_until=0, not_before=clock.to_micros(not_before))
        changed = changes.where(Callback.id == callback_id, Callback.attempt == attempt).execute()
        if changed:
            execution_counters.count_callback("retried")
        return bool(changed)

    return transact(write)


def subject(callback: ClaimedCallback) -> Subject:
    """Read the execution and the function of a callback, as they are now.

    Raises:
        Unavailable: see `reading`.
    """
    scope = system("callbacks of all projects are delivered, and an admin's executions run functions of other projects")
    with reading():
        execution = scope.executions().where(Execution.id == callback.execution_id).first()
        functions = scope.functions().where(Function.id == callback.function_id)
        function = functions.select(Function.id, Function.callback_secret).first()
    return Subject(execution, function is not None, function and function.callback_secret)


def _due(param: str) -> str:
    return f"not_before <= {param} AND claimed_until <= {param}"


def _claim(project_id: str, now: int, until: int, most: int) -> list[ClaimedCallback]:
    database = engine()
    lock = "" if database.complete_statements else " FOR UPDATE SKIP LOCKED"
    found = database.execute_sql(
        f"SELECT {', '.join(ClaimedCallback._fields)} FROM {_TABLE}"
        f" WHERE project_id = {database.param} AND {_due(database.param)}"
        f" ORDER BY not_before LIMIT {int(most)}{lock}",
        (project_id, now, now),
    ).fetchall()
    if found:
        marks = placeholders(found)
        database.execute_sql(
            f"UPDATE {_TABLE} SET attempt = attempt + 1, claimed_until = {database.param} WHERE id IN ({marks})",
            (until, *(row[0] for row in found)),
        )
    return [ClaimedCallback(*row)._replace(attempt=row[-1] + 1) for row in found]
