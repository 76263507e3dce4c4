"""Whether a project may have one more execution: decided before a call runs, and nearly always without a statement.

Counting a project's executions at each call would cost more than the call. So each process remembers for the projects
that it runs calls of how many executions they have, adds its own, and counts anew in the background. How exact that is:

1. Far from the limit (more than `_NEAR` left) the number is at most a second old, or older where counting takes long.
2. Near the limit it is counted before the call, unless that was done a moment ago. With few left of a limit that is
   not large it is always counted before a call is let through. A refusal may be a moment old, so that refused calls
   cost little.
3. Calls that run or wait for a worker at the same moment do not see each other's records. A project can exceed its
   limit by their number.

The record of a call that has run is never refused. Retention (`models/retention.py`) keeps most projects far from
their limit.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

import gevent
from gevent.lock import BoundedSemaphore

from qinling_falcon.errors import QuotaExceeded
from qinling_falcon.models import quotas

logger = logging.getLogger(__name__)

# With fewer executions left than that, calls have them counted; with few left each call, where counting takes about a
# millisecond.
_NEAR = 1000
_FEW = 50
_QUICKLY_COUNTED = 20_000
# Counting takes at most this part of the time: near the limit, and in the background.
_PART_NEAR = 1 / 10
_PART_FAR = 1 / 100
_INTERVAL_S = 1.0
# A project without a call for so long is forgotten.
_IDLE_S = 60.0


@dataclass(slots=True)
class _Use:
    """What is known of one project.

    Attributes:
        limit: -1: there is none; None: it has to be read.
        counted: executions in the database when they were counted last.
        recorded: executions that this process has recorded since then.
        looked_at: when the last look at the database began, by `time.monotonic()`.
        took_s: how long it took.
        called_at: when a call asked last.
        looking: held by the greenlet that looks.
    """

    limit: int | None = None
    counted: int = 0
    recorded: int = 0
    looked_at: float = float("-inf")
    took_s: float = 0.0
    called_at: float = 0.0
    looking: BoundedSemaphore = field(default_factory=BoundedSemaphore)


class ExecutionQuota:
    """The limits and uses of the projects that this process runs calls of."""

    def __init__(self) -> None:
        self._projects: dict[str, _Use] = {}

    def start(self) -> None:
        """Count in the background from now on."""
        gevent.spawn(self._look_forever)

    def check(self, project_id: str) -> None:
        """Make sure that the project may have one more execution.

        Raises:
            QuotaExceeded: it has as many as it may have.
            Unavailable: nothing is known of the project yet, and the database is away.
        """
        use = self._projects.get(project_id)
        if use is None:
            use = self._projects[project_id] = _Use()
        use.called_at = time.monotonic()
        limit = use.limit
        if limit is None:
            limit = self._look(project_id, use)
        left = limit - use.counted - use.recorded
        if limit == quotas.UNLIMITED or left > _NEAR:
            return
        is_old = use.called_at - use.looked_at > use.took_s / _PART_NEAR
        if is_old or (0 < left <= _FEW and use.counted <= _QUICKLY_COUNTED):
            limit = self._look(project_id, use)
        used = use.counted + use.recorded
        if used < limit:
            return
        limit = use.limit = _limit_of(project_id)  # an admin may just have raised it
        if used >= limit != quotas.UNLIMITED:
            raise QuotaExceeded(quotas.EXECUTIONS, limit, used)

    def recorded(self, project_id: str) -> None:
        """Note that the project has one more execution."""
        use = self._projects.get(project_id)
        if use is not None:
            use.recorded += 1

    def forget(self, project_id: str) -> None:
        """Have the limit read again at the next call. A change of the limit makes the project's targets stale."""
        use = self._projects.get(project_id)
        if use is not None:
            use.limit = None

    def _look(self, project_id: str, use: _Use) -> int:
        """Read the limit, which is returned, and count, unless another greenlet did both since this one asked."""
        asked_at = time.monotonic()
        with use.looking:
            if use.looked_at >= asked_at and use.limit is not None:
                return use.limit
            began, recorded = time.monotonic(), use.recorded
            limit = use.limit = _limit_of(project_id)
            if limit != quotas.UNLIMITED:
                use.counted = quotas.executions_kept(project_id)
                use.recorded -= recorded
            use.looked_at, use.took_s = began, time.monotonic() - began
            return limit

    def _look_forever(self) -> None:
        pause_s = _INTERVAL_S
        while True:
            gevent.sleep(pause_s)
            began = time.monotonic()
            try:
                self._look_at_all()
            except Exception as error:
                logger.warning("executions could not be counted", extra={"reason": str(error)})
            pause_s = max(_INTERVAL_S, (time.monotonic() - began) / _PART_FAR)

    def _look_at_all(self) -> None:
        idle_since = time.monotonic() - _IDLE_S
        self._projects = {name: use for name, use in self._projects.items() if use.called_at > idle_since}
        for project_id, use in list(self._projects.items()):
            self._look(project_id, use)


def _limit_of(project_id: str) -> int:
    return quotas.limits_of(project_id)[quotas.EXECUTIONS]
