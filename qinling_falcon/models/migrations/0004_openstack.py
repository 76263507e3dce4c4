"""Trusts of functions, those that are to be deleted, and what a copy from Swift is a copy of."""

from typing import Any


def up(migrator: Any, db: Any) -> None:
    """Add them, empty."""
    db.execute_sql("ALTER TABLE functions ADD COLUMN source_etag VARCHAR(255)")
    db.execute_sql("ALTER TABLE functions ADD COLUMN trust_id VARCHAR(64)")
    db.execute_sql("ALTER TABLE function_versions ADD COLUMN trust_id VARCHAR(64)")
    db.execute_sql("CREATE TABLE doomed_trusts (id VARCHAR(64) NOT NULL PRIMARY KEY, created_at BIGINT NOT NULL)")
    for table in ("functions", "function_versions"):
        db.execute_sql(f"CREATE INDEX {table}_trust_id ON {table} (trust_id)")
