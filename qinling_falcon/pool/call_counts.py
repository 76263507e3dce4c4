"""Counts how the calls of this process got their workers."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from qinling_falcon.pool.leases import StartKind
from qinling_falcon.pool.local_queue import PATIENCE_S

Outcome = Literal["hit", "wait", "assign", "start", "refused"]
"""How a call got its worker: an idle one at once (`hit`), a busy one after a wait (`wait`), a warm one that loaded the
function (`assign`), one that was started for it (`start`), or none (`refused`)."""


class CallCounts:
    """Counts in memory, so counting costs a call no command. The heartbeat adds the counts to those in Redis."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, Outcome]] = Counter()

    def served(self, runtime_id: str, cold: StartKind, waited_s: float) -> None:
        """Count a call that got a worker."""
        outcome: Outcome = cold if cold != "none" else "hit" if waited_s < PATIENCE_S else "wait"
        self._counts[runtime_id, outcome] += 1

    def refused(self, runtime_id: str) -> None:
        """Count a call that got no worker."""
        self._counts[runtime_id, "refused"] += 1

    def take(self) -> list[str | int]:
        """The counts since the last time, as arguments of the script `count`."""
        counts, self._counts = self._counts, Counter()
        return [part for (runtime_id, outcome), count in counts.items() for part in (runtime_id, outcome, count)]
