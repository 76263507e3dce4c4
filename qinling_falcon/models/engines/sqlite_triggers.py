"""The triggers of SQLite that follow an execution: they change counts, the queue of executions, and callbacks.

So a record takes one statement: what the writer's thread does in Python costs more than SQLite's part. The triggers
belong to the writer's connection, so that no migration has to know of them. For PostgreSQL, `execution_queue`,
`execution_ends`, `records` and `callbacks` have statements that do the same.
"""

from __future__ import annotations

from qinling_falcon.models.callback_rows import insert_sql, wants_callback

_COUNTS = tuple(
    f"CREATE TEMP TRIGGER {table}_{name} {event} AND NEW.function_version {versions} BEGIN"
    f" UPDATE {table} SET count = count + 1 WHERE {row}; END"
    for name, event in (
        ("began", "AFTER INSERT ON main.executions WHEN NEW.status <> 'running'"),
        ("ended", "AFTER UPDATE ON main.executions WHEN OLD.status = 'running' AND NEW.status <> 'running'"),
    )
    for table, versions, row in (
        ("functions", "= 0", "id = NEW.function_id"),
        ("function_versions", "> 0", "function_id = NEW.function_id AND version_number = NEW.function_version"),
    )
)
_QUEUE = (
    "CREATE TEMP TRIGGER queue_accepted AFTER INSERT ON main.executions WHEN NEW.status = 'running' AND NOT NEW.sync"
    " BEGIN INSERT INTO execution_queue (id, project_id, function_id, not_before)"
    " VALUES (NEW.id, NEW.project_id, NEW.function_id, NEW.created_at);"
    " UPDATE execution_counters SET accepted = accepted + 1 WHERE shard = {shard}; END",
    "CREATE TEMP TRIGGER queue_ended AFTER UPDATE ON main.executions"
    " WHEN OLD.status = 'running' AND NEW.status <> 'running' AND NOT NEW.sync"
    " BEGIN DELETE FROM execution_queue WHERE id = NEW.id;"
    " UPDATE execution_counters SET ended = ended + 1 WHERE shard = {shard}; END",
    "CREATE TEMP TRIGGER count_reopened AFTER UPDATE ON main.executions"
    " WHEN OLD.status <> 'running' AND NEW.status = 'running' AND NOT NEW.sync"
    " BEGIN UPDATE execution_counters SET ended = ended - 1 WHERE shard = {shard}; END",
    "CREATE TEMP TRIGGER count_deleted AFTER DELETE ON main.executions WHEN OLD.status <> 'running' AND NOT OLD.sync"
    " BEGIN UPDATE execution_counters SET deleted = deleted + 1 WHERE shard = {shard}; END",
)
# The machine's clock, in microseconds since the epoch; exact to a millisecond.
_PRESENT = "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"
_CALLBACKS = tuple(
    f"CREATE TEMP TRIGGER callback_{name} {event} AND {wants_callback('NEW')} BEGIN"
    f" {insert_sql('NEW', 'functions f', 'f.id = NEW.function_id', f'MIN({{}}, {_PRESENT})')}; END"
    for name, event in (
        ("began", "AFTER INSERT ON main.executions WHEN NEW.status <> 'running'"),
        ("ended", "AFTER UPDATE ON main.executions WHEN OLD.status = 'running'"),
    )
)

STATEMENTS = (*_COUNTS, *_QUEUE, *_CALLBACKS)
"""Make the triggers. `{shard}` stands for the process's row of `execution_counters`."""
