"""The queue of this process's calls that wait for one target, and the estimate of when its workers become free."""

from __future__ import annotations

import math
import time
from bisect import insort
from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter

from qinling_falcon.pool.async_share import ASK_AGAIN_S
from qinling_falcon.pool.leases import LeasedWorker, StartKind
from qinling_falcon.pool.waiter import NoLease, Waiter

PATIENCE_S = 0.005
"""A call waits this long for a worker of its target before its queue may escalate; also in `scripts/parts/queues.lua`.
"""

SPARE_S = 0.005
"""A process keeps a free worker this long for the next call of its target, if that call is likely to come in time."""

_LONGEST_SPARE_S = 0.025
# A process gets at least this many workers for a function quicker than `_QUICK_S`. Then several calls end together and
# share a commit.
_FEWEST_WORKERS = 4
_QUICK_S = 0.001
# A queue with a grace applies `_FEWEST_WORKERS` only while that many executions wait. Then it asks for one more worker,
# at most once in the time of its grace.
_LARGE_BACKLOG = 32
# A queue escalates in any case when its oldest call has waited for this time, or for `_LONG_STARTS` times the cost of a
# start if that is more, but after `_LONGEST_PATIENCE_S` at most; also in `scripts/parts/queues.lua`.
_LONG_PATIENCE_S = 0.1
_LONG_STARTS = 5
_LONGEST_PATIENCE_S = 1.0
# The estimate leaves out a worker whose execution has run for more than twice the mean time and this time.
_OVERDUE_S = 0.02
# A process wants one more worker when its calls have recently waited for `_STARTS` times the cost of a start, in total.
# The sum decreases by this share of the time, so that short waits do not count.
_STARTS = 2
_USUAL_WAIT = 0.01
# The weights of a new value in the moving means.
_NEW_BUSY_WEIGHT = 0.1
_NEW_GAP_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class Offer:
    """A worker that Redis offers to this process for its oldest call in a queue."""

    worker: LeasedWorker
    cold: StartKind


class WaitedLately:
    """The sum of recent waiting times. It decreases by `_USUAL_WAIT` seconds each second."""

    __slots__ = ("_at", "_sum_s")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Set the sum to 0."""
        self._sum_s = 0.0
        self._at = time.monotonic()

    def add(self, waited_s: float) -> None:
        """Add the waiting time of a call."""
        self._sum_s = self.sum() + waited_s
        self._at = time.monotonic()

    def sum(self) -> float:
        """The present sum, in seconds."""
        return max(0.0, self._sum_s - _USUAL_WAIT * (time.monotonic() - self._at))


@dataclass(slots=True, eq=False)
class LocalQueue:
    """The waiting calls of one target in this process, in order of arrival.

    Attributes:
        name: as `LeaseRequest.queue`.
        waiters: the calls.
        offers: workers that Redis has offered and no call has got yet. An offer may come before the reply that tells
            its call to wait.
        asking: the number of calls that wait for a reply of Redis.
        leased: the number of workers of the target that this process has leased.
        leased_since: when it leased the first of them, on the monotonic clock.
        running_since: when the execution of each busy worker started, on the monotonic clock, by worker id; the oldest
            first.
        counted: the number of waiters that Redis shall count.
        entry_count: the number of calls in the entry of this process in Redis, without those that are asking.
        spares: free workers that are kept for the next call, and since when; the oldest first.
        freed_at: when a worker became free while no call waited; None: a call has come since.
        gap_s: the time from then to the next call, as a moving mean; None: unknown.
        is_spare_timed: whether a timer will release spare workers.
        busy_s: the time that an execution takes in the worker, as a moving mean; None: unknown.
        is_unsure: whether a message to Redis may have been lost, so that `entry_count` may be wrong.
        is_escalated: whether the entry has asked for one more worker.
        is_watched: whether a timer will check the queue.
        refused_until: until then, asynchronous executions wait for a worker that this process has, because Redis has
            refused one more; on the monotonic clock.
        reported_at: when Redis was last told that calls have waited for long, on the monotonic clock.
        waited_lately: the recent waiting times of the calls.
        grace_s: calls arrive and enter later by this time than they do in fact, so they do not count as waiting before.
            A process that runs asynchronous executions thus uses one worker for a target until its backlog would take
            longer, or is large. It is 0 in other processes.
        is_for_calls: whether a free worker goes to the next call. It does not in a queue of kind `warm`, where each
            request loads one more worker. The name has the kind (see `LeaseRequest.queue`).
    """

    name: str
    grace_s: float = 0.0
    waiters: deque[Waiter] = field(default_factory=deque)
    offers: deque[Offer] = field(default_factory=deque)
    asking: int = 0
    leased: int = 0
    leased_since: float = 0.0
    running_since: dict[str, float] = field(default_factory=dict)
    spares: deque[tuple[LeasedWorker, float]] = field(default_factory=deque)
    freed_at: float | None = None
    gap_s: float | None = None
    is_spare_timed: bool = False
    counted: int = 0
    entry_count: int = 0
    busy_s: float | None = None
    is_unsure: bool = False
    is_escalated: bool = False
    is_watched: bool = False
    refused_until: float = 0.0
    reported_at: float = 0.0
    waited_lately: WaitedLately = field(default_factory=WaitedLately)
    is_for_calls: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_for_calls = self.name.split("|", 3)[2] == "any"

    @property
    def is_unused(self) -> bool:
        """Whether nothing needs this object any more."""
        return not (self.waiters or self.offers or self.asking or self.leased or self.entry_count or self.is_unsure)

    def note_refused(self) -> None:
        """Note that Redis gives this process no further worker. Without any, its calls wait for the share."""
        self.refused_until = time.monotonic() + ASK_AGAIN_S
        if self.leased == 0:
            self.ask_again(NoLease.NO_SHARE)

    def expected_wait_s(self) -> float:
        """The expected wait, in seconds, of one more call for a worker of this process.

        The estimate uses the busy time of the workers, not the time for which this process holds them, because more
        workers do not help a slow process. It assumes that the worker that started first is free first, and that calls
        that are asking Redis get workers.

        Returns:
            Infinite if too few workers will be free: fewer than `_fewest_workers`. While `busy_s` is not known: 0 if
            the queue has a grace and a worker is leased or asked for, else infinite.
        """
        if self.busy_s is None:
            return 0.0 if self.grace_s and (self.leased or self.asking) else math.inf
        now = time.monotonic()
        overdue, first_s = 0, self.busy_s
        for started_at in self.running_since.values():
            if now - started_at <= 2 * self.busy_s + _OVERDUE_S:
                first_s = max(0.0, started_at + self.busy_s - now)
                break
            overdue += 1
        workers = self.leased - len(self.spares) - len(self.offers) - overdue + self.asking
        if workers < self._fewest_workers:
            return math.inf
        return first_s + len(self.waiters) * self.busy_s / workers

    @property
    def may_ask_for_backlog(self) -> bool:
        """Whether so many executions of a quick function wait that the next one asks Redis for one more worker.

        It does not if Redis was told within the time of the grace that executions wait.
        """
        if not self._is_quick or len(self.waiters) < _LARGE_BACKLOG or self._may_get_no_more:
            return False
        return time.monotonic() - self.reported_at >= self.grace_s > 0

    @property
    def _is_quick(self) -> bool:
        return self.busy_s is not None and self.busy_s < _QUICK_S

    @property
    def _fewest_workers(self) -> int:
        return _FEWEST_WORKERS if self._is_quick and (self.grace_s == 0 or self.may_ask_for_backlog) else 1

    def expects_worker_soon(self) -> bool:
        """Whether one more call is likely to get a worker of this process within `PATIENCE_S` after its grace."""
        return self._may_get_no_more or self.expected_wait_s() < self.grace_s + PATIENCE_S

    @property
    def _may_get_no_more(self) -> bool:
        return self.leased > 0 and time.monotonic() < self.refused_until

    def may_delay_escalation(self, start_s: float) -> bool:
        """Whether waiting costs less than one more worker.

        It does if a worker of this process is expected within `PATIENCE_S`: then calls wait for their process, and more
        workers would not help. Otherwise the cost of waiting is the sum of the recent waiting times, the present wait
        of the oldest call, and the expected wait of one more call. After a long wait the queue escalates in any case.

        Args:
            start_s: the cost of a start.
        """
        if self._may_get_no_more:
            return True
        waited_s = self.waited_s(self.waiters[0])
        if waited_s >= min(_LONGEST_PATIENCE_S, max(_LONG_PATIENCE_S, _LONG_STARTS * start_s)):
            return False
        if self.leased == 0:
            expected_s = self.busy_s or 0.0  # a worker of another process will be free
        elif self.busy_s is None:
            return True
        else:
            expected_s = self.expected_wait_s()
            if expected_s < self.grace_s + PATIENCE_S:
                return True
        return self.waited_lately.sum() + waited_s + expected_s < max(2 * PATIENCE_S, _STARTS * start_s)

    def waited_s(self, waiter: Waiter) -> float:
        """For how long a call has waited, not counting the time before this process had a worker of the target."""
        return max(0.0, time.monotonic() - max(waiter.entered, self.leased_since if self.leased else 0.0))

    def add_leased(self) -> None:
        """Note that this process has leased one more worker."""
        if self.leased == 0:
            self.leased_since = time.monotonic()
        self.leased += 1

    def expects_call(self) -> bool:
        """Note that a worker became free while no call waits. Returns whether a call is likely within `spare_s`."""
        self.freed_at = time.monotonic()
        return self.gap_s is not None and self.gap_s < self.spare_s

    @property
    def spare_s(self) -> float:
        """For how long a process keeps a free worker for the next call, if that call is likely to come in time."""
        return SPARE_S if self.busy_s is None else min(_LONGEST_SPARE_S, max(SPARE_S, self.busy_s))

    def note_arrival(self) -> None:
        """Note that a call has arrived."""
        if self.freed_at is not None:
            self._note_gap(time.monotonic() - self.freed_at)
            self.freed_at = None

    def expired_spares(self) -> list[LeasedWorker]:
        """Take out the spare workers for which no call came."""
        since = time.monotonic() - self.spare_s
        expired = []
        while self.spares and self.spares[0][1] <= since:
            expired.append(self.spares.popleft()[0])
        if expired:
            self._note_gap(2 * self.spare_s)
        return expired

    def _note_gap(self, gap_s: float) -> None:
        gap_s = min(gap_s, 2 * self.spare_s)
        self.gap_s = gap_s if self.gap_s is None else self.gap_s + _NEW_GAP_WEIGHT * (gap_s - self.gap_s)

    def enter(self, waiter: Waiter) -> None:
        """Add a call at its position by arrival."""
        self.counted += waiter.is_counted
        if not self.waiters or self.waiters[-1].arrived <= waiter.arrived:
            self.waiters.append(waiter)
        else:
            insort(self.waiters, waiter, key=attrgetter("arrived"))

    def take(self) -> Waiter:
        """Take the oldest call out of the queue."""
        waiter = self.waiters.popleft()
        self.counted -= waiter.is_counted
        return waiter

    def take_for(self, worker: LeasedWorker) -> Waiter | None:
        """Take the oldest call that accepts this worker out of the queue."""
        if not worker.needs_load:
            return self.take() if self.waiters else None
        waiter = self.first_that_may_load()
        if waiter is not None:
            self.remove(waiter)
        return waiter

    def first_that_may_load(self) -> Waiter | None:
        """The oldest call that accepts a warm worker."""
        for waiter in self.waiters:
            if waiter.may_load:
                return waiter
        return None

    def remove(self, waiter: Waiter) -> None:
        """Take a call out of the queue, if it is there."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)
            self.counted -= waiter.is_counted

    def change(self) -> str:
        """The change of the entry since the last message, as an argument of the scripts. It counts as sent.

        Changes and asking calls travel on one connection, so the count in Redis is exact. Only a lost message makes it
        wrong. Then the next message sets the whole count, as soon as no call is asking.
        """
        if self.is_unsure and not self.asking:
            self.is_unsure = False
            change = f"={self.counted}"
        else:
            change = f"{self.counted - self.entry_count:+d}"
        self.entry_count = self.counted
        self.is_escalated = self.is_escalated and self.entry_count > 0
        return change

    def uncount(self) -> None:
        """Note that Redis counts none of the waiting calls any more."""
        self.counted = self.entry_count = 0
        self.is_escalated = False
        for waiter in self.waiters:
            waiter.is_counted = False

    def ask_again(self, reason: NoLease = NoLease.ASK_AGAIN) -> None:
        """End the waits of all calls with this reason, so that they ask Redis again.

        By default the reason is that the entry is gone or may be wrong.
        """
        self.uncount()
        while self.waiters:
            self.take().result.set(reason)

    def count_impatient(self) -> None:
        """Count all calls that have waited for `PATIENCE_S`."""
        since = time.monotonic() - PATIENCE_S
        for waiter in self.waiters:
            if waiter.entered <= since:
                self.counted += not waiter.is_counted
                waiter.is_counted = True

    def waited_ms(self) -> int:
        """For how many ms the oldest call has waited."""
        return int((time.monotonic() - self.waiters[0].arrived) * 1000) if self.waiters else 0

    def note_busy(self, busy_s: float) -> None:
        """Take the time of one more execution into the mean."""
        self.busy_s = busy_s if self.busy_s is None else self.busy_s + _NEW_BUSY_WEIGHT * (busy_s - self.busy_s)
