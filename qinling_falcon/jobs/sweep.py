"""Adds queued executions that the ready sets miss, because a process crashed or Redis lost its data.

If the database was away for longer than a claim, all claims have ended, although their processes may live. So the sweep
gives them time to extend their claims when the database is back.
"""

from __future__ import annotations

import time
from collections import defaultdict

from qinling_falcon.errors import Unavailable
from qinling_falcon.models import clock, execution_queue
from qinling_falcon.pool.ready_sets import ReadySets

_PAGE = 2000


class Sweep:
    """Walks through the queue of executions, a few pages at a time, again and again.

    Args:
        ready: gets what is not claimed.
        pause_s: how long to wait when the database is back.
    """

    def __init__(self, ready: ReadySets, pause_s: float):
        self._ready = ready
        self._pause_s = pause_s
        self._paused_until = 0.0
        self._after = ""

    def step(self) -> int:
        """Push one page of the queue. Returns how many executions were pushed.

        Raises:
            Unavailable: the database or Redis is away; call this again later.
        """
        if time.monotonic() < self._paused_until:
            return 0
        try:
            found, last = execution_queue.unclaimed(self._after, clock.now(), _PAGE)
        except Unavailable:
            self._paused_until = time.monotonic() + self._pause_s
            raise
        projects: defaultdict[str, list[tuple[str, str, int]]] = defaultdict(list)
        for queued in found:
            projects[queued.project_id].append((queued.function_id, queued.id, queued.not_before))
        for project_id, executions in projects.items():
            self._ready.push_all(project_id, executions)
        self._after = last or ""
        return len(found)
