"""Adds the idempotency keys of executions."""

from typing import Any

from peewee import PostgresqlDatabase


def up(migrator: Any, db: Any) -> None:
    """Add the table, and the index by which expired keys are found."""
    collation = ' COLLATE "C"' if isinstance(db, PostgresqlDatabase) else ""
    db.execute_sql(
        f"CREATE TABLE idempotency_keys (project_id VARCHAR(255){collation} NOT NULL,"
        f" idempotency_key VARCHAR(255){collation} NOT NULL, digest VARCHAR(64){collation} NOT NULL,"
        f" execution_id VARCHAR(36){collation} NOT NULL, claimed_until BIGINT NOT NULL DEFAULT 0,"
        " expires_at BIGINT NOT NULL, PRIMARY KEY (project_id, idempotency_key))"
    )
    db.execute_sql("CREATE INDEX idempotency_keys_expires_at ON idempotency_keys (expires_at)")
