"""The ends of claimed executions: many in one statement, and only those of the latest claim.

If the process dies after `end`, the execution has ended, and its row in the queue is gone.
"""

from __future__ import annotations

import functools
from collections import Counter

from qinling_falcon.models import callbacks, execution_counters
from qinling_falcon.models.database import engine, placeholders, transact_grouped
from qinling_falcon.models.internal_tables import QueuedExecution
from qinling_falcon.models.records import PLACE, ExecutionRecord, Values, add_to_counts, values_of
from qinling_falcon.models.tables import Execution

_EXECUTIONS = Execution._meta.table_name
_QUEUE = QueuedExecution._meta.table_name
_ID, _FUNCTION, _VERSION = (PLACE[name] for name in ("id", "function_id", "function_version"))
_SHOWN = tuple(PLACE[name] for name in ("status", "attempt", "updated_at"))
# What the end of an execution writes, with the type of those columns that are no text. Without a type, PostgreSQL takes
# a list of values in which all are null for text.
_ENDING = (
    ("result", None), ("log", None), ("status", None), ("status_reason", None), ("cold", None),
    ("queued_ms", "DOUBLE PRECISION"), ("run_ms", "DOUBLE PRECISION"), ("updated_at", "BIGINT"),
    ("attempt", "INTEGER"),
)  # fmt: skip
_ENDING_PLACES = (_ID, *(PLACE[name] for name, _ in _ENDING), -1)  # the number of the claim follows the columns


def end(record: ExecutionRecord, claim: int) -> bool:
    """Write the end of a claimed execution; durable on return. The first final state wins.

    Args:
        record: the final record.
        claim: the number of the claim.

    Returns:
        Whether the execution ended with this record; False: it had ended before, was claimed anew, or is gone.

    Raises:
        Unavailable: see `transact`. It is safe to call again.
    """
    won: bool = transact_grouped((*values_of(record), claim), _end)
    return won


def _end(records: list[Values]) -> list[bool]:
    """End the executions of a batch, on the writer's connection. In SQLite, triggers do what follows the UPDATE."""
    database = engine()
    if not database.complete_statements:
        # Without this lock, PostgreSQL would compare with the last committed claim while another process commits the
        # next one. The end of an expired claim would then win, although the execution runs again.
        marks = placeholders(records)
        ids = [values[_ID] for values in records]
        database.execute_sql(f"SELECT id FROM {_QUEUE} WHERE id IN ({marks}) ORDER BY id FOR UPDATE", ids)
    values = [values[place] for values in records for place in _ENDING_PLACES]
    if database.complete_statements:
        written = database.execute_sql(_end_sql(database.param, len(records)), values).rowcount
        return [True] * len(records) if written == len(records) else _won(records)
    sql = f"{_end_sql(database.param, len(records))} RETURNING {_EXECUTIONS}.id"
    ended_ids = {execution_id for (execution_id,) in database.execute_sql(sql, values).fetchall()}
    won = [True] * len(records) if len(ended_ids) == len(records) else _won(records)
    if ended_ids:
        ended = {values[_ID]: (values[_FUNCTION], values[_VERSION]) for values in records if values[_ID] in ended_ids}
        marks = placeholders(ended)
        database.execute_sql(f"DELETE FROM {_QUEUE} WHERE id IN ({marks})", list(ended))
        execution_counters.count(ended=len(ended))  # before the counts of functions, as others do; or both may deadlock
        add_to_counts(Counter(ended.values()))
        callbacks.add(list(ended))
    return won


def _won(records: list[Values]) -> list[bool]:
    """Which records the rows show. Two ends of one execution differ in their time, if in nothing else."""
    database = engine()
    marks = placeholders(records)
    rows = database.execute_sql(
        f"SELECT id, status, attempt, updated_at FROM {_EXECUTIONS} WHERE id IN ({marks})",
        [values[_ID] for values in records],
    )
    shown = {execution_id: columns for execution_id, *columns in rows.fetchall()}
    return [shown.get(values[_ID]) == [values[place] for place in _SHOWN] for values in records]


@functools.cache
def _end_sql(param: str, rows: int) -> str:
    """The statement that ends so many executions. Its values are those at `_ENDING_PLACES`, row by row.

    It begins with UPDATE, because Python's driver of SQLite counts no rows of a statement that begins with WITH. Both
    databases name the columns of a list of values `column1` and so on.
    """
    row = f"({', '.join([param] * len(_ENDING_PLACES))})"
    values = [f"ended.column{number + 1}" for number in range(len(_ENDING_PLACES))]
    ended_id, *ending, claim = values
    changes = ", ".join(
        f"{name} = {value if kind is None else f'CAST({value} AS {kind})'}"
        for (name, kind), value in zip(_ENDING, ending, strict=True)
    )
    return (
        f"UPDATE {_EXECUTIONS} SET {changes} FROM (VALUES {', '.join([row] * rows)}) AS ended, {_QUEUE} q"
        f" WHERE {_EXECUTIONS}.id = {ended_id} AND {_EXECUTIONS}.status = 'running'"
        f" AND q.id = {ended_id} AND q.claim = CAST({claim} AS INTEGER)"
    )
