"""Deletes rows of the queue whose execution has ended or is gone.

No transaction of this release leaves such a row. A pool manager of an earlier release can leave one on PostgreSQL, and
so can a change by hand. No claim would ever take the row, and the sweep would add it to the ready sets for ever.
"""

from __future__ import annotations

from collections.abc import Collection

from qinling_falcon.models import execution_counters
from qinling_falcon.models.database import engine, placeholders
from qinling_falcon.models.internal_tables import QueuedExecution
from qinling_falcon.models.tables import Execution

_QUEUE = QueuedExecution._meta.table_name
_EXECUTIONS = Execution._meta.table_name


def delete(ids: Collection[str]) -> int:
    """Delete those rows of the queue whose execution does not run, inside a write transaction.

    Args:
        ids: the executions, at most some hundreds.

    Returns:
        How many rows were deleted.
    """
    if not ids:
        return 0
    database = engine()
    marks = placeholders(ids)
    lock = "" if database.complete_statements else " FOR UPDATE OF q SKIP LOCKED"
    found = database.execute_sql(
        f"SELECT q.id, e.id FROM {_QUEUE} q LEFT JOIN {_EXECUTIONS} e ON e.id = q.id WHERE q.id IN ({marks})"
        f" AND (e.id IS NULL OR e.status <> 'running') ORDER BY q.id{lock}",
        tuple(ids),
    ).fetchall()
    if found:
        marks = placeholders(found)
        database.execute_sql(f"DELETE FROM {_QUEUE} WHERE id IN ({marks})", [queued_id for queued_id, _ in found])
        gone = sum(execution_id is None for _, execution_id in found)
        execution_counters.count_strays(len(found), gone)
    return len(found)
