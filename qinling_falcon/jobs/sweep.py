"""Adds queued executions that the ready sets miss, because a process crashed or Redis lost its data."""

from __future__ import annotations

from collections import defaultdict

from qinling_falcon.models import clock, execution_queue
from qinling_falcon.pool.ready_sets import ReadySets

_PAGE = 2000


class Sweep:
    """Walks through the queue of executions, a few pages at a time, again and again.

    Args:
        ready: gets what is not claimed.
    """

    def __init__(self, ready: ReadySets):
        self._ready = ready
        self._after = ""

    def step(self) -> int:
        """Push one page of the queue. Returns how many executions were pushed.

        Raises:
            Unavailable: the database or Redis is away; call this again later.
        """
        found, last = execution_queue.unclaimed(self._after, clock.now(), _PAGE)
        projects: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
        for queued in found:
            projects[queued.project_id].append((queued.id, queued.not_before))
        for project_id, executions in projects.items():
            self._ready.push_all(project_id, executions)
        self._after = last or ""
        return len(found)
