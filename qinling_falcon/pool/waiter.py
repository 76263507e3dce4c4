"""One call that waits for a worker: how long, for which workers, and how its wait ends."""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gevent.event import AsyncResult

from qinling_falcon.pool.leases import LeaseRequest


class NoLease(enum.Enum):
    """The result of a wait that ended without a lease."""

    STALE = "the target has changed since it was resolved"
    TIMED_OUT = "the deadline of the call has passed"
    ASK_AGAIN = "Redis does not count the call any more, so it must ask again"
    NO_SHARE = "asynchronous executions, or those of the project or function, have as many workers as they may"


class Gate:
    """Decides whether a call may load a warm worker: only when the package of its target is readable.

    While its gate is closed, a call waits without a deadline for a worker that holds the target already. The greenlet
    that reads the package opens the gate or fails it.

    Attributes:
        is_open: whether the package is readable, so that the call waits like any other.
        error: the error that the call raises instead of waiting longer.
    """

    __slots__ = ("_changed", "error", "is_open")

    def __init__(self) -> None:
        self.is_open = False
        self.error: Exception | None = None
        self._changed: Callable[[], None] | None = None

    def open(self) -> None:
        """The package is readable."""
        self.is_open = True
        self._notify()

    def fail(self, error: Exception) -> None:
        """The package can't be read. The call stops waiting and raises `error`."""
        self.error = error
        self._notify()

    def watch(self, changed: Callable[[], None] | None) -> None:
        """Set the function that is called when the gate opens or fails."""
        self._changed = changed

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed()


@dataclass(slots=True, eq=False)
class Waiter:
    """A call that waits.

    Attributes:
        request: the lease that it asks for.
        arrived: when it arrived in this process, on the monotonic clock, and later by the grace of its queue. Calls are
            served in this order.
        wait_s: its longest wait, without the time with a closed gate.
        gate: decides whether it may load a worker; None: it may.
        entered: when it began to wait for a worker, on the monotonic clock, and later by the grace of its queue.
        deadline: when its wait ends, on the monotonic clock.
        result: gets a `Lease` or a `NoLease`.
        is_counted: whether the entry in Redis counts it. It does if the call has asked Redis, or if the queue has
            escalated after the call had waited for `local_queue.PATIENCE_S`.
        is_gone: whether its greenlet was killed, so that no code reads `result`.
    """

    request: LeaseRequest
    arrived: float
    wait_s: float
    gate: Gate | None = None
    entered: float = field(default_factory=time.monotonic)
    deadline: float = field(init=False)
    result: AsyncResult = field(default_factory=AsyncResult)
    is_counted: bool = False
    is_gone: bool = False

    def __post_init__(self) -> None:
        self.deadline = self.entered + self.wait_s if self.may_load else math.inf

    @property
    def may_load(self) -> bool:
        """Whether the call accepts a warm worker now."""
        return self.gate is None or self.gate.is_open

    def again(self) -> Waiter:
        """The same call, for another wait."""
        waiter = Waiter(self.request, self.arrived, self.wait_s, self.gate, self.entered)
        waiter.deadline = self.deadline
        return waiter
