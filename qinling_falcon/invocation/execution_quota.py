"""Enforces the quota of executions before a call runs, nearly always without an SQL statement.

Counting a project's executions at each call would cost more than the call itself. Each process therefore remembers a
count for each project whose calls it runs, adds its own executions, and counts again in the background. The accuracy
depends on how many executions the project has left:

1. More than `_NEAR`: the count is about a second old, or older if counting takes long.
2. At most `_NEAR`: the process counts before the call, unless it has just done so. A refusal may use a slightly older
   count, so that refused calls cost little.
3. At most `_FEW`, with at most `_QUICKLY_COUNTED` executions: the process counts before each call.

Calls that run or wait at the same time do not see each other's records, so a project can exceed its limit by their
number. The record of a call that has run is never refused. Retention (`models/retention.py`) keeps most projects far
from their limit.
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

# See cases 1 to 3 above. Counting `_QUICKLY_COUNTED` executions takes about a millisecond.
_NEAR = 1000
_FEW = 50
_QUICKLY_COUNTED = 20_000
# The largest share of time that is spent on counting: near the limit, and in the background.
_PART_NEAR = 1 / 10
_PART_FAR = 1 / 100
_INTERVAL_S = 1.0
# A project without a call for this long is not counted in the background.
_ACTIVE_S = 60.0
_REMEMBERED = 10_000


@dataclass(slots=True)
class _Use:
    """The limit and the use of one project.

    Attributes:
        limit: the limit; -1: none; None: not read yet.
        counted: executions in the database at the last count; `_QUICKLY_COUNTED` if there are more and no complete
            count has been made yet.
        recorded: executions that this process has recorded since the last count.
        counted_at: start of the last complete count, by `time.monotonic()`; None: no complete count yet.
        took_s: duration of the last complete count in seconds.
        called_at: time of the last call, by `time.monotonic()`.
        counting: a lock that the counting greenlet holds.
    """

    limit: int | None = None
    counted: int = 0
    recorded: int = 0
    counted_at: float | None = None
    took_s: float = 0.0
    called_at: float = 0.0
    counting: BoundedSemaphore = field(default_factory=BoundedSemaphore)


class ExecutionQuota:
    """Checks the quota of executions for the projects whose calls this process runs."""

    def __init__(self) -> None:
        self._projects: OrderedDict[str, _Use] = OrderedDict()
        self._hurry = Event()

    def start(self) -> None:
        """Start counting in the background."""
        gevent.spawn(self._count_forever)

    def check(self, project_id: str) -> None:
        """Check that the project may have one more execution.

        Raises:
            QuotaExceeded: the project has reached its limit.
            Unavailable: the database is away, and the limit has not been read yet.
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
        limit = use.limit = _limit_of(project_id)  # an admin may have raised it just now
        if used >= limit != quotas.UNLIMITED:
            raise QuotaExceeded(quotas.EXECUTIONS, limit, used)

    def recorded(self, project_id: str) -> None:
        """Note that the project has one more execution."""
        use = self._projects.get(project_id)
        if use is not None:
            use.recorded += 1

    def forget(self, project_id: str) -> None:
        """Read the limit again at the next call. A new limit makes the project's targets stale, which leads to this."""
        use = self._projects.get(project_id)
        if use is not None:
            use.limit = None

    def used(self, project_id: str) -> int:
        """Count the project's executions now. Concurrent callers share one count."""
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
        """Read the limit, and count up to `_QUICKLY_COUNTED` executions; the background count does the rest."""
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
        """Count all executions, unless another greenlet has started a count since this method was called."""
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
        """Count for the projects with recent calls; with `only_new`, only for those without a complete count."""
        active_since = time.monotonic() - _ACTIVE_S
        for project_id, use in list(self._projects.items()):
            if use.called_at > active_since and not (only_new and use.counted_at is not None):
                use.limit = _limit_of(project_id)
                if use.limit != quotas.UNLIMITED:
                    self._count(project_id, use)


def _limit_of(project_id: str) -> int:
    return quotas.limits_of(project_id)[quotas.EXECUTIONS]
