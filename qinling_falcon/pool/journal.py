"""The holder's journal in Redis, as far as this process still has to change it."""

from __future__ import annotations

from collections.abc import Collection

_MOST_AT_ONCE = 500


class JournalChanges:
    """Committed executions that the journal still has, and executions that are to be handed on as lost.

    Acknowledgements travel with the next script of this process, so they cost no round trip. If the process dies
    before, the executions are recorded as lost, which changes nothing: their final record is there.
    """

    def __init__(self) -> None:
        self._committed: list[str] = []
        self.abandoned: list[tuple[str, str, int]] = []

    def acknowledge(self, execution_id: str) -> None:
        """The journal needs this execution no longer."""
        self._committed.append(execution_id)

    def take(self) -> str:
        """The executions to acknowledge now, as the scripts read them: ids joined by commas."""
        if not self._committed:
            return ""
        taken, self._committed = self._committed[:_MOST_AT_ONCE], self._committed[_MOST_AT_ONCE:]
        return ",".join(taken)

    def put_back(self, taken: str, running: Collection[str]) -> None:
        """The script that had `taken` may not have been run. What runs once more meanwhile keeps its entry."""
        if taken:
            self._committed += [execution_id for execution_id in taken.split(",") if execution_id not in running]
