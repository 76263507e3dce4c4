"""Writes the rows of executions that have run for a second, so that lists show them.

Most executions end earlier. They cost only one write, that of their final record.
"""

from __future__ import annotations

import logging
import time

import gevent

from qinling_falcon.invocation.execution_quota import Reservation
from qinling_falcon.models.records import ExecutionRecord, begin

logger = logging.getLogger(__name__)

_MOMENT_S = 1.0


class LongRuns:
    """The executions of this process that run now and have no row yet."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[float, ExecutionRecord, Reservation]] = {}

    def start(self) -> None:
        """Start writing rows in the background."""
        gevent.spawn(self._write_forever)

    def add(self, started: ExecutionRecord, reservation: Reservation) -> None:
        """Add an execution that starts now. When its row is written, the row counts instead of `reservation`."""
        self._running[started.id] = time.monotonic(), started, reservation

    def remove(self, execution_id: str) -> None:
        """Remove an execution that has ended."""
        self._running.pop(execution_id, None)

    def _write_forever(self) -> None:
        while True:
            gevent.sleep(_MOMENT_S)
            for execution_id, (since, started, reservation) in list(self._running.items()):
                if time.monotonic() - since > _MOMENT_S and execution_id in self._running:
                    del self._running[execution_id]
                    try:
                        begin(started)
                        reservation.recorded()
                    except Exception:
                        logger.exception(
                            "an execution is not listed while it runs", extra={"execution_id": execution_id}
                        )
