"""Records executions whose lease was lost with their process or worker. The pool manager finds them."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from qinling_falcon.bounded import BoundedCache
from qinling_falcon.invocation.attempts import Attempts
from qinling_falcon.invocation.calls import PROCESS_LOST, failed_record, read_detail
from qinling_falcon.models.records import record
from qinling_falcon.pool.ended import Ended

logger = logging.getLogger(__name__)

# The executions whose details could not be read. The pool manager comes with them again in each full pass.
_unreadable: BoundedCache[str, bool] = BoundedCache(1000)


def record_lost(details: Mapping[str, str], attempts: Attempts, ended: Ended) -> list[str]:
    """Record synchronous executions whose lease was lost as `error`. Accepted ones are queued again.

    The first final state wins: if the holder has already recorded an execution, its record stays.

    Args:
        details: the details of the lost leases (see `calls.detail`), by execution id.
        attempts: ends the attempts of accepted executions.
        ended: notifies those who wait for the end of an execution.

    Returns:
        The ids of those that are recorded now. A detail that can't be read is left out, because a later release may
        have written it. It is logged once.

    Raises:
        Unavailable: the database is away; call this again later.
    """
    recorded = []
    for execution_id, detail in details.items():
        try:
            started, accepted = read_detail(detail)
        except (ValueError, TypeError, KeyError):
            if _unreadable.get(execution_id) is None:
                _unreadable.put(execution_id, True)
                logger.exception("a lost execution can't be read", extra={"execution_id": execution_id})
            continue
        lost = failed_record(started, PROCESS_LOST)
        if accepted is None:
            record(lost)
            ended.notify((started.id,))
        else:
            attempts.lose(lost, accepted)
        recorded.append(execution_id)
    return recorded
