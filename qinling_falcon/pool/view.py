"""The state of the pool, as the manager reads it from Redis for its policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Growing:
    """A queue that wants one more worker for its target, and is below its limits.

    Attributes:
        runtime: the runtime of the target.
        target: the target.
        kind: `any`; `warm`: the workers are to be loaded ahead of calls.
        arrival: when its oldest call arrived, in ms of Redis's clock.
        held: the number of workers that the target has.
        rank: its rank among the queues that want a worker.
        waiting: the number of calls that wait.
        room: the number of further leases that the limits allow.
        busy_ms: the time for which a call keeps a worker busy; None: unknown.
    """

    runtime: str
    target: str
    kind: str
    arrival: float
    held: int
    rank: float
    waiting: int
    room: int
    busy_ms: float | None = None


@dataclass(frozen=True, slots=True)
class RuntimeView:
    """A runtime that has a pool.

    Attributes:
        id: the runtime.
        stock: the least number of warm workers to keep.
        warm: the number of warm workers.
        starting: the number of starting workers.
        first_calls: the number of first calls so far.
        escalated: the number of queues that want a worker.
        oldest_warm: the warm worker that is the oldest; None: there is none.
    """

    id: str
    stock: int
    warm: int
    starting: int
    first_calls: int
    escalated: int
    oldest_warm: str | None = None


@dataclass(frozen=True, slots=True)
class IdleWorker:
    """One of the longest idle workers.

    Attributes:
        id: the worker.
        used: when it was used last, in ms of Redis's clock.
        target: its target.
        held: the number of workers that the target has.
    """

    id: str
    used: float
    target: str
    held: int


@dataclass(frozen=True, slots=True)
class TargetView:
    """A target, and one of its workers that may be evicted or recalled.

    Attributes:
        target: the target.
        held: the number of its workers.
        recalled: the number of its workers that are recalled.
        worker: an idle worker, or else a leased one that is not recalled.
        state: the state of this worker.
        since: when the target got its last worker, in ms of Redis's clock.
    """

    target: str
    held: int
    recalled: int
    worker: str
    state: str
    since: float


@dataclass(frozen=True, slots=True)
class View:
    """The state of the pool, as the script `view` returns it: totals, and the head of each list.

    While there is room for the next starts, `idle`, `largest` and `longest_without_growth` are empty.

    Attributes:
        now: Redis's time in ms.
        workers: the number of workers in all states.
        draining: the number of draining workers.
        targets: the number of targets that have a worker.
        runtimes: the runtimes that have a pool.
        growing: queues that want a worker.
        recalled: the workers with a pending recall, of all targets.
        idle: the longest idle workers, the longest first.
        largest: targets with the most workers, the largest first, that have a worker that may be taken.
        longest_without_growth: targets that got their last worker the longest ago, the longest first, that have a
            worker that may be taken.
    """

    now: float
    workers: int
    draining: int
    targets: int
    runtimes: list[RuntimeView] = field(default_factory=list)
    growing: list[Growing] = field(default_factory=list)
    recalled: list[str] = field(default_factory=list)
    idle: list[IdleWorker] = field(default_factory=list)
    largest: list[TargetView] = field(default_factory=list)
    longest_without_growth: list[TargetView] = field(default_factory=list)

    @classmethod
    def of(cls, members: dict[str, Any]) -> View:
        """The view from the script's JSON, in which an empty list is an empty object."""
        return cls(
            now=members["now"],
            workers=members["workers"],
            draining=members["draining"],
            targets=members["targets"],
            runtimes=[RuntimeView(**one) for one in members["runtimes"] or ()],
            growing=[Growing(**one) for one in members["growing"] or ()],
            recalled=list(members["recalled"] or ()),
            idle=[IdleWorker(**one) for one in members["idle"] or ()],
            largest=[TargetView(**one) for one in members["largest"] or ()],
            longest_without_growth=[TargetView(**one) for one in members["longest_without_growth"] or ()],
        )
