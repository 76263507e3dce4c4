"""Adds to jobs what their firing needs: two policies, a time zone, the last execution, the input's size, an index."""

import time
from typing import Any

from peewee import PostgresqlDatabase


def up(migrator: Any, db: Any) -> None:
    """Add the columns. Jobs of the last release get the defaults: their times are UTC already.

    The last release fired no jobs. Those without a pattern whose time has gone by end here, without having fired: some
    are months old. Those with a pattern fire once, and go on. A `web` of the last release may still make jobs, whose
    size is 0 then: a tick counts their inputs as empty in shares and in the size of a batch.
    """
    collation = ' COLLATE "C"' if isinstance(db, PostgresqlDatabase) else ""
    for column in (
        f"misfire VARCHAR(16){collation} NOT NULL DEFAULT 'run_once'",
        f"overlap VARCHAR(16){collation} NOT NULL DEFAULT 'allow'",
        f"timezone VARCHAR(64){collation} NOT NULL DEFAULT 'UTC'",
        f"last_execution_id VARCHAR(36){collation}",
        "input_size INTEGER NOT NULL DEFAULT 0",
    ):
        db.execute_sql(f"ALTER TABLE jobs ADD COLUMN {column}")
    size = "OCTET_LENGTH(function_input)" if collation else "LENGTH(CAST(function_input AS BLOB))"
    db.execute_sql(f"UPDATE jobs SET input_size = {size} WHERE function_input IS NOT NULL")
    now = time.time_ns() // 1000
    overdue = f"status = 'running' AND pattern IS NULL AND next_execution_time < {now}"
    db.execute_sql(f"UPDATE jobs SET status = 'done' WHERE {overdue}")
    db.execute_sql("CREATE INDEX jobs_due ON jobs (status, next_execution_time, id)")
