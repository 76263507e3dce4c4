"""Counts how the calls of this process got their workers."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from qinling_falcon.pool.leases import Cold
from qinling_falcon.pool.local_queue import PATIENCE_S

Outcome = Literal["hit", "wait", "assign", "start", "refused"]
"""A call got an idle worker at once; waited for a busy one; got a warm one, which loaded its function; waited for the
start of one; or got none."""


class CallCounts:
    """Counts in memory. The heartbeat adds them to those in Redis, so a call costs no command for that."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, Outcome]] = Counter()

    def served(self, runtime_id: str, cold: Cold, waited_s: float) -> None:
        """A call got a worker."""
        outcome: Outcome = cold if cold != "none" else "hit" if waited_s < PATIENCE_S else "wait"
        self._counts[runtime_id, outcome] += 1

    def refused(self, runtime_id: str) -> None:
        """A call got no worker."""
        self._counts[runtime_id, "refused"] += 1

    def take(self) -> list[str | int]:
        """What was counted since the last time, as the script `count` reads it."""
        counts, self._counts = self._counts, Counter()
        return [word for (runtime_id, outcome), count in counts.items() for word in (runtime_id, outcome, count)]
