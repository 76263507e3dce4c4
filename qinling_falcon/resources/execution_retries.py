"""Executions that have ended: queue them again, or delete many of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import falcon

from qinling_falcon.errors import Conflict, Unavailable
from qinling_falcon.invocation.cancellation import await_end
from qinling_falcon.models import clock, execution_retries
from qinling_falcon.models import execution as executions
from qinling_falcon.models.execution_queue import Queued
from qinling_falcon.models.retention import FINAL
from qinling_falcon.models.tables import ExecutionStatus
from qinling_falcon.pool.pool import Pool
from qinling_falcon.resources.answers import accepted, answer
from qinling_falcon.resources.bodies import read_object
from qinling_falcon.resources.operation import accepts, operation, shows
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services
from qinling_falcon.schemas.executions import ChangedExecutions, ExecutionShown, SomeExecutions, SomeRetries
from qinling_falcon.schemas.fields import UUID, one_of

PURGED = (
    ("status", {**one_of(FINAL), "required": True, "description": "Only executions that have ended in this way."}),
    ("function_id", {**UUID, "description": "Only executions of this function."}),
)
"""The parameters of `DELETE /v1/executions`."""

_shown = ExecutionShown()
_some = SomeExecutions()
_some_retries = SomeRetries()
# Other writers wait for a transaction, so it changes so many rows at most.
_BATCH = 200
# A request that changes many executions ends after this time, and says that there are more.
_LONGEST_S = 5.0
_LOOK_EVERY_S = 0.05


class ExecutionRetry:
    """The retry of one execution."""

    def __init__(self, services: Services):
        self._pool = services.pool
        self._settings = services.settings

    @operation("execution:retry", answers=accepts(ExecutionShown), errors=(409,))
    def on_post(self, req: Request, resp: falcon.Response, execution_id: str) -> None:
        """Queue an asynchronous execution again that has failed, is dead or was cancelled.

        It keeps its id, and its attempts are counted on. It may fail as often as a new execution.

        If its function is still being ended, because it was cancelled just before, this waits up to 2 s for that.
        """
        # Otherwise the next run could begin while this one still runs. Only a cancelled execution ends before its run.
        is_cancelled = executions.get(req.caller, execution_id).status == ExecutionStatus.CANCELLED
        if is_cancelled and not await_end(self._pool, execution_id):
            raise Conflict(
                f"Execution {execution_id} was cancelled, and its function has not ended yet. Try again in a moment."
            )
        execution = execution_retries.retry(req.caller, execution_id, _reason())
        self._pool.ready.push(execution.project_id, execution.function_id, execution.id)
        path = f"/v1/executions/{execution_id}"
        accepted(req, resp, path, self._settings.public_endpoint, _shown.show(execution))


class ExecutionRetries:
    """The retry of many executions."""

    def __init__(self, services: Services):
        self._pool = services.pool
        self._settings = services.settings

    @operation("execution:retry", takes=SomeRetries, answers=shows(ChangedExecutions))
    def on_post(self, req: Request, resp: falcon.Response) -> None:
        """Queue the project's asynchronous executions of one status again, the oldest first.

        If there are very many, or if functions of cancelled ones have not ended yet, the answer says that there are
        more, and a further request goes on.
        """
        values = _some_retries.read(read_object(req, self._settings))
        status, function_id, reason = values["status"], values.get("function_id"), _reason()

        def step() -> tuple[int, bool]:
            only, left = None, 0
            if status == ExecutionStatus.CANCELLED:
                ids = execution_retries.find_some(req.caller, status, function_id, _BATCH)
                only = set(ids) - self._pool.uncommitted(ids)
                left = len(ids) - len(only)
            queued = execution_retries.retry_some(req.caller, status, function_id, _BATCH, reason, only)
            _push(self._pool, queued)
            return len(queued), left + len(queued) == _BATCH or left > 0

        answer(resp, _repeat(step))


def purge(pool: Pool, req: Request, resp: falcon.Response) -> None:
    """Delete the project's executions of one status, the oldest first, and answer with their number."""
    values = _some.read(dict(req.params))

    def step() -> tuple[int, bool]:
        ids = executions.delete_ended(req.caller, values["status"], values.get("function_id"), _BATCH)
        with contextlib.suppress(Unavailable):  # the journals hear of the executions' ends soon
            pool.drop(ids)
        return len(ids), len(ids) == _BATCH

    answer(resp, _repeat(step))


def _repeat(step: Callable[[], tuple[int, bool]]) -> dict[str, object]:
    """Take steps until none is left, or the time is over. A step returns what it has changed, and if there are more."""
    until = time.monotonic() + _LONGEST_S
    count = 0
    while True:
        changed, is_more = step()
        count += changed
        if not is_more or time.monotonic() > until:
            return {"count": count, "more": is_more}
        if changed == 0:
            time.sleep(_LOOK_EVERY_S)


def _push(pool: Pool, queued: list[Queued]) -> None:
    for one in queued:
        pool.ready.push(one.project_id, one.function_id, one.id)


def _reason() -> str:
    return f"A retry was requested at {clock.now():%Y-%m-%d %H:%M:%S}."
