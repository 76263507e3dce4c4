"""Adds the isolation of runtimes, functions and versions."""

from typing import Any

from peewee import PostgresqlDatabase


def up(migrator: Any, db: Any) -> None:
    """Add the columns. Existing runtimes are warm; functions and versions are as their runtimes are."""
    kind = "VARCHAR(32)" + (' COLLATE "C"' if isinstance(db, PostgresqlDatabase) else "")
    db.execute_sql(f"ALTER TABLE runtimes ADD COLUMN isolation {kind} NOT NULL DEFAULT 'warm'")
    for table in ("functions", "function_versions"):
        db.execute_sql(f"ALTER TABLE {table} ADD COLUMN isolation {kind}")
