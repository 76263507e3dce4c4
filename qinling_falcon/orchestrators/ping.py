"""Asks a worker that an earlier manager has started what it holds (`GET /ping`)."""

from __future__ import annotations

import contextlib
import http.client
import json
from dataclasses import dataclass

from qinling_falcon.orchestrators.addresses import connect_http
from qinling_falcon.orchestrators.base import WorkerInfo

_MOST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What a worker says of itself.

    Attributes:
        is_loaded: whether it holds a target.
        is_busy: whether it runs a call.
    """

    is_loaded: bool
    is_busy: bool


def ping(worker: WorkerInfo, timeout_s: float) -> WorkerState | None:
    """Ask a worker for its state.

    Args:
        worker: the worker.
        timeout_s: seconds to wait for the connection, and for the answer.

    Returns:
        None: it did not answer, or not as a worker does.
    """
    try:
        with contextlib.closing(connect_http(worker.address, timeout_s)) as connection:
            connection.request("GET", "/ping")
            response = connection.getresponse()
            state = json.loads(response.read(_MOST_BYTES))
            if response.status != 200:
                return None
            return WorkerState(is_loaded=state["loaded"] is not False, is_busy=state["busy"] is not False)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
