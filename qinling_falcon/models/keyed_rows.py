"""Columns of idempotency keys, for both databases; and the view with which SQLite inserts a key and its execution.

SQLite inserts both in one statement, because a group of writes has no transaction around it there (see
`Engine.complete_statements`). The rows go into a view of the writer's connection, and a trigger writes them to their
tables. An execution is written only if its key is: the key was absent or has expired.
"""

from __future__ import annotations

import functools

from qinling_falcon.models.tables import Execution

_EXECUTION = tuple(field.column_name for field in Execution._meta.sorted_fields)
_KEY = ("idempotency_key", "digest", "expires_at")

COLUMNS = ("project_id", "idempotency_key", "digest", "execution_id", "claimed_until", "expires_at")
"""The columns of a key."""
OVERWRITE = (
    "ON CONFLICT (project_id, idempotency_key) DO UPDATE SET"
    f" {', '.join(f'{name} = excluded.{name}' for name in COLUMNS[2:])}"
)
"""The `ON CONFLICT` clause that overwrites a key. Append `WHERE …` with the condition."""

STATEMENTS = (
    f"CREATE TEMP VIEW keyed_executions AS SELECT {', '.join(f'NULL AS {name}' for name in (*_EXECUTION, *_KEY))}",
    "CREATE TEMP TRIGGER keyed_inserted INSTEAD OF INSERT ON keyed_executions BEGIN"
    f" INSERT INTO idempotency_keys ({', '.join(COLUMNS)})"
    " VALUES (NEW.project_id, NEW.idempotency_key, NEW.digest, NEW.id, 0, NEW.expires_at)"
    f" {OVERWRITE} WHERE idempotency_keys.expires_at <= NEW.created_at;"
    f" INSERT INTO executions ({', '.join(_EXECUTION)}) SELECT {', '.join(f'NEW.{name}' for name in _EXECUTION)}"
    " WHERE EXISTS (SELECT 1 FROM idempotency_keys WHERE project_id = NEW.project_id"
    " AND idempotency_key = NEW.idempotency_key AND execution_id = NEW.id)"
    # The statement is run again if the connection was lost after its commit.
    " AND NOT EXISTS (SELECT 1 FROM executions WHERE id = NEW.id); END",
)
"""Makes the view and its trigger, on the writer's connection."""


@functools.cache
def insert_sql(columns: tuple[str, ...], rows: int) -> str:
    """The statement that inserts so many rows.

    Args:
        columns: those of the execution, in the order of the values. The values of `idempotency_key`, `digest` and
            `expires_at` follow.
        rows: how many.
    """
    names = (*columns, *_KEY)
    row = f"({', '.join('?' * len(names))})"
    return f"INSERT INTO keyed_executions ({', '.join(names)}) VALUES {', '.join([row] * rows)}"
