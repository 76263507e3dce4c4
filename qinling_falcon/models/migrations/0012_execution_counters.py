"""Adds the counters of asynchronous executions, and since when a retried execution is queued.

Executions that were accepted before are counted as they are now.
"""

from typing import Any

# As in `execution_counters`.
_SHARDS = 16


def up(migrator: Any, db: Any) -> None:
    """Add the column, the table and its rows."""
    db.execute_sql("ALTER TABLE execution_queue ADD COLUMN since BIGINT NOT NULL DEFAULT 0")
    db.execute_sql(
        "CREATE TABLE execution_counters (shard INTEGER NOT NULL PRIMARY KEY, accepted BIGINT NOT NULL DEFAULT 0,"
        " ended BIGINT NOT NULL DEFAULT 0, deleted BIGINT NOT NULL DEFAULT 0)"
    )
    for shard in range(_SHARDS):
        db.execute_sql(f"INSERT INTO execution_counters (shard) VALUES ({shard})")
    db.execute_sql(
        "UPDATE execution_counters SET accepted = (SELECT COUNT(*) FROM executions WHERE NOT sync),"
        " ended = (SELECT COUNT(*) FROM executions WHERE NOT sync AND status <> 'running') WHERE shard = 0"
    )
