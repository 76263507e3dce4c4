"""Adds the queue of asynchronous executions, retries of functions, and what executions tell of their origin."""

from typing import Any

from peewee import PostgresqlDatabase


def up(migrator: Any, db: Any) -> None:
    """Add the table and the columns. Existing executions were started once, and existing functions retry nothing."""
    collation = ' COLLATE "C"' if isinstance(db, PostgresqlDatabase) else ""
    # No further index: claims change these rows often, and sweeps read them in the order of the id.
    db.execute_sql(
        f"CREATE TABLE execution_queue (id VARCHAR(36){collation} NOT NULL PRIMARY KEY,"
        f" project_id VARCHAR(255){collation} NOT NULL, not_before BIGINT NOT NULL,"
        " claimed_until BIGINT NOT NULL DEFAULT 0, claim INTEGER NOT NULL DEFAULT 0,"
        " attempt INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0)"
    )
    db.execute_sql("ALTER TABLE executions ADD COLUMN attempt INTEGER NOT NULL DEFAULT 1")
    for column in ("webhook_id VARCHAR(36)", "job_id VARCHAR(36)", "request_id VARCHAR(255)"):
        db.execute_sql(f"ALTER TABLE executions ADD COLUMN {column}")
    db.execute_sql("ALTER TABLE functions ADD COLUMN max_attempts INTEGER NOT NULL DEFAULT 1")
    db.execute_sql("ALTER TABLE functions ADD COLUMN backoff_s DOUBLE PRECISION NOT NULL DEFAULT 1")
    db.execute_sql("ALTER TABLE functions ADD COLUMN max_age_s INTEGER")
