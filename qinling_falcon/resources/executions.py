"""`/v1/executions`: runs of functions."""

from __future__ import annotations

import contextlib
import time

import falcon

from qinling_falcon.errors import Conflict, NotFound, Unavailable
from qinling_falcon.invocation.calls import Call
from qinling_falcon.invocation.cancellation import await_end, cancel, find_live
from qinling_falcon.models import execution as executions
from qinling_falcon.models.listing import page
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.models.scope import Context
from qinling_falcon.resources.answers import accepted, answer, created
from qinling_falcon.resources.bodies import check_input, read_object
from qinling_falcon.resources.execution_retries import PURGED, purge
from qinling_falcon.resources.execution_waits import WAIT, wait_for_end
from qinling_falcon.resources.lists import answer_page, list_params, may_list_all
from qinling_falcon.resources.operation import accepts, lists, makes, operation, sends, shows
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.request_keys import HEADER, PARAMETER, REPLAYED, read_key, request_key
from qinling_falcon.resources.services import Services
from qinling_falcon.schemas.executions import ChangedExecutions, ExecutionCreate, ExecutionShown, ExecutionUpdate
from qinling_falcon.webhooks.depth import HEADER as DEPTH_HEADER
from qinling_falcon.webhooks.depth import read_depth

# The header of a request that is a callback, as WSGI names it.
_DEPTH = f"HTTP_{DEPTH_HEADER.replace('-', '_').upper()}"

_create = ExecutionCreate()
_update = ExecutionUpdate()
_shown = ExecutionShown()


class Executions:
    """All executions of a project."""

    def __init__(self, services: Services):
        self._policy = services.policy
        self._services = services
        self._settings = services.settings

    @operation(
        "execution:create",
        takes=ExecutionCreate,
        answers=makes(ExecutionShown, some_headers=("Server-Timing", REPLAYED)),
        headers=((HEADER, PARAMETER),),
        errors=(404, 409, 413, 422, 501, 502),
    )
    def on_post(self, req: Request, resp: falcon.Response) -> None:
        """Run a function and answer with its execution. The record is durable before the answer is sent.

        An asynchronous execution is durable, too, and runs later.

        With an `Idempotency-Key`, a repeated request gets the execution of the first one.

        This is the hot path: each microsecond counts.
        """
        settings = self._settings
        values = _create.read(read_object(req, settings), lenient=req.reference_client)
        call = Call(
            function_id=values["function_id"],
            function_version=values["function_version"],
            function_alias=values["function_alias"],
            input=values["input"],
            description=values["description"],
            request_id=req.request_id,
        )
        is_sync, is_replay = values["sync"], False
        check_input(call.input, "input", settings.max_input_size if is_sync else settings.async_max_input_size)
        if not is_sync and (depth := read_depth(req.env.get(_DEPTH))):
            call = call._replace(callback_depth=depth)
        key = read_key(req)
        execution: executions.Execution | ExecutionRecord
        if key is not None:
            calls = self._services.idempotent_calls
            run = calls.invoke if is_sync else calls.accept
            execution, is_replay = run(req.caller, call, request_key(key, _create, values))
        elif is_sync:
            execution = self._services.engine.invoke(req.caller, call)
        else:
            execution = self._services.acceptance.accept(req.caller, call)
        if is_replay:
            resp.set_header(REPLAYED, "true")
        elif is_sync:
            resp.set_header("Server-Timing", _server_timing(req, execution))
        created(req, resp, _shown.show(execution), f"/v1/executions/{execution.id}", settings.public_endpoint)

    @operation(
        "execution:get_all",
        answers=lists("executions", ExecutionShown, executions.LISTS, all_projects=True),
    )
    def on_get(self, req: Request, resp: falcon.Response) -> None:
        """List the project's executions, or for an admin those of all."""
        all_projects = may_list_all(req, self._policy, "execution:get_all:all_projects")
        params = list_params(req, self._settings, executions.LISTS, all_projects=all_projects)
        found = page(executions.listed(req.caller, all_projects=all_projects), executions.LISTS, params)
        answer_page(req, resp, self._settings, "executions", found, _shown)

    @operation("execution:delete", answers=shows(ChangedExecutions), query=PURGED)
    def on_delete(self, req: Request, resp: falcon.Response) -> None:
        """Delete the project's executions that have ended with a status, the oldest first.

        If there are very many, the answer says that there are more, and a further request goes on.
        """
        purge(self._services.pool, req, resp)


class OneExecution:
    """One execution."""

    def __init__(self, services: Services):
        self._pool = services.pool
        self._settings = services.settings
        self._waits = services.waits

    @operation("execution:get", answers=shows(ExecutionShown), query=(WAIT,))
    def on_get(self, req: Request, resp: falcon.Response, execution_id: str) -> None:
        """Show an execution. With `wait`, the answer comes when it has ended, or when the time is up."""

        def find() -> executions.Execution | ExecutionRecord:
            return self._find(req.caller, execution_id)

        answer(resp, _shown.show(wait_for_end(self._waits, req, self._settings, execution_id, find)))

    def _find(self, caller: Context, execution_id: str) -> executions.Execution | ExecutionRecord:
        """An execution that the caller may see. While it runs, most have no row yet, and the pool knows them."""
        try:
            return executions.get(caller, execution_id)
        except NotFound:
            # It may end just now, between the two looks: the row is written before the lease is given back.
            live = find_live(self._pool, caller, execution_id)
            return live if live is not None else executions.get(caller, execution_id)

    @operation("execution:update", takes=ExecutionUpdate, answers=accepts(ExecutionShown), errors=(409,))
    def on_put(self, req: Request, resp: falcon.Response, execution_id: str) -> None:
        """Cancel an execution that is queued or runs.

        It is cancelled when the answer comes. The function that runs is ended at once.
        """
        _update.read(read_object(req, self._settings), lenient=req.reference_client)
        cancelled = cancel(self._pool, req.caller, execution_id)
        path = f"/v1/executions/{execution_id}"
        accepted(req, resp, path, self._settings.public_endpoint, _shown.show(cancelled))

    @operation("execution:delete")
    def on_delete(self, req: Request, resp: falcon.Response, execution_id: str) -> None:
        """Delete the record of an execution. One that is queued or runs is cancelled first."""
        try:
            executions.delete(req.caller, execution_id)
        except (NotFound, Conflict):
            with contextlib.suppress(Conflict):  # it has ended meanwhile
                cancel(self._pool, req.caller, execution_id)
            with contextlib.suppress(Unavailable):  # otherwise its process may record it after it was deleted
                await_end(self._pool, execution_id)
            executions.delete(req.caller, execution_id)
        with contextlib.suppress(Unavailable):  # the journal hears of the execution's end soon
            self._pool.drop([execution_id])
        resp.status = falcon.HTTP_204


class ExecutionLog:
    """What the function of one execution printed."""

    def __init__(self, services: Services):
        self._pool = services.pool

    @operation("execution:get", answers=sends("text/plain"))
    def on_get(self, req: Request, resp: falcon.Response, execution_id: str) -> None:
        """Send the log of an execution as text; empty while the execution runs."""
        try:
            log = executions.get_log(req.caller, execution_id)
        except NotFound:
            live = find_live(self._pool, req.caller, execution_id)
            log = "" if live is not None else executions.get_log(req.caller, execution_id)
        resp.content_type = "text/plain; charset=utf-8"
        resp.data = log.encode("utf-8", "replace")


def _server_timing(req: Request, record: ExecutionRecord | executions.Execution) -> str:
    """Where the time went, in milliseconds: waiting for a worker, running the function, and all the rest."""
    queue_ms = record.queued_ms or 0.0
    run_ms = record.run_ms or 0.0
    platform_ms = max(0.0, (time.perf_counter() - req.started) * 1000 - queue_ms - run_ms)
    return f"platform;dur={platform_ms:.3f}, queue;dur={queue_ms:.3f}, run;dur={run_ms:.3f}"
