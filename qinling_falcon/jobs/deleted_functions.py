"""Cancels the queued executions of deleted functions. The `tasks` process that sweeps calls this once a second."""

from __future__ import annotations

import time

from qinling_falcon.models import deleted_functions
from qinling_falcon.models.deleted_functions import Deleted
from qinling_falcon.pool.ended import Ended
from qinling_falcon.pool.ready_sets import ReadySets

_PAGE = 100
# Executions of one transaction, because other writers wait meanwhile.
_BATCH = 200
_LONGEST_S = 1.0


class DeletedFunctions:
    """Walks through the deleted functions, again and again.

    Args:
        ended: notifies those who wait for the end of an execution.
        ready: the executions that wait to be claimed.
    """

    def __init__(self, ended: Ended, ready: ReadySets):
        self._ended = ended
        self._ready = ready
        self._after = ""

    def step(self, longest_s: float = _LONGEST_S) -> int:
        """Cancel executions for up to `longest_s` seconds. Returns how many were cancelled.

        If no function was deleted, this makes one query. It writes nothing for a function whose executions all run.

        Raises:
            Unavailable: the database is away; call this again later.
        """
        until = time.monotonic() + longest_s
        cancelled = 0
        functions = deleted_functions.page(self._after, _PAGE)
        for function in functions:
            count, is_done = self._cancel(function, until)
            cancelled += count
            if not is_done:
                return cancelled  # the next step goes on with this function
            self._after = function.id
        if len(functions) < _PAGE:
            self._after = ""
        return cancelled

    def _cancel(self, function: Deleted, until: float) -> tuple[int, bool]:
        """Cancel executions of one function. Returns how many, and whether nothing more can be done for it now."""
        cancelled = 0
        while time.monotonic() < until:
            # A write would take its turn among all writers, also if all executions are claimed, which can last hours.
            if not deleted_functions.has_work(function):
                return cancelled, True
            started = time.monotonic()
            ids = deleted_functions.cancel_queued(function, _BATCH)
            self._ended.notify(ids)
            self._ready.drop(function.project_id, function.id, ids)
            cancelled += len(ids)
            if len(ids) < _BATCH:
                deleted_functions.forget(function)
                return cancelled, True
            time.sleep(time.monotonic() - started)  # other writers have a turn
        return cancelled, False
