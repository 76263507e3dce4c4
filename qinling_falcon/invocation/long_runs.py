"""Writes the rows of executions that run for long, so that lists show them. Most end before, and cost one write."""

from __future__ import annotations

import logging
import time

import gevent

from qinling_falcon.invocation.execution_quota import Place
from qinling_falcon.models.records import ExecutionRecord, begin

logger = logging.getLogger(__name__)

_MOMENT_S = 1.0


class LongRuns:
    """The executions that run now and have no row yet. One for each process."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[float, ExecutionRecord, Place]] = {}

    def start(self) -> None:
        """Start writing rows in the background."""
        gevent.spawn(self._write_forever)

    def add(self, begun: ExecutionRecord, place: Place) -> None:
        """An execution begins to run. `place` is its place in the quota, which its row takes."""
        self._running[begun.id] = time.monotonic(), begun, place

    def remove(self, execution_id: str) -> None:
        """It does not run any more."""
        self._running.pop(execution_id, None)

    def _write_forever(self) -> None:
        while True:
            gevent.sleep(_MOMENT_S)
            for execution_id, (since, begun, place) in list(self._running.items()):
                if time.monotonic() - since > _MOMENT_S and execution_id in self._running:
                    del self._running[execution_id]
                    try:
                        begin(begun)
                        place.recorded()
                    except Exception:
                        logger.exception(
                            "an execution is not listed while it runs", extra={"execution_id": execution_id}
                        )
