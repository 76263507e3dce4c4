"""`/v1/pool`: what the pool does, for the operator."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import falcon

from qinling_falcon.errors import BadRequest, NotFound, Unavailable
from qinling_falcon.invocation.calls import running_record
from qinling_falcon.models import clock, execution_counters, execution_queue
from qinling_falcon.models import execution as executions
from qinling_falcon.models import function as functions
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.models.scope import Context
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.pool.inspection import MOST_ROWS, LiveExecution, Page, UnknownMarker
from qinling_falcon.pool.local_queue import PATIENCE_S
from qinling_falcon.resources.answers import answer
from qinling_falcon.resources.lists import MARKED, answer_marked, marked_params
from qinling_falcon.resources.operation import Answer, operation, shows
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services
from qinling_falcon.schemas.base import Shown
from qinling_falcon.schemas.pool import (
    PoolEventShown,
    PoolExecutionShown,
    PoolNumbersShown,
    PoolQueueShown,
    PoolStateShown,
    PoolWorkerShown,
)

T = TypeVar("T")

_state = PoolStateShown()
_worker = PoolWorkerShown()
_queue = PoolQueueShown()
_event = PoolEventShown()
_execution = PoolExecutionShown()
# Events so long before and after a call's wait are shown with it.
_AROUND_MS = 1000.0


def _pages(envelope: str, schema: type[Shown]) -> dict[str, Any]:
    answers = Answer(200, schema, some_headers=("Link",), envelope=envelope)
    return {"answers": answers, "query": MARKED}


class Pool:
    """The pool as a whole."""

    def __init__(self, services: Services):
        self._inspection = services.pool.inspection

    @operation("pool:get", answers=shows(PoolNumbersShown))
    def on_get(self, req: Request, resp: falcon.Response) -> None:
        """Show the pool in numbers: workers by runtime and state, capacity, demand, and how calls got their workers.

        The numbers of asynchronous executions and callbacks come from the database.
        """
        shown = _state.show(self._inspection.state())
        executions_shown = callbacks_shown = None
        with contextlib.suppress(Unavailable):  # the pool can be looked at without the database
            executions_shown = execution_counters.read()._asdict()
            callbacks_shown = execution_counters.read_callbacks()._asdict()
        answer(resp, shown | {"asynchronous_executions": executions_shown, "callbacks": callbacks_shown})


class _List:
    """A list that is read from the pool in pages."""

    def __init__(self, services: Services):
        self._settings = services.settings
        self._inspection = services.pool.inspection

    def _answer(
        self,
        req: Request,
        resp: falcon.Response,
        key: str,
        read: Callable[[str | None, int], Page[T]],
        shown: Shown,
    ) -> None:
        marker, limit = marked_params(req, self._settings, most=MOST_ROWS)
        try:
            page = read(marker, limit)
        except UnknownMarker:
            raise BadRequest("marker: there is no such page.", errors={"marker": ["There is no such page."]}) from None
        answer_marked(req, resp, self._settings, key, page.rows, shown, page.next_marker)


class PoolWorkers(_List):
    """The workers."""

    @operation("pool_worker:get_all", **_pages("workers", PoolWorkerShown))
    def on_get(self, req: Request, resp: falcon.Response) -> None:
        """List the workers of all runtimes: what each is doing, since when, and for whom."""
        self._answer(req, resp, "workers", self._inspection.workers, _worker)


class PoolQueues(_List):
    """The queues."""

    @operation("pool_queue:get_all", **_pages("queues", PoolQueueShown))
    def on_get(self, req: Request, resp: falcon.Response) -> None:
        """List the queues of waiting calls: how long each is, and what it waits for."""
        self._answer(req, resp, "queues", self._inspection.queues, _queue)


class PoolEvents(_List):
    """The events."""

    @operation("pool_event:get_all", **_pages("events", PoolEventShown))
    def on_get(self, req: Request, resp: falcon.Response) -> None:
        """List the last events with their reasons, the newest first: starts, evictions, recalls, ends, lost leases."""
        self._answer(req, resp, "events", self._inspection.events, _event)


@dataclasses.dataclass(frozen=True, slots=True)
class _Explained:
    """Why a call was slow, as answers show it."""

    id: str
    project_id: str
    function_id: str
    function_version: int
    status: str
    cold: str | None
    queued_ms: float | None
    explanation: str
    process: str | None
    worker_id: str | None
    events: list[dict[str, Any]]


class PoolExecution:
    """What one execution waited for."""

    def __init__(self, services: Services):
        self._inspection = services.pool.inspection

    @operation("pool_execution:get", answers=shows(PoolExecutionShown))
    def on_get(self, req: Request, resp: falcon.Response, execution_id: str) -> None:
        """Say why a call was cold or waited: for what, for how long, and what happened in the pool meanwhile.

        Calls that still wait are not known by their ids; `GET /v1/pool/queues` counts them.
        """
        record, live = self._find(req.caller, execution_id)
        cold, queued_ms, due_ms = record.cold, record.queued_ms, _due_ms(record)
        if live is not None and live.granted_ms is not None:
            queued_ms = round(max(0.0, live.granted_ms - due_ms), 3)
            cold = "none" if not live.is_first else "start" if live.ready_ms >= due_ms else "assign"
        explained = _Explained(
            id=record.id,
            project_id=record.project_id,
            function_id=record.function_id,
            function_version=record.function_version,
            status=record.status,
            cold=cold,
            queued_ms=queued_ms,
            explanation=_explanation(record, cold, queued_ms),
            process=None if live is None else live.process,
            worker_id=None if live is None or live.worker is None else live.worker.id,
            events=self._events(req.caller, record, due_ms, queued_ms),
        )
        answer(resp, _execution.show(explained))

    def _find(
        self, caller: Context, execution_id: str
    ) -> tuple[executions.Execution | ExecutionRecord, LiveExecution | None]:
        """An execution that the caller may see; of one that has not ended also where it runs.

        Raises:
            NotFound: it is unknown, or another project's.
        """
        row: executions.Execution | None = None
        with contextlib.suppress(NotFound):
            row = executions.get(caller, execution_id)
        if row is not None and row.status != ExecutionStatus.RUNNING:
            return row, None
        live = self._inspection.execution(execution_id)
        record = None if live is None else running_record(live.detail)
        if record is not None and (caller.is_admin or record.project_id == caller.project_id):
            return record, live
        # It may have ended between the two looks.
        return row or executions.get(caller, execution_id), None

    def _events(self, caller: Context, record: Any, due_ms: float, queued_ms: float | None) -> list[dict[str, Any]]:
        try:
            runtime_id = functions.get(caller, record.function_id).runtime_id
        except NotFound:
            runtime_id = None
        begin_ms, end_ms = due_ms - _AROUND_MS, due_ms + (queued_ms or 0.0) + _AROUND_MS
        events = self._inspection.events_near(begin_ms, end_ms, runtime_id, record.function_id)
        return [_event.show(event) for event in events]


def _due_ms(record: executions.Execution | ExecutionRecord) -> float:
    """From when on a call has waited for a worker, in ms since the epoch. Later attempts are due later."""
    due_at = record.created_at
    if not record.sync and record.status == ExecutionStatus.RUNNING:
        due_at = execution_queue.due_at(record.id) or due_at
    elif not record.sync and record.updated_at is not None and record.queued_ms is not None:
        due_at = record.updated_at - timedelta(milliseconds=record.queued_ms + (record.run_ms or 0.0))
    return clock.to_micros(due_at) / 1000


def _explanation(record: Any, cold: str | None, queued_ms: float | None) -> str:
    waited = "" if queued_ms is None else f" It waited for {queued_ms:.0f} ms."
    if waited and not record.sync:
        waited = f"{waited[:-1]}, in the queue of executions and for the worker."
    match cold:
        case "start":
            return f"No worker was free, and the call waited for the start of one.{waited}"
        case "assign":
            return f"The function had no free worker. A warm worker loaded it for this call.{waited}"
        case "none" if not record.sync:
            return f"A worker of the function took the execution.{waited}"
        case "none" if queued_ms is not None and queued_ms >= PATIENCE_S * 1000:
            return f"All workers of the function were busy, and the call waited for one of them.{waited}"
        case "none":
            return "An idle worker of the function took the call at once."
    if record.status_reason:
        return f"No worker is known to have run the call: {record.status_reason}"
    return "No worker runs the call any more. Its record is written soon; ask again then."
