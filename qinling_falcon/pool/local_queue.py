"""The calls of this process that wait for a worker of one target."""

from __future__ import annotations

import time
from bisect import insort
from collections import deque
from dataclasses import dataclass, field
from operator import attrgetter

from gevent.event import AsyncResult

from qinling_falcon.pool.leases import Cold, LeasedWorker, LeaseRequest

PATIENCE_S = 0.005
"""So long a call waits for a worker of its own target alone; also in `scripts/parts/queues.lua`."""

_NEW_HOLD_WEIGHT = 0.1


@dataclass(slots=True, eq=False)
class Waiter:
    """A call that waits.

    Attributes:
        request: what it waits for.
        arrived: when it came, on the monotonic clock.
        deadline: until when it waits.
        place: gets a `Lease`, or a `Word`.
        is_counted: whether the entry in Redis counts it: it has asked Redis, or has waited for `PATIENCE_S`.
        is_gone: nobody reads `place` any more.
    """

    request: LeaseRequest
    arrived: float
    deadline: float
    place: AsyncResult = field(default_factory=AsyncResult)
    is_counted: bool = False
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """A worker that Redis offers to this process, for its oldest call in a queue."""

    worker: LeasedWorker
    cold: Cold


@dataclass(slots=True, eq=False)
class LocalQueue:
    """The waiting calls of one target in this process, in order of arrival.

    Attributes:
        name: as `LeaseRequest.queue`.
        waiters: the calls.
        offers: workers that came before the call that asked for them was told to wait.
        asking: how many calls ask Redis at the moment.
        leased: how many workers of the target this process has leased.
        counted: how many of the waiters are counted in Redis.
        hold_s: how long an execution holds a worker, as a moving mean; None: not known yet.
        is_overcounted: whether Redis was told of calls that were asking then, and that may have got a worker since.
        has_entry: whether Redis has an entry of this process in the queue.
        is_escalated: whether that entry has asked for one more worker.
        is_watched: whether a timer will look at the queue.
        said: when Redis was last told that calls wait for long, on the monotonic clock.
    """

    name: str
    waiters: deque[Waiter] = field(default_factory=deque)
    offers: deque[Offer] = field(default_factory=deque)
    asking: int = 0
    leased: int = 0
    counted: int = 0
    hold_s: float | None = None
    is_overcounted: bool = False
    has_entry: bool = False
    is_escalated: bool = False
    is_watched: bool = False
    said: float = 0.0

    @property
    def is_for_calls(self) -> bool:
        """Whether a worker that is free goes to the next call here: not where each call loads one more worker."""
        return "|any|" in self.name

    @property
    def is_unused(self) -> bool:
        """Whether nothing needs this object any more."""
        return not (self.waiters or self.offers or self.asking or self.leased or self.has_entry)

    def will_serve_soon(self) -> bool:
        """Whether one more call is likely to get a worker of this process within `PATIENCE_S`."""
        if not self.leased or self.hold_s is None:
            return False
        return (len(self.waiters) + 1) * self.hold_s < PATIENCE_S * self.leased

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

    def remove(self, waiter: Waiter) -> None:
        """Take a call out of the queue, if it is there."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)
            self.counted -= waiter.is_counted

    def count(self) -> int:
        """How many calls Redis is told of now; those that are asking count, too."""
        self.is_overcounted = self.asking > 0
        return self.counted + self.asking

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

    def note_hold(self, hold_s: float) -> None:
        """Take one more execution into the mean."""
        self.hold_s = hold_s if self.hold_s is None else self.hold_s + _NEW_HOLD_WEIGHT * (hold_s - self.hold_s)
