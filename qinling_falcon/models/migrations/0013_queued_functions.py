"""Adds the function to the rows of the queue of asynchronous executions, so that functions are served in turn."""

from typing import Any

from peewee import PostgresqlDatabase


def up(migrator: Any, db: Any) -> None:
    """Add the column. A process of the last release leaves it empty, so its executions are served as one function's."""
    collation = ' COLLATE "C"' if isinstance(db, PostgresqlDatabase) else ""
    db.execute_sql(f"ALTER TABLE execution_queue ADD COLUMN function_id VARCHAR(36){collation} NOT NULL DEFAULT ''")
    db.execute_sql(
        "UPDATE execution_queue SET function_id = COALESCE("
        "(SELECT e.function_id FROM executions e WHERE e.id = execution_queue.id), '')"
    )
