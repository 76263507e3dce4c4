"""Tells Redis which executions have ended, so that requests in all processes that wait for one of them are answered.

Each function that commits a final state calls `Ended.notify` afterwards. This also removes the execution from the
journal of this process, if it is there. In a busy process the ids are sent with the next script, and cost one command
for all of them. In a quiet process they are sent after `_SOON_S`.

If Redis is away, the ids are sent with a later heartbeat. If this process dies before that, the waiting requests find
the end in the database (see `invocation/waits.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from qinling_falcon.pool.journal import JournalChanges
from qinling_falcon.pool.runner import ScriptRunner
from qinling_falcon.pool.timers import call_later
from qinling_falcon.pool.wire import PoolUnavailable

# Long enough for the next script of a busy process, and too short for a caller who waits to notice it.
_SOON_S = 0.005


class Ended:
    """The executions that have ended, as far as Redis does not know it yet.

    Args:
        scripts: runs scripts.
        holder: the name of this process.
        journal: holds the executions.
        running: the executions that this process has started and not acknowledged.
    """

    def __init__(self, scripts: ScriptRunner, holder: str, journal: JournalChanges, running: Collection[str]):
        self._scripts = scripts
        self._holder = holder
        self._journal = journal
        self._running = running
        self._is_timed = False

    def notify(self, execution_ids: Iterable[str]) -> None:
        """Notify the processes whose requests wait for the end of one of these executions. Does not wait for Redis.

        Call it after the commit. It does no harm if an execution has not ended, and costs little if no request waits.

        Executions that this process still runs are left out. One that was cancelled stays in the journal until its run
        is over, because the request that deletes it waits for that. The end of its run is notified then.
        """
        for execution_id in execution_ids:
            if execution_id not in self._running:
                self._journal.acknowledge(execution_id)
        if not self._is_timed:
            self._is_timed = True
            call_later(_SOON_S, self._send_old_ones)

    def _send_old_ones(self) -> None:
        """Send the executions that no script of this process has taken in time. Runs in the event loop."""
        age_s = self._journal.age_s()
        if age_s is not None and age_s < _SOON_S:
            call_later(_SOON_S - age_s, self._send_old_ones)
            return
        self._is_timed = False
        while (taken := self._journal.take()) and self._send(taken):
            pass

    def _send(self, taken: str) -> bool:
        """Send executions. Returns whether there is a connection."""

        def answered(reply: Any) -> None:
            if isinstance(reply, PoolUnavailable):
                self._journal.put_back(taken, self._running)

        is_sent = self._scripts.cast("acknowledge", self._holder, taken, answered=answered)
        if not is_sent:
            self._journal.put_back(taken, self._running)
        return is_sent
