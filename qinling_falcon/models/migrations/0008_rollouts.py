"""Adds the image to which a runtime returns when its rollout is aborted."""

from typing import Any

from peewee import PostgresqlDatabase


def up(migrator: Any, db: Any) -> None:
    """Add the column. A rollout that goes on just now has none, and can't be aborted."""
    collation = ' COLLATE "C"' if isinstance(db, PostgresqlDatabase) else ""
    db.execute_sql(f"ALTER TABLE runtimes ADD COLUMN fallback_image VARCHAR(255){collation}")
