"""The parameter `wait` of `GET /v1/executions/{id}`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from qinling_falcon.errors import BadRequest
from qinling_falcon.invocation.waits import S, Waits
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.resources.disconnects import on_disconnect
from qinling_falcon.resources.request import Request
from qinling_falcon.settings import Settings

WAIT: tuple[str, dict[str, Any]] = (
    "wait",
    {
        "type": "number",
        "minimum": 0,
        "default": 0,
        "description": (
            "For how many seconds to wait for the end of the execution. The answer comes as soon as the execution has"
            " ended. If it has not ended in time, the answer shows it as it is then. More than EXECUTION_WAIT_MAX_S"
            " counts as that."
        ),
    },
)
_NUMBER = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?")


def wait_for_end(waits: Waits, req: Request, settings: Settings, execution_id: str, find: Callable[[], S]) -> S:
    """An execution. If the request has the parameter `wait`, it waits for the end of the execution first.

    The execution is read before the request waits. So a request for an unknown execution, or for one of another
    project, is refused at once, and does not count as a waiting request.

    Args:
        waits: the requests that wait.
        req: the request.
        settings: the longest wait.
        execution_id: the execution.
        find: reads the execution, as far as the caller may see it.

    Raises:
        BadRequest: `wait` is not a number from 0 on.
        NotFound: see `find`.
        Unavailable: too many requests wait, or the database or Redis is away.
    """
    wait_s = min(_seconds(req), settings.execution_wait_max_s)
    execution = find()
    if wait_s == 0 or execution.status != ExecutionStatus.RUNNING:
        return execution
    with waits.open(req.caller.project_id, execution_id, wait_s) as wait, on_disconnect(req.client, wait.end):
        return wait.until_final(find)


def _seconds(req: Request) -> float:
    text = req.params.get("wait", "0")
    if isinstance(text, str) and _NUMBER.fullmatch(text) and (seconds := float(text)) >= 0:
        return seconds
    raise BadRequest("wait must be a number of seconds, from 0 on.", errors={"wait": ["Must be a number from 0 on."]})
