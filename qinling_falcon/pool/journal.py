"""The changes of this process's journal in Redis that Redis has not got yet."""

from __future__ import annotations

from collections.abc import Collection

_MOST_AT_ONCE = 500


class JournalChanges:
    """Committed executions that the journal still has, and abandoned executions, which are to be recorded as lost.

    Acknowledgements travel with the next script of this process, so they cost no round trip. If the process dies
    before, the reaper has the executions recorded as lost. That changes nothing, because their final records exist.

    Attributes:
        abandoned: (execution, worker, token) of each abandoned execution; the token is 0 if the worker is not to drain.
    """

    def __init__(self) -> None:
        self._committed: list[str] = []
        self.abandoned: list[tuple[str, str, int]] = []

    def acknowledge(self, execution_id: str) -> None:
        """Have an execution removed from the journal."""
        self._committed.append(execution_id)

    def take(self) -> str:
        """The executions to acknowledge now, as an argument of the scripts: ids joined by commas."""
        if not self._committed:
            return ""
        taken, self._committed = self._committed[:_MOST_AT_ONCE], self._committed[_MOST_AT_ONCE:]
        return ",".join(taken)

    def put_back(self, taken: str, running: Collection[str]) -> None:
        """Acknowledge `taken` later, because its script may not have run. Executions that run again stay."""
        if taken:
            self._committed += [execution_id for execution_id in taken.split(",") if execution_id not in running]
