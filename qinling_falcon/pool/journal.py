"""The changes of this process's journal in Redis that Redis has not got yet."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection

_MOST_AT_ONCE = 500


class JournalChanges:
    """Committed executions that Redis does not know about, and abandoned executions, which are to be recorded as lost.

    Acknowledgements travel with the next script of this process, so they cost no round trip. If there is no script for
    some milliseconds, `Ended` sends them. If the process dies before, the reaper has the executions recorded as lost.
    That changes nothing, because their final records exist.

    Attributes:
        abandoned: (execution, worker, token) of each abandoned execution; the token is 0 if the worker is not to drain.
    """

    def __init__(self) -> None:
        self._committed: dict[str, None] = {}
        self._since = 0.0
        self.abandoned: list[tuple[str, str, int]] = []

    def acknowledge(self, execution_id: str) -> None:
        """Have an execution removed from the journal, and those processes notified whose requests wait for its end."""
        if not self._committed:
            self._since = time.monotonic()
        self._committed[execution_id] = None

    def age_s(self) -> float | None:
        """For how many seconds the first execution has waited to be acknowledged; None: no execution waits."""
        return time.monotonic() - self._since if self._committed else None

    def take(self) -> str:
        """The executions to acknowledge now, as an argument of the scripts: ids joined by commas."""
        if not self._committed:
            return ""
        taken = list(itertools.islice(self._committed, _MOST_AT_ONCE))
        if len(taken) == len(self._committed):
            self._committed = {}
        else:
            for execution_id in taken:
                del self._committed[execution_id]
        return ",".join(taken)

    def put_back(self, taken: str, running: Collection[str]) -> None:
        """Acknowledge `taken` later, because its script may not have run. Executions that run again stay."""
        if taken:
            for execution_id in taken.split(","):
                if execution_id not in running:
                    self.acknowledge(execution_id)
