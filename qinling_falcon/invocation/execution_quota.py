"""Enforces the quota of executions before a call runs, nearly always without an SQL statement.

Counting a project's executions at each call would cost more than the call itself. Each process therefore remembers a
count for each project whose calls it runs, adds its own executions, and counts again in the background. The accuracy
depends on how many executions the project has left:

1. More than `_NEAR`: the count is about a second old, or older if counting takes long.
2. At most `_NEAR`: the process counts before the call, unless it has just done so. A refusal may use a slightly older
   count, so that refused calls cost little.
3. At most `_FEW`, with at most `_QUICKLY_COUNTED` executions: the process counts before each call.

A call holds a `Reservation` from its check until its first row is written, or until it ends without a record. The
process counts its reservations as use. Calls of one process therefore never exceed the limit together. There is one
exception: until the first complete count of a project with more than `_QUICKLY_COUNTED` executions, the process assumes
a lower number. If a count runs while a call has both a reservation and a row, it counts the call twice. This can refuse
a call until the next count.

A process does not see the reservations of other processes. With N web processes, a project can exceed its limit by the
calls that it has in flight in the other N - 1 when the limit is reached. With more than `_QUICKLY_COUNTED` executions,
it can also exceed it by the calls that the other processes have recorded since the last count of case 2. The record of
a call that has run is never refused. Retention (`models/retention.py`) keeps most projects far from their limit.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from types import TracebackType

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
        in_flight: the reservations of this process.
        counted_at: start of the last complete count, by `time.monotonic()`; None: no complete count yet.
        took_s: duration of the last complete count in seconds.
        called_at: time of the last call, by `time.monotonic()`.
        counting: a lock that the counting greenlet holds.
    """

    limit: int | None = None
    counted: int = 0
    recorded: int = 0
    in_flight: int = 0
    counted_at: float | None = None
    took_s: float = 0.0
    called_at: float = 0.0
    counting: BoundedSemaphore = field(default_factory=BoundedSemaphore)

    @property
    def used(self) -> int:
        """The project's executions and the reservations of this process."""
        return self.counted + self.recorded + self.in_flight


class Reservation:
    """One execution that is reserved in a project's quota, until the `with` block ends.

    Args:
        quota: checks the quota; None: there is no check.
    """

    __slots__ = ("_is_recorded", "_quota", "_use")

    def __init__(self, quota: ExecutionQuota | None) -> None:
        self._quota = quota
        self._use: _Use | None = None
        self._is_recorded = False

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def take(self, project_id: str) -> None:
        """Check that the project may have one more execution, and reserve it.

        A call that is tried again is checked again, because the limit may have changed, unless it has a row.

        Raises:
            QuotaExceeded, Unavailable: see `ExecutionQuota.admit`.
        """
        if self._quota is not None and not self._is_recorded:
            self._leave()
            self._use = self._quota.admit(project_id)

    def recorded(self) -> None:
        """Count the call's row instead of its reservation. Repeated calls do nothing."""
        if self._use is not None:
            self._use.recorded += 1
            self._is_recorded = True
            self._leave()

    def _leave(self) -> None:
        if self._use is not None:
            self._use.in_flight -= 1
            self._use = None


class ExecutionQuota:
    """Checks the quota of executions for the projects whose calls this process runs."""

    def __init__(self) -> None:
        self._projects: OrderedDict[str, _Use] = OrderedDict()
        self._hurry = Event()
        self._counting: gevent.Greenlet | None = None

    def start(self) -> None:
        """Start counting in the background, unless that has been started."""
        if self._counting is None:
            self._counting = gevent.spawn(self._count_forever)

    def stop(self) -> None:
        """End the counting in the background."""
        if self._counting is not None:
            self._counting.kill()
            self._counting = None

    def admit(self, project_id: str) -> _Use:
        """Check that the project may have one more execution, and count it as in flight until its `Reservation` ends.

        Raises:
            QuotaExceeded: the project has reached its limit.
            Unavailable: the database is away, and the limit has not been read yet.
        """
        use = self._use_of(project_id)
        use.called_at = time.monotonic()
        limit = use.limit
        if limit is None:
            limit = self._read_limit(project_id, use)
        if limit != quotas.UNLIMITED and limit - use.used <= _NEAR:
            self._check_near(project_id, use, limit)
        use.in_flight += 1  # no other greenlet has run since the last look at `used`
        return use

    def forget(self, project_id: str) -> None:
        """Read the limit again at the next call. A new limit makes the project's targets stale, which leads to this."""
        use = self._projects.get(project_id)
        if use is not None:
            use.limit = None

    def refresh_limits(self, project_ids: Collection[str]) -> None:
        """Read the limits again of those projects whose limits are remembered, in one statement.

        Raises:
            Unavailable: the database is away.
        """
        known = [project_id for project_id in project_ids if self._is_remembered(project_id)]
        if known:
            for project_id, limits in quotas.limits_of_all(known).items():
                self._use_of(project_id).limit = limits[quotas.EXECUTIONS]

    def _is_remembered(self, project_id: str) -> bool:
        use = self._projects.get(project_id)
        return use is not None and use.limit is not None

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
                # Not a project with calls in flight, because its reservations would be lost.
                del self._projects[next(known for known, its in self._projects.items() if not its.in_flight)]
        return use

    def _read_limit(self, project_id: str, use: _Use) -> int:
        """Read the limit, and count up to `_QUICKLY_COUNTED` executions; the background count does the rest.

        Calls that arrive meanwhile wait, because they must not see the limit before the count.
        """
        with use.counting:
            if use.limit is not None:
                return use.limit
            limit = _limit_of(project_id)
            if use.counted_at is None and limit != quotas.UNLIMITED:
                started_at, recorded = time.monotonic(), use.recorded
                use.counted = quotas.executions_kept(project_id, at_most=_QUICKLY_COUNTED)
                if use.counted < _QUICKLY_COUNTED:
                    use.recorded -= recorded
                    use.counted_at, use.took_s = started_at, time.monotonic() - started_at
                else:
                    self._hurry.set()
            use.limit = limit
            return limit

    def _check_near(self, project_id: str, use: _Use, limit: int) -> None:
        """Check the limit in the cases 2 and 3."""
        left = limit - use.used
        is_old = use.counted_at is None or use.called_at - use.counted_at > use.took_s / _PART_NEAR
        # Before a refusal too, where a row may have been counted twice: by the last count and in `recorded`.
        is_unsure = left <= _FEW and (left > 0 or use.recorded > 0)
        if is_old or (is_unsure and use.counted <= _QUICKLY_COUNTED):
            self._count(project_id, use)
        if use.used < limit:
            return
        limit = use.limit = _limit_of(project_id)  # an admin may have raised it just now
        used = use.used
        if used >= limit != quotas.UNLIMITED:
            raise QuotaExceeded(quotas.EXECUTIONS, limit, used)

    def _count(self, project_id: str, use: _Use) -> None:
        """Count all executions, unless another greenlet has started a count since this method was called."""
        asked_at = time.monotonic()
        with use.counting:
            if use.counted_at is not None and use.counted_at >= asked_at:
                return
            started_at, recorded = time.monotonic(), use.recorded
            use.counted = quotas.executions_kept(project_id)
            use.recorded -= recorded
            use.counted_at, use.took_s = started_at, time.monotonic() - started_at

    def _count_forever(self) -> None:
        next_pass = time.monotonic() + _INTERVAL_S
        while True:
            self._hurry.wait(max(0.0, next_pass - time.monotonic()))
            self._hurry.clear()
            started_at = time.monotonic()
            try:
                self._count_active(only_new=started_at < next_pass)
            except Exception as error:
                logger.warning("executions could not be counted", extra={"reason": str(error)})
            took_s = time.monotonic() - started_at
            if started_at >= next_pass:
                next_pass = started_at + took_s + max(_INTERVAL_S, took_s / _PART_FAR)
            gevent.sleep(took_s)

    def _count_active(self, *, only_new: bool = False) -> None:
        """Count for the projects with recent calls; with `only_new`, only for those without a complete count."""
        active_since = time.monotonic() - _ACTIVE_S
        for project_id, use in list(self._projects.items()):
            if use.called_at > active_since and not (only_new and use.counted_at is not None):
                limit = _limit_of(project_id)
                if limit != quotas.UNLIMITED:
                    self._count(project_id, use)
                use.limit = limit


def _limit_of(project_id: str) -> int:
    return quotas.limits_of(project_id)[quotas.EXECUTIONS]
