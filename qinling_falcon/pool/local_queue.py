"""The calls of this process that wait for a worker of one target."""

from __future__ import annotations

import enum
import math
import time
from bisect import insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter

from gevent.event import AsyncResult

from qinling_falcon.pool.leases import Cold, LeasedWorker, LeaseRequest

PATIENCE_S = 0.005
"""A call waits so long for a worker of its target before its queue may escalate; also in `scripts/parts/queues.lua`."""

SPARE_S = 0.005
"""So long a process keeps a free worker for the next call of its target, if that is likely to come within this time."""

_LONGEST_SPARE_S = 0.025
# A process gets at least so many workers for a function quicker than `_QUICK_S`, so that several calls end together and
# share a commit.
_FEWEST_WORKERS = 4
_QUICK_S = 0.001
# A call that has waited for so long, or for as long as so many starts take, makes its queue escalate in any case,
_LONG_PATIENCE_S = 0.1
_LONG_STARTS = 5
# but at least after so long.
_LONGEST_PATIENCE_S = 1.0
# A worker whose execution has run for more than twice the mean and this time is left out of the estimate.
_OVERDUE_S = 0.02
# A process wants one more worker when its calls have waited for as long as this number of starts costs,
_STARTS = 2
# not counting what is less than this share of the time.
_USUAL_WAIT = 0.01
_NEW_BUSY_WEIGHT = 0.1
_NEW_GAP_WEIGHT = 0.2


class Word(enum.Enum):
    """What a waiting call is told when it gets no worker."""

    STALE = "its target was resolved under another generation"
    LATE = "its time is over"
    AGAIN = "it has no place in a queue any more, and asks Redis again"


class Gate:
    """Whether a call may load a warm worker: not before the package of its target is readable.

    While its gate is closed, a call waits without a deadline for a worker that holds the target already. Whoever reads
    the package opens the gate, or fails it.

    Attributes:
        is_open: whether the call is an ordinary waiting call.
        error: what the call raises instead of waiting longer.
    """

    __slots__ = ("_changed", "error", "is_open")

    def __init__(self) -> None:
        self.is_open = False
        self.error: Exception | None = None
        self._changed: Callable[[], None] | None = None

    def open(self) -> None:
        """The package is readable."""
        self.is_open = True
        self._tell()

    def fail(self, error: Exception) -> None:
        """The package can't be read, and the call is to wait no longer."""
        self.error = error
        self._tell()

    def watch(self, changed: Callable[[], None] | None) -> None:
        """Call this at each change."""
        self._changed = changed

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()


@dataclass(slots=True, eq=False)
class Waiter:
    """A call that waits.

    Attributes:
        request: what it waits for.
        arrived: when it came, on the monotonic clock.
        wait_s: for how long it waits, not counting the time with a closed gate.
        gate: whether it may load a worker; None: it may.
        deadline: until when it waits.
        place: gets a `Lease`, or a `Word`.
        is_counted: whether the entry in Redis counts it: it has asked Redis, or the queue has escalated after it had
            waited for `PATIENCE_S`.
        is_gone: nobody reads `place` any more.
    """

    request: LeaseRequest
    arrived: float
    wait_s: float
    gate: Gate | None = None
    deadline: float = field(init=False)
    place: AsyncResult = field(default_factory=AsyncResult)
    is_counted: bool = False
    is_gone: bool = False

    def __post_init__(self) -> None:
        self.deadline = self.arrived + self.wait_s if self.may_load else math.inf

    @property
    def may_load(self) -> bool:
        """Whether a warm worker will do."""
        return self.gate is None or self.gate.is_open

    def again(self) -> Waiter:
        """The same call, with a new place."""
        waiter = Waiter(self.request, self.arrived, self.wait_s, self.gate)
        waiter.deadline = self.deadline
        return waiter


@dataclass(frozen=True, slots=True)
class Offer:
    """A worker that Redis offers to this process, for its oldest call in a queue."""

    worker: LeasedWorker
    cold: Cold


class WaitedLately:
    """A sum of waiting times, from which a little goes all the time."""

    __slots__ = ("_at", "_sum_s")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self._sum_s = 0.0
        self._at = time.monotonic()

    def add(self, waited_s: float) -> None:
        """A call has waited for so long."""
        self._sum_s = self.sum() + waited_s
        self._at = time.monotonic()

    def sum(self) -> float:
        """The sum now, in seconds."""
        return max(0.0, self._sum_s - _USUAL_WAIT * (time.monotonic() - self._at))


@dataclass(slots=True, eq=False)
class LocalQueue:
    """The waiting calls of one target in this process, in order of arrival.

    Attributes:
        name: as `LeaseRequest.queue`.
        waiters: the calls.
        offers: workers that came before the call that asked for them was told to wait.
        asking: how many calls ask Redis at the moment.
        leased: how many workers of the target this process has leased.
        leased_since: when it leased the first of them, on the monotonic clock.
        began: of those that run an execution, when it began, on the monotonic clock; the oldest first.
        counted: how many of the waiters are to be counted in Redis.
        entry: how many calls of this process Redis counts in the queue, without those that are asking.
        spares: free workers that are kept for the next call, and since when; the oldest first.
        freed_at: when a worker became free for which no call waited; None: a call has come since.
        gap_s: how long it takes from then to the next call, as a moving mean; None: not known yet.
        is_spare_timed: whether a timer will release spare workers.
        busy_s: how long an execution takes in the worker, as a moving mean; None: not known yet.
        is_unsure: whether a message to Redis may have been lost, so that `entry` may be wrong.
        is_escalated: whether that entry has asked for one more worker.
        is_watched: whether a timer will look at the queue.
        said: when Redis was last told that calls wait for long, on the monotonic clock.
        waited_lately: for how long calls have waited.
        is_for_calls: whether a worker that is free goes to the next call here: not where each call loads one more
            worker. The name says it (see `LeaseRequest.queue`).
    """

    name: str
    waiters: deque[Waiter] = field(default_factory=deque)
    offers: deque[Offer] = field(default_factory=deque)
    asking: int = 0
    leased: int = 0
    leased_since: float = 0.0
    began: dict[str, float] = field(default_factory=dict)
    spares: deque[tuple[LeasedWorker, float]] = field(default_factory=deque)
    freed_at: float | None = None
    gap_s: float | None = None
    is_spare_timed: bool = False
    counted: int = 0
    entry: int = 0
    busy_s: float | None = None
    is_unsure: bool = False
    is_escalated: bool = False
    is_watched: bool = False
    said: float = 0.0
    waited_lately: WaitedLately = field(default_factory=WaitedLately)
    is_for_calls: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_for_calls = self.name.split("|", 3)[2] == "any"

    @property
    def is_unused(self) -> bool:
        """Whether nothing needs this object any more."""
        return not (self.waiters or self.offers or self.asking or self.leased or self.entry or self.is_unsure)

    def expected_wait_s(self) -> float:
        """The expected wait, in seconds, of one more call for a worker of this process.

        The estimate uses the busy time of the workers, and not the time that this process holds them: if this process
        is slow, more workers do not help. The worker that began first is likely to be free first. Calls that are
        asking Redis will have workers.

        Returns:
            Infinite if `busy_s` is not known, if there is no usable worker, or if a quick function has fewer than
            `_FEWEST_WORKERS`.
        """
        if self.busy_s is None:
            return math.inf
        now = time.monotonic()
        overdue, first_s = 0, self.busy_s
        for began in self.began.values():
            if now - began <= 2 * self.busy_s + _OVERDUE_S:
                first_s = max(0.0, began + self.busy_s - now)
                break
            overdue += 1
        workers = self.leased - len(self.spares) - len(self.offers) - overdue + self.asking
        if workers < (_FEWEST_WORKERS if self.busy_s < _QUICK_S else 1):
            return math.inf
        return first_s + len(self.waiters) * self.busy_s / workers

    def expects_worker_soon(self) -> bool:
        """Whether one more call is likely to get a worker of this process within `PATIENCE_S`."""
        return self.expected_wait_s() < PATIENCE_S

    def may_delay_escalation(self, start_s: float) -> bool:
        """Whether waiting costs less than one more worker.

        The cost of waiting is the sum of what calls have waited lately, what the oldest one has waited, and what one
        more call would wait. But no call waits for very long without one more worker.

        Args:
            start_s: the cost of a start.
        """
        waited_s = self.waited_s(self.waiters[0])
        if waited_s >= min(_LONGEST_PATIENCE_S, max(_LONG_PATIENCE_S, _LONG_STARTS * start_s)):
            return False
        if self.leased == 0:
            expected_s = self.busy_s or 0.0  # a worker of another process will be free
        elif self.busy_s is None:
            return True
        else:
            expected_s = self.expected_wait_s()
        return self.waited_lately.sum() + waited_s + expected_s < max(2 * PATIENCE_S, _STARTS * start_s)

    def waited_s(self, waiter: Waiter) -> float:
        """For how long a call has waited, not counting the time before this process had a worker of the target."""
        return time.monotonic() - max(waiter.arrived, self.leased_since if self.leased else 0.0)

    def add_leased(self) -> None:
        """This process has leased one more worker."""
        if self.leased == 0:
            self.leased_since = time.monotonic()
        self.leased += 1

    def expects_call(self) -> bool:
        """A worker is free and no call waits: whether the next call is likely to come within `SPARE_S`."""
        self.freed_at = time.monotonic()
        return self.gap_s is not None and self.gap_s < self.spare_s

    @property
    def spare_s(self) -> float:
        """So long a process keeps a free worker for the next call, if that is likely to come within this time."""
        return SPARE_S if self.busy_s is None else min(_LONGEST_SPARE_S, max(SPARE_S, self.busy_s))

    def note_arrival(self) -> None:
        """A call has come."""
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
        """Add a call at its place by arrival."""
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
        """Take the oldest call for which this worker will do out of the queue."""
        if not worker.needs_load:
            return self.take() if self.waiters else None
        waiter = self.first_that_may_load()
        if waiter is not None:
            self.remove(waiter)
        return waiter

    def first_that_may_load(self) -> Waiter | None:
        """The oldest call for which a warm worker will do."""
        return next((waiter for waiter in self.waiters if waiter.may_load), None)

    def remove(self, waiter: Waiter) -> None:
        """Take a call out of the queue, if it is there."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)
            self.counted -= waiter.is_counted

    def change(self) -> str:
        """The change of the entry for Redis, as the scripts read it; it counts as made.

        Changes and asking calls travel on one connection, so the number in Redis is exact. Only a lost message makes it
        wrong: then the whole number is said, when no call is asking.
        """
        if self.is_unsure and not self.asking:
            self.is_unsure = False
            change = f"={self.counted}"
        else:
            change = f"{self.counted - self.entry:+d}"
        self.entry = self.counted
        self.is_escalated = self.is_escalated and self.entry > 0
        return change

    def uncount(self) -> None:
        """No waiting call is counted in Redis any more."""
        self.counted = self.entry = 0
        self.is_escalated = False
        for waiter in self.waiters:
            waiter.is_counted = False

    def ask_again(self) -> None:
        """The entry in Redis is gone, or what it says is not known: the waiting calls ask again."""
        self.uncount()
        while self.waiters:
            self.take().place.set(Word.AGAIN)

    def count_impatient(self) -> None:
        """From now on, all calls that have waited for `PATIENCE_S` are counted."""
        since = time.monotonic() - PATIENCE_S
        for waiter in self.waiters:
            if waiter.arrived > since:
                break
            self.counted += not waiter.is_counted
            waiter.is_counted = True

    def waited_ms(self) -> int:
        """For how long the oldest call has waited."""
        return int((time.monotonic() - self.waiters[0].arrived) * 1000) if self.waiters else 0

    def note_busy(self, busy_s: float) -> None:
        """Take one more execution into the mean."""
        self.busy_s = busy_s if self.busy_s is None else self.busy_s + _NEW_BUSY_WEIGHT * (busy_s - self.busy_s)
