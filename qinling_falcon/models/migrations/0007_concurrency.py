"""Adds the concurrency of functions and versions, and how many workers are kept for them."""

from typing import Any


def up(migrator: Any, db: Any) -> None:
    """Add the columns. Existing functions and versions have no limit of their own, and no workers are kept for them."""
    for table in ("functions", "function_versions"):
        db.execute_sql(f"ALTER TABLE {table} ADD COLUMN concurrency INTEGER")
        db.execute_sql(f"ALTER TABLE {table} ADD COLUMN min_warm INTEGER NOT NULL DEFAULT 0")
        # A handful of rows, which the pool manager reads every second or two.
        db.execute_sql(f"CREATE INDEX {table}_kept ON {table} (id) WHERE min_warm > 0")
