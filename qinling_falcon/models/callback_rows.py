"""The SQL statement that adds the callbacks of executions that have ended.

SQLite runs it in triggers (see `sqlite_triggers`), PostgreSQL for a batch of executions (see `callbacks.add`).
"""

from __future__ import annotations

SUCCESS, FAILURE = "execution.success", "execution.failure"
# The states of an execution that have no callback: a cancelled execution has ended because its owner wanted it to.
_SILENT = ("running", "cancelled")
# What a new callback of an execution replaces in the row of an earlier one.
_REPLACED = ("id", "url", "event", "not_before", "created_at")


def event_of(status: str) -> str | None:
    """The event of an execution that has ended with `status`; None: it goes on, or was cancelled."""
    return None if status in _SILENT else SUCCESS if status == "success" else FAILURE


def wants_callback(execution: str) -> str:
    """The SQL condition that an execution is asynchronous and has ended in a state that has a callback.

    Args:
        execution: the SQL name of a row of `executions`.
    """
    return f"{execution}.status NOT IN {_SILENT!r} AND NOT {execution}.sync"


def insert_sql(execution: str, source: str, condition: str, due: str) -> str:
    """The statement that adds callbacks. Executions whose function has no URL for the outcome get none.

    An execution that was queued again after its end ends once more. Then the new callback replaces the earlier one, if
    that was not delivered yet: the execution shows its last end only.

    Args:
        execution: the SQL name of a row of `executions`.
        source: the FROM clause without its first word. It has the function as `f`.
        condition: which rows of the source.
        due: the smaller of `{}`, which stands for the time of the end, and the present. The end can be in the future:
            if the machine's clock is set back, the process that has run the execution goes on from the time before.
    """
    succeeded = f"CASE {execution}.status WHEN 'success' THEN"
    url = f"{succeeded} f.on_success ELSE f.on_failure END"
    ended_at = f"COALESCE({execution}.updated_at, {execution}.created_at)"
    return (
        "INSERT INTO callbacks (id, execution_id, project_id, function_id, url, event, not_before, created_at)"
        f" SELECT {execution}.id || '-' || {ended_at}, {execution}.id, {execution}.project_id, f.id, {url},"
        f" {succeeded} '{SUCCESS}' ELSE '{FAILURE}' END, {due.format(ended_at)}, {ended_at}"
        f" FROM {source} WHERE {condition} AND {url} IS NOT NULL ON CONFLICT (execution_id) DO UPDATE SET"
        f" {', '.join(f'{name} = excluded.{name}' for name in _REPLACED)}, claimed_until = 0, attempt = 0"
    )
