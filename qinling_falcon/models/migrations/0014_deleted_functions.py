"""Adds deleted functions, whose queued executions are to be cancelled, due times, and counters of callbacks."""

from typing import Any

from peewee import PostgresqlDatabase


def up(migrator: Any, db: Any) -> None:
    """Add the table and the columns. Callbacks are counted from now on."""
    collation = ' COLLATE "C"' if isinstance(db, PostgresqlDatabase) else ""
    db.execute_sql(
        f"CREATE TABLE deleted_functions (id VARCHAR(36){collation} NOT NULL PRIMARY KEY,"
        f" project_id VARCHAR(255){collation} NOT NULL)"
    )
    db.execute_sql("ALTER TABLE execution_queue ADD COLUMN due_at BIGINT NOT NULL DEFAULT 0")
    for column in ("callbacks_delivered", "callbacks_retried", "callbacks_dropped"):
        db.execute_sql(f"ALTER TABLE execution_counters ADD COLUMN {column} BIGINT NOT NULL DEFAULT 0")
