"""Asks a worker that an earlier manager has started what it holds (`GET /ping`)."""

from __future__ import annotations

import json
from dataclasses import dataclass

from qinling_falcon.orchestrators.addresses import connect
from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.orchestrators.gateways import Gateway, NotPassedOn
from qinling_falcon.orchestrators.worker_http import read_answer

_MOST_BYTES = 4096
_PATH = "/ping"


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What a worker says of itself.

    Attributes:
        is_loaded: whether it holds a target.
        is_busy: whether it runs a call.
    """

    is_loaded: bool
    is_busy: bool


def ping(worker: WorkerInfo, timeout_s: float, gateway: Gateway | None = None) -> WorkerState | None:
    """Ask a worker for its state.

    Args:
        worker: the worker.
        timeout_s: seconds to wait for the connection, and for the answer.
        gateway: through which workers are reached; None: directly.

    Returns:
        None: it did not answer, or not as a worker does.

    Raises:
        GatewayAway: the gateway is away, so nothing is known of the worker.
    """
    try:
        if gateway is None:
            head = f"GET {_PATH} HTTP/1.1\r\nHost: worker\r\n"
            connection = connect(worker.address, timeout_s)
        else:
            head = gateway.begin(worker.address, "GET", _PATH)
            connection = gateway.connect(timeout_s)
        with connection:
            connection.sendall(f"{head}\r\n".encode("ascii"))
            answer = read_answer(connection, _MOST_BYTES)
        if gateway is not None:
            gateway.check(answer)
        state = json.loads(answer.body)
        if answer.status != 200:
            return None
        return WorkerState(is_loaded=state["loaded"] is not False, is_busy=state["busy"] is not False)
    except (OSError, NotPassedOn, ValueError, KeyError, TypeError):
        return None
