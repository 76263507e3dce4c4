"""`/v1/executions`: runs of functions."""

from __future__ import annotations

import json
import time
from typing import Any

import falcon

from qinling_falcon.errors import BadRequest, Conflict, NotFound, NotSupported, TooLarge
from qinling_falcon.invocation.invoker import Call
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.resources.answers import answer, created
from qinling_falcon.resources.bodies import read_object
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services
from qinling_falcon.schemas.executions import ExecutionCreate, ExecutionShown

_shown = ExecutionShown()
_create = ExecutionCreate()


class Executions:
    """All executions of a project."""

    def __init__(self, services: Services):
        self._services = services
        self._settings = services.settings

    def on_post(self, req: Request, resp: falcon.Response) -> None:
        """Run a function and answer with its execution, which is durable by then.

        This is the hot path: what it does per call is measured in microseconds.
        """
        settings = self._settings
        values = _create.read(read_object(req, settings), lenient=req.reference_client)
        if values["function_alias"] is not None:
            raise NotFound(
                f"function_alias: alias {values['function_alias']} not found.", errors={"function_alias": ["Not found."]}
            )
        if values["function_id"] is None:
            raise BadRequest("function_id or function_alias is required.", errors={"function_id": ["Missing data."]})
        _check_size(values["input"], settings.max_input_size)
        if not values["sync"]:
            raise NotSupported("sync: asynchronous executions are not supported yet.")
        record = self._services.invoker.invoke(
            req.caller,
            Call(
                function_id=values["function_id"],
                function_version=values["function_version"],
                input=values["input"],
                description=values["description"],
                request_id=req.request_id,
            ),
        )
        resp.set_header("Server-Timing", _server_timing(req, record))
        created(req, resp, _shown.dump(record), f"/v1/executions/{record.id}", settings.public_endpoint)


def _check_size(text: str | None, limit: int) -> None:
    # A character has at most four bytes, so most inputs need not be encoded to be measured.
    if text is not None and len(text) * 4 > limit and len(text.encode()) > limit:
        raise TooLarge(f"input is larger than {limit} bytes.", errors={"input": ["Too large."]})


def _server_timing(req: Request, record: ExecutionRecord) -> str:
    """Where the time went, in milliseconds: waiting for a worker, running the function, and all the rest."""
    queue_ms = record.queued_ms or 0.0
    run_ms = record.run_ms or 0.0
    platform_ms = max(0.0, (time.perf_counter() - req.started) * 1000 - queue_ms - run_ms)
    return f"platform;dur={platform_ms:.3f}, queue;dur={queue_ms:.3f}, run;dur={run_ms:.3f}"
