"""Whether a project may have one more execution: decided before a call runs, and nearly always without a statement.

Counting a project's executions at each call would cost more than the call. So each process remembers for the projects
that it runs calls of how many executions they have, adds its own, and counts anew in the background. How exact that is:

1. Far from the limit (more than `_NEAR` left) the number is about a second old, or older where counting takes long.
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
from collections import OrderedDict
from dataclasses import dataclass, field

import gevent
from gevent.event import Event
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
# Projects without a call for so long are not counted.
_ACTIVE_S = 60.0
_REMEMBERED = 10_000


@dataclass(slots=True)
class _Use:
    """What is known of one project.

    Attributes:
        limit: -1: there is none; None: it has to be read.
        counted: executions in the database when they were counted last; or `_QUICKLY_COUNTED` if there are more, and
            nothing has counted them all yet.
        recorded: executions that this process has recorded since then.
        counted_at: when the last complete count began, by `time.monotonic()`; None: there was none.
        took_s: how long it took.
        called_at: when a call asked last.
        counting: held by the greenlet that counts.
    """

    limit: int | None = None
    counted: int = 0
    recorded: int = 0
    counted_at: float | None = None
    took_s: float = 0.0
    called_at: float = 0.0
    counting: BoundedSemaphore = field(default_factory=BoundedSemaphore)


class ExecutionQuota:
    """The limits and uses of the projects that this process runs calls of."""

    def __init__(self) -> None:
        self._projects: OrderedDict[str, _Use] = OrderedDict()
        self._hurry = Event()

    def start(self) -> None:
        """Count in the background from now on."""
        gevent.spawn(self._count_forever)

    def check(self, project_id: str) -> None:
        """Make sure that the project may have one more execution.

        Raises:
            QuotaExceeded: it has as many as it may have.
            Unavailable: nothing is known of the project yet, and the database is away.
        """
        use = self._use_of(project_id)
        use.called_at = time.monotonic()
        limit = use.limit
        if limit is None:
            limit = self._read_limit(project_id, use)
        left = limit - use.counted - use.recorded
        if limit == quotas.UNLIMITED or left > _NEAR:
            return
        is_old = use.counted_at is None or use.called_at - use.counted_at > use.took_s / _PART_NEAR
        if is_old or (0 < left <= _FEW and use.counted <= _QUICKLY_COUNTED):
            self._count(project_id, use)
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

    def used(self, project_id: str) -> int:
        """How many executions the project has; those who ask at the same time share one count."""
        use = self._use_of(project_id)
        self._count(project_id, use)
        return use.counted + use.recorded

    def _use_of(self, project_id: str) -> _Use:
        use = self._projects.get(project_id)
        if use is None:
            use = self._projects[project_id] = _Use()
            if len(self._projects) > _REMEMBERED:
                self._projects.popitem(last=False)
        return use

    def _read_limit(self, project_id: str, use: _Use) -> int:
        """Read the limit. The first call of a project waits for no long count: all are counted in the background."""
        limit = use.limit = _limit_of(project_id)
        if use.counted_at is None and limit != quotas.UNLIMITED:
            began = time.monotonic()
            use.counted = quotas.executions_kept(project_id, at_most=_QUICKLY_COUNTED)
            if use.counted < _QUICKLY_COUNTED:
                use.counted_at, use.took_s = began, time.monotonic() - began
            else:
                self._hurry.set()
        return limit

    def _count(self, project_id: str, use: _Use) -> None:
        """Count all executions, unless another greenlet has begun to do so after this one asked."""
        asked_at = time.monotonic()
        with use.counting:
            if use.counted_at is not None and use.counted_at >= asked_at:
                return
            began, recorded = time.monotonic(), use.recorded
            use.counted = quotas.executions_kept(project_id)
            use.recorded -= recorded
            use.counted_at, use.took_s = began, time.monotonic() - began

    def _count_forever(self) -> None:
        next_pass = time.monotonic() + _INTERVAL_S
        while True:
            self._hurry.wait(max(0.0, next_pass - time.monotonic()))
            self._hurry.clear()
            began = time.monotonic()
            try:
                self._count_active(only_new=began < next_pass)
            except Exception as error:
                logger.warning("executions could not be counted", extra={"reason": str(error)})
            ended = time.monotonic()
            if began >= next_pass:
                next_pass = ended + max(_INTERVAL_S, (ended - began) / _PART_FAR)
            gevent.sleep(ended - began)

    def _count_active(self, *, only_new: bool = False) -> None:
        """Count for the projects that have called of late, or only for those that were never counted completely."""
        active_since = time.monotonic() - _ACTIVE_S
        for project_id, use in list(self._projects.items()):
            if use.called_at > active_since and not (only_new and use.counted_at is not None):
                use.limit = _limit_of(project_id)
                if use.limit != quotas.UNLIMITED:
                    self._count(project_id, use)


def _limit_of(project_id: str) -> int:
    return quotas.limits_of(project_id)[quotas.EXECUTIONS]
