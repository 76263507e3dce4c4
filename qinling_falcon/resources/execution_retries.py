"""Executions that have ended: queue them again, or delete many of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import falcon

from qinling_falcon.errors import Conflict, Unavailable
from qinling_falcon.invocation.cancellation import await_end
from qinling_falcon.models import clock, execution_retries
from qinling_falcon.models import execution as executions
from qinling_falcon.models.execution_queue import Queued
from qinling_falcon.models.execution_retries import CancelledMeanwhile
from qinling_falcon.models.retention import FINAL
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.pool.pool import Pool
from qinling_falcon.resources.answers import accepted, answer
from qinling_falcon.resources.bodies import read_object
from qinling_falcon.resources.operation import accepts, operation, shows
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services
from qinling_falcon.schemas.executions import (
    ExecutionShown,
    RetriedExecutions,
    SomeExecutions,
    SomeRetries,
)
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
# So many cancelled executions are looked at in one round, at most. Those whose functions still run are among them.
_MOST_LOOKED_AT = 4 * _BATCH
# The retry of an execution that is cancelled meanwhile is tried so often, at most.
_TRIES = 3
# A request that changes many executions ends after this time, and says that there are more.
_LONGEST_S = 5.0
_LOOK_EVERY_S = 0.05
# So many of the executions that are left are counted, because the count takes time.
_MOST_COUNTED = 10_000


class _Round(NamedTuple):
    """The result of one batch of retries.

    Attributes:
        queued: how many were queued again.
        unended: how many were left out, because their functions still run.
        is_last: whether no others are left.
    """

    queued: int
    unended: int
    is_last: bool


class ExecutionRetry:
    """The retry of one execution."""

    def __init__(self, services: Services):
        self._acceptance = services.acceptance
        self._pool = services.pool
        self._settings = services.settings

    @operation("execution:retry", answers=accepts(ExecutionShown), errors=(409,))
    def on_post(self, req: Request, resp: falcon.Response, execution_id: str) -> None:
        """Queue an asynchronous execution again that has failed, is dead or was cancelled. If its function is still
        being ended, because it was cancelled just before, this waits up to 10 s for that, and then answers 409.

        It keeps its id, and its attempts are counted on. It may fail as often as a new execution.

        If the execution is started and cancelled again meanwhile, this waits again, up to three times in all.
        """
        for tries_left in reversed(range(_TRIES)):
            awaited = self._await_cancelled(req, execution_id)
            execution_retries.check(req.caller, execution_id)
            self._acceptance.check_room(req.caller.project_id, f"Execution {execution_id} was not queued again")
            try:
                execution = execution_retries.retry(req.caller, execution_id, _reason(), awaited)
                break
            except CancelledMeanwhile:
                if not tries_left:
                    raise
        self._pool.ready.push(execution.project_id, execution.function_id, execution.id)
        path = f"/v1/executions/{execution_id}"
        accepted(req, resp, path, self._settings.public_endpoint, _shown.show(execution))

    def _await_cancelled(self, req: Request, execution_id: str) -> datetime | None:
        """If an execution is cancelled, wait for the end of its function. Returns `updated_at` from before that."""
        execution = executions.get(req.caller, execution_id)
        if execution.status != ExecutionStatus.CANCELLED:
            return None
        if not await_end(self._pool, execution_id):
            raise Conflict(
                f"Execution {execution_id} was cancelled, and its function has not ended yet. Try again in a moment."
            )
        return execution.updated_at


class ExecutionRetries:
    """The retry of many executions."""

    def __init__(self, services: Services):
        self._acceptance = services.acceptance
        self._pool = services.pool
        self._settings = services.settings

    @operation("execution:retry", takes=SomeRetries, answers=shows(RetriedExecutions))
    def on_post(self, req: Request, resp: falcon.Response) -> None:
        """Queue the project's asynchronous executions of one status again, the oldest first.

        If there are very many, if the project's queue is full, or if functions of cancelled ones have not ended yet,
        the answer says how many are left, and a further request goes on. If the queue was full before, the answer is an
        error.
        """
        values = _some_retries.read(read_object(req, self._settings))
        status, function_id = values["status"], values.get("function_id")
        reason, until = _reason(), time.monotonic() + _LONGEST_S
        count, unended = 0, 0
        while time.monotonic() < until:
            wanted = min(_BATCH, self._acceptance.room(req.caller.project_id))
            if not wanted:
                break
            if status == ExecutionStatus.CANCELLED:
                done = self._retry_cancelled(req, function_id, wanted, unended, reason)
            else:
                done = self._retry_some(req, status, function_id, wanted, reason)
            count, unended = count + done.queued, done.unended
            if done.is_last:
                answer(resp, {"count": count, "more": unended > 0, "left": unended})
                return
            if not done.queued:
                time.sleep(_LOOK_EVERY_S)
        left = execution_retries.count_retriable(req.caller, status, function_id, _MOST_COUNTED)
        if left and not count:
            self._acceptance.check_room(req.caller.project_id, "No execution was queued again")
        answer(resp, {"count": count, "more": left > 0, "left": left})

    def _retry_some(self, req: Request, status: str, function_id: str | None, most: int, reason: str) -> _Round:
        """Retry at most so many executions that have ended by themselves."""
        queued = execution_retries.retry_some(req.caller, status, function_id, most, reason)
        self._push(queued)
        return _Round(len(queued), 0, len(queued) < most)

    def _retry_cancelled(self, req: Request, function_id: str | None, most: int, unended: int, reason: str) -> _Round:
        """Retry at most so many cancelled executions whose functions have ended.

        Args:
            req: the request.
            function_id: only executions of this function; None: of all functions.
            most: how many, at most.
            unended: how many were left out by the round before. They may still be the oldest ones, so this looks at so
                many more.
            reason: as in `execution_retries.retry`.
        """
        status = ExecutionStatus.CANCELLED.value
        looked_at = min(_BATCH + unended, _MOST_LOOKED_AT)
        found = execution_retries.find_some(req.caller, status, function_id, looked_at)
        running = self._pool.uncommitted(list(found))
        ended = [one for one in found if one not in running]
        queued = []
        if ended:
            # One that was started and cancelled again since the look may still run.
            only = {one: found[one] for one in ended[:most]}
            queued = execution_retries.retry_some(req.caller, status, function_id, most, reason, only)
        self._push(queued)
        # Not the number of those that were queued: another request may have changed some of them since the look.
        is_last = len(found) < looked_at and len(ended) <= most
        return _Round(len(queued), len(found) - len(ended), is_last)

    def _push(self, queued: Sequence[Queued]) -> None:
        for one in queued:
            self._pool.ready.push(one.project_id, one.function_id, one.id)


def purge(pool: Pool, req: Request, resp: falcon.Response) -> None:
    """Delete the project's executions of one status, the oldest first, and answer with their number."""
    values = _some.read(dict(req.params))
    until = time.monotonic() + _LONGEST_S
    count, is_more = 0, True
    while is_more and time.monotonic() < until:
        ids = executions.delete_ended(req.caller, values["status"], values.get("function_id"), _BATCH)
        with contextlib.suppress(Unavailable):  # the journals hear of the executions' ends soon
            pool.drop(ids)
        count += len(ids)
        is_more = len(ids) == _BATCH
    answer(resp, {"count": count, "more": is_more})


def _reason() -> str:
    return f"A retry was requested at {clock.now():%Y-%m-%d %H:%M:%S}."
