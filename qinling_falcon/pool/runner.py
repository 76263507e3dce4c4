"""Runs the pool's scripts with the arguments that all of them take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.lua import load
from qinling_falcon.pool.wire import Abandoned
from qinling_falcon.settings import Settings

Clock = Callable[[], int]
"""Milliseconds; in tests only, where it stands for Redis's own time."""


class ScriptRunner:
    """Gives every script the time (the server's own unless a test has a clock) and the limits that hold.

    Args:
        connection: where the scripts run.
        settings: the limits.
        clock: for tests.
    """

    def __init__(self, connection: PipelinedConnection, settings: Settings, clock: Clock | None = None):
        self._connection = connection
        self._clock = clock
        self._limits = (settings.function_concurrency, settings.project_concurrency, settings.max_workers)

    def run(self, name: str, *args: str | int | bytes, abandoned: Abandoned | None = None) -> Any:
        """Run `scripts/<name>.lua`; raises as `PipelinedConnection.run` does."""
        return self._connection.run(load(name), self._all(args), abandoned=abandoned)

    def cast(self, name: str, *args: str | int | bytes) -> bool:
        """Run it without waiting, as `PipelinedConnection.cast` does."""
        return self._connection.cast(load(name), self._all(args))

    def _all(self, args: tuple[str | int | bytes, ...]) -> tuple[str | int | bytes, ...]:
        return ("" if self._clock is None else self._clock(), *self._limits, *args)
