"""Cancels executions: first their row, which is final from then on, then the function that runs.

If this process dies after the row is written, the execution is cancelled, and its function runs on to its end. Its
result is not recorded.
"""

from __future__ import annotations

import contextlib
import json
import time

from qinling_falcon.errors import Conflict, Forbidden, NotFound, Unavailable
from qinling_falcon.invocation.calls import running_record
from qinling_falcon.models import clock, execution_queue
from qinling_falcon.models import execution as executions
from qinling_falcon.models.records import ExecutionRecord, record
from qinling_falcon.models.scope import Context
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.models.tables import Execution
from qinling_falcon.pool.pool import Pool

_REASON = "The execution was cancelled."
_OUTPUT = "Function execution was cancelled"
LONGEST_END_S = 10.0
"""How long `await_end` waits, in seconds."""
_LOOK_EVERY_S = 0.02


def find_live(pool: Pool, caller: Context, execution_id: str) -> ExecutionRecord | None:
    """A synchronous execution that runs and may have no row yet. None: unknown, or not visible to the caller.

    An asynchronous one has a row until it is deleted. The journal can have it for longer, if Redis was away.

    Raises:
        PoolUnavailable: Redis is away.
    """
    detail = pool.find(execution_id)
    if detail is None:
        return None
    live = running_record(detail)
    if not live.sync:
        return None
    return live if caller.is_admin or live.project_id == caller.project_id else None


def cancel(pool: Pool, caller: Context, execution_id: str) -> Execution:
    """Cancel an execution that is queued or runs; durable on return. Does nothing if it is cancelled already.

    Args:
        pool: finds and notifies the process that runs it.
        caller: the caller.
        execution_id: the execution.

    Returns:
        The cancelled execution.

    Raises:
        NotFound: unknown, or not the caller's.
        Forbidden: the caller is an admin, and the execution belongs to another project.
        Conflict: it has ended otherwise.
        Unavailable: the database is away; nothing was changed.
    """
    running = _find(pool, caller, execution_id)
    if running.project_id != caller.project_id:
        raise Forbidden(f"Operation not allowed: only the owner may cancel execution {execution_id}.")
    if running.status == ExecutionStatus.RUNNING:
        if isinstance(running, ExecutionRecord):  # it has no row yet
            record(_cancelled(running))
        else:
            execution_queue.cancel(running, _REASON, _result(running))
            pool.ready.drop(running.project_id, running.function_id, (execution_id,))
        with contextlib.suppress(Unavailable):  # the function then runs to its end, in vain
            pool.cancel(execution_id)
        pool.ended.notify((execution_id,))
    ended = executions.get(caller, execution_id)
    if ended.status != ExecutionStatus.CANCELLED:
        raise Conflict(f"Execution {execution_id} has ended: its status is {ended.status}.")
    return ended


def await_end(pool: Pool, execution_id: str) -> bool:
    """Wait until the process of a cancelled execution has ended its function and recorded it.

    The journal has the execution until then. A worker ends a function within 100 ms, unless its host is overloaded.

    Returns:
        Whether it has ended within `LONGEST_END_S`.

    Raises:
        PoolUnavailable: Redis is away.
    """
    until = time.monotonic() + LONGEST_END_S
    while pool.find(execution_id) is not None:
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True


def _find(pool: Pool, caller: Context, execution_id: str) -> Execution | ExecutionRecord:
    try:
        return executions.get(caller, execution_id)
    except NotFound:
        # It may end between the two looks: the row is written before the journal forgets the execution.
        live = find_live(pool, caller, execution_id)
        return live if live is not None else executions.get(caller, execution_id)


def _cancelled(running: ExecutionRecord) -> ExecutionRecord:
    return running._replace(
        status=ExecutionStatus.CANCELLED,
        status_reason=_REASON,
        result=_result(running),
        log="",
        updated_at=clock.now(),
    )


def _result(running: Execution | ExecutionRecord) -> str:
    duration = (clock.now() - running.created_at).total_seconds()
    return json.dumps({"duration": round(duration, 3), "output": _OUTPUT})
