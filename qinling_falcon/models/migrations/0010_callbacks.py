"""Adds callbacks of functions: their URLs and secrets, the queue of deliveries, and the depth of executions."""

from typing import Any

from peewee import PostgresqlDatabase


def up(migrator: Any, db: Any) -> None:
    """Add the table and the columns. Existing functions have no callbacks."""
    collation = ' COLLATE "C"' if isinstance(db, PostgresqlDatabase) else ""
    db.execute_sql(
        f"CREATE TABLE callbacks (id VARCHAR(64){collation} NOT NULL PRIMARY KEY,"
        f" execution_id VARCHAR(36){collation} NOT NULL UNIQUE,"
        f" project_id VARCHAR(255){collation} NOT NULL, function_id VARCHAR(36){collation} NOT NULL,"
        f" url TEXT{collation} NOT NULL, event VARCHAR(32){collation} NOT NULL, not_before BIGINT NOT NULL,"
        " claimed_until BIGINT NOT NULL DEFAULT 0, attempt INTEGER NOT NULL DEFAULT 0, created_at BIGINT NOT NULL)"
    )
    db.execute_sql("CREATE INDEX callbacks_not_before ON callbacks (not_before)")
    db.execute_sql("CREATE INDEX callbacks_project_id_not_before ON callbacks (project_id, not_before)")
    for column in ("on_success", "on_failure", "callback_secret"):
        db.execute_sql(f"ALTER TABLE functions ADD COLUMN {column} TEXT{collation}")
    # The fingerprints of the keys that encrypted the secrets (see models/secret_keys.py).
    db.execute_sql(
        "CREATE INDEX functions_callback_secret ON functions (substr(callback_secret, 1, 16))"
        " WHERE callback_secret IS NOT NULL"
    )
    db.execute_sql("ALTER TABLE executions ADD COLUMN callback_depth INTEGER")
