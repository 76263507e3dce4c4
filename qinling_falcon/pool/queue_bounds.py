"""The errors for calls that get no worker, because the queue is full or they have waited for too long."""

from __future__ import annotations

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool.leases import LeaseRequest

_RETRY_AFTER_S = 1
_NOT_RUN = "This call has not run; try again."


def refusal(request: LeaseRequest, bound: str, waiting: int, most: int) -> Unavailable:
    """The error for a call that found the queue full.

    Args:
        request: the lease request of the call.
        bound: the limit that was reached: `function`, `project` or `all`, as in the reply of `scripts/lease.lua`.
        waiting: the number of waiting calls that this limit counts.
        most: the limit.
    """
    match bound:
        case "function":
            message = (
                f"Too many calls of function {request.function_id} wait for a worker: {waiting} of at most {most} "
                "(FUNCTION_QUEUE_FACTOR times FUNCTION_CONCURRENCY)."
            )
        case "project":
            message = (
                f"Too many calls of project {request.project_id} wait for a worker: {waiting} of at most {most} "
                "(PROJECT_QUEUE_FACTOR times PROJECT_CONCURRENCY). One function never gets all of these places."
            )
        case _:  # no number, because it would reveal the load of other projects
            message = "Too many calls wait for a worker (MAX_WAITERS). One project never gets all of these places."
    return Unavailable(f"{message} {_NOT_RUN}", retry_after_s=_RETRY_AFTER_S)


def not_in_time(request: LeaseRequest, waited_s: float, limit: str | None, most: int) -> Unavailable:
    """The error for a call that got no worker in time.

    Args:
        request: the lease request of the call.
        waited_s: how long it waited.
        limit: the limit that blocks the call now: `version`, `function`, `project` or `runtime`, as the script
            `reached_limit` returns it; None: no limit is reached.
        most: the value of this limit.
    """
    match limit:
        case "version":
            reason = f"Function {request.function_id} has reached its concurrency of {most}."
        case "function":
            reason = f"Function {request.function_id} has reached FUNCTION_CONCURRENCY, {most} calls at once."
        case "project":
            reason = f"Project {request.project_id} has reached PROJECT_CONCURRENCY, {most} calls at once."
        case _:  # no number, because it would reveal the load of other projects
            reason = "All workers are busy."
    message = f"No worker was free in time: this call waited for {waited_s:.1f} s. {reason}"
    return Unavailable(f"{message} The function has not run. Try again.", retry_after_s=_RETRY_AFTER_S)
