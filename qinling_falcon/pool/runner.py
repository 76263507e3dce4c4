"""Runs the pool's scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.wire import Abandoned

Clock = Callable[[], int]
"""Returns milliseconds. Only tests have one, to replace Redis's own time."""


class ScriptRunner:
    """Runs scripts with the time as their first argument. It is empty, which means the server's own, except in tests.

    Args:
        connection: where the scripts run.
        clock: for tests.
    """

    def __init__(self, connection: PipelinedConnection, clock: Clock | None = None):
        self._connection = connection
        self._clock = clock

    def run(self, name: str, *args: str | int | bytes, abandoned: Abandoned | None = None) -> Any:
        """Run `scripts/<name>.lua`; raises as `PipelinedConnection.run` does."""
        return self._connection.run(name, self._all(args), abandoned=abandoned)

    def cast(self, name: str, *args: str | int | bytes, answered: Abandoned | None = None) -> bool:
        """Run it without waiting, as `PipelinedConnection.cast` does."""
        return self._connection.cast(name, self._all(args), answered)

    def _all(self, args: tuple[str | int | bytes, ...]) -> tuple[str | int | bytes, ...]:
        return ("" if self._clock is None else self._clock(), *args)
