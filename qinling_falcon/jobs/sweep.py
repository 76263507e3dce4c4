"""Adds queued executions that the ready sets miss, because a process crashed or Redis lost its data.

If the database was away for longer than a claim, all claims have ended, although their processes may live. So after an
outage, and at the start, the sweep first gives these processes time to extend their claims.
"""

from __future__ import annotations

import time
from collections import defaultdict

from qinling_falcon.errors import Unavailable
from qinling_falcon.models import clock, execution_queue
from qinling_falcon.pool.ready_sets import ReadySets

_PAGE = 2000
_NEVER = clock.from_micros(0)
# A longer gap between two looks means that another process has swept meanwhile.
_LONGEST_GAP_S = 10.0


class Sweep:
    """Walks through the queue of executions, page by page, again and again.

    Args:
        ready: the ready sets, to which executions without a claim are added.
        claim_s: how long a claim lasts.
        extensions: how often a claim is extended within that time.
    """

    def __init__(self, ready: ReadySets, claim_s: float, extensions: int):
        self._ready = ready
        self._claim_s = claim_s
        self._time_to_extend_s = claim_s / extensions
        self._looked_at: float | None = None
        self._has_failed = False  # whether a look has failed since `_looked_at`
        self._claims_extended_at = 0.0
        self._after = ""

    def step(self) -> int:
        """Push one page of the queue. Returns how many executions were pushed.

        Raises:
            Unavailable: the database or Redis is away; call this again later.
        """
        found, last = self._look()
        projects: defaultdict[str, list[tuple[str, str, int]]] = defaultdict(list)
        for queued in found:
            projects[queued.project_id].append((queued.function_id, queued.id, queued.not_before))
        for project_id, executions in projects.items():
            self._ready.push_all(project_id, executions)
        self._after = last or ""
        return len(found)

    def _look(self) -> tuple[list[execution_queue.Queued], str | None]:
        """The next page. While claims may have ended because of an outage, it has no executions whose claim expired."""
        now = time.monotonic()
        if self._may_have_missed_an_outage(now):
            execution_queue.check()
            self._claims_extended_at = now + self._time_to_extend_s
        present = _NEVER if now < self._claims_extended_at else clock.wall()
        try:
            found = execution_queue.unclaimed(self._after, present, _PAGE)
        except Unavailable:
            self._has_failed = True
            raise
        self._looked_at, self._has_failed = now, False
        return found

    def _may_have_missed_an_outage(self, now: float) -> bool:
        """Whether the database may have been away for so long that claims have ended."""
        if self._looked_at is None:
            return True
        gap_s = now - self._looked_at
        return gap_s > self._claim_s / 2 and (self._has_failed or gap_s > _LONGEST_GAP_S)
