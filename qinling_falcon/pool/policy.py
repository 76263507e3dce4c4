"""The pool's policy: which runtimes get a new worker now, and which workers make room.

The manager reads a `View` of bounded size from Redis, asks `Policy.decide`, and carries the decision out. All times
are multiples of S, the measured cost of a start: with cheap starts the pool moves quickly, with dear ones it is
patient. docs/pool.md explains the rules.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

_UNUSED = 20  # an idle worker that was unused for so many S is evicted at once
_HOT_WAIT = 5  # a call that waited so many S may take a worker that is still in use now and then,
_HOT_GAP = 2  # one in so many S,
_HOT_AGE = 1  # the longest idle one, if it was unused for so many S
_TENURE = 10  # or, for a target without a worker, one of who has its last one for so many S
_SOON = 50  # waiting calls get so many workers at once that they are served within so many S
_HELD_WEIGHT = 2  # who has a worker counts as having waited so many S less
_FIRST_CALLS_S = 0.4  # the stock covers the first calls of so many seconds,
_UNUSED_FOR_STOCK_MS = 2000.0  # nobody waits for the stock: workers that were called or loaded just now stay
_MOST_STOCK = 8  # up to so many workers
_RECALL_MS = 10_000.0
_LEAST_START_MS = 5.0
_NEW_START_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class Growing:
    """A queue that wants one more worker for its target, and is below its limits.

    Attributes:
        runtime: of the target.
        target: what its workers hold.
        kind: `any`, or `warm`: the workers are to be loaded ahead of calls.
        arrival: when its oldest call arrived, in ms.
        held: how many workers the target has.
        rank: the order of growth.
        waiting: how many calls wait.
        room: how many more leases the limits allow.
        busy_ms: for how long a call keeps a worker busy; None: not known yet.
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

    def wants(self, start_ms: float) -> int:
        """How many more workers are of use now.

        A target without any gets one first. Others get as many as serve the waiting calls within the time that further
        workers would need to start; while it is not known how long calls take, at most twice as many as they have.
        """
        most = min(self.waiting, self.room)
        if self.kind != "any":
            return most
        if self.held == 0:
            return 1
        needed = 2.0 * self.held
        if self.busy_ms is not None:
            needed = math.ceil(self.waiting * self.busy_ms / (_SOON * start_ms))
        return min(most, max(1, int(needed) - self.held))


@dataclass(frozen=True, slots=True)
class RuntimeView:
    """A runtime that has a pool: its least stock, its warm and starting workers, and its first calls so far."""

    id: str
    stock: int
    warm: int
    starting: int
    first_calls: int
    escalated: int
    oldest_warm: str | None = None


@dataclass(frozen=True, slots=True)
class IdleWorker:
    """One of the longest idle workers."""

    id: str
    used: float
    target: str
    held: int


@dataclass(frozen=True, slots=True)
class TargetView:
    """A target with many workers, or with its last one for long; and one of its workers, idle or else leased."""

    target: str
    held: int
    recalled: int
    worker: str | None = None
    state: str | None = None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class View:
    """What the script `view` returns: of the pool as a whole, and the head of each of its lists.

    While there is room for the next starts, the lists of workers and targets that may make room are empty.

    Attributes:
        now: Redis's time in ms.
        workers: in any state.
        draining: of these, those that make room soon.
        targets: how many targets have a worker.
        runtimes: those that have a pool.
        growing: queues that want a worker.
        idle: the longest idle workers, the longest first.
        largest: the targets with the most workers, the largest first.
        longest: the targets that got their last worker the longest ago, the longest first.
    """

    now: float
    workers: int
    draining: int
    targets: int
    runtimes: list[RuntimeView] = field(default_factory=list)
    growing: list[Growing] = field(default_factory=list)
    idle: list[IdleWorker] = field(default_factory=list)
    largest: list[TargetView] = field(default_factory=list)
    longest: list[TargetView] = field(default_factory=list)

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
            idle=[IdleWorker(**one) for one in members["idle"] or ()],
            largest=[TargetView(**one) for one in members["largest"] or ()],
            longest=[TargetView(**one) for one in members["longest"] or ()],
        )


@dataclass(frozen=True, slots=True)
class Eviction:
    """A free worker that makes room, unless it was used within `unused_ms`."""

    worker: str
    unused_ms: float
    reason: str


@dataclass(frozen=True, slots=True)
class Recall:
    """A busy worker that its holder is to give up."""

    worker: str
    stands_ms: float
    reason: str


@dataclass(slots=True)
class Decision:
    """What the manager does now.

    Attributes:
        starts: runtimes, one for each worker to start, in order.
        evictions: free workers that make room.
        recalls: busy workers that make room.
    """

    starts: list[str] = field(default_factory=list)
    evictions: list[Eviction] = field(default_factory=list)
    recalls: list[Recall] = field(default_factory=list)

    @property
    def evicted(self) -> set[str]:
        """The workers in `evictions`: they make room once."""
        return {eviction.worker for eviction in self.evictions}


class Policy:
    """Decides who grows and who makes room.

    Attributes:
        start_ms: the mean cost of a start, `S`.
        stocks: how many warm workers each runtime keeps at the moment.

    Args:
        max_workers: the most workers in all states.
        concurrent_starts: how many starts may run at once.
        start_ms: the cost of a start until one was measured.
    """

    def __init__(self, max_workers: int, concurrent_starts: int, start_ms: float):
        self.max_workers = max_workers
        self.start_ms = start_ms
        self.stocks: dict[str, int] = {}
        self._concurrent_starts = concurrent_starts
        self._hot_at = -math.inf
        self._rates: dict[str, tuple[int, float, float]] = {}

    def note_start(self, cost_ms: float) -> None:
        """Take the cost of one more start into the mean."""
        self.start_ms = max(_LEAST_START_MS, self.start_ms + _NEW_START_WEIGHT * (cost_ms - self.start_ms))

    def decide(self, view: View, slots: int, passed_over: Set[str] = frozenset()) -> Decision:
        """What to start and whom to evict or recall now.

        Args:
            view: the pool.
            slots: how many more starts may begin now.
            passed_over: runtimes of which no worker can be started now.
        """
        self.stocks = self._divide(view)
        decision = Decision()
        room = self.max_workers - view.workers
        share = self.max_workers // max(1, view.targets)
        coming = {runtime.id: runtime.starting for runtime in view.runtimes}
        growing = [one for one in view.growing if one.runtime not in passed_over]
        growing.sort(key=lambda one: (share >= 2 and one.held >= share, one.rank))
        rooms = 0
        for queue in growing:
            for _ in range(queue.wants(self.start_ms)):
                if coming.get(queue.runtime, 0) > 0:
                    coming[queue.runtime] -= 1
                elif room > 0:
                    if slots == 0:
                        break
                    decision.starts.append(queue.runtime)
                    room, slots = room - 1, slots - 1
                elif rooms + view.draining < 2 * self._concurrent_starts - 1:
                    if not self._make_room(view, queue, share, decision):
                        break
                    rooms += 1
        if not growing:
            self._fill_stocks(view, room, slots, coming, passed_over, decision)
        return decision

    def _fill_stocks(
        self, view: View, room: int, slots: int, coming: dict[str, int], passed_over: Set[str], decision: Decision
    ) -> None:
        """Start workers for the stocks, one each in turn, so that no runtime takes all the room."""
        short = {
            runtime.id: self.stocks[runtime.id] - runtime.warm - coming[runtime.id]
            for runtime in view.runtimes
            if runtime.id not in passed_over
        }
        given = True
        while given:
            given = False
            for runtime_id, missing in short.items():
                if missing <= 0:
                    continue
                if room > 0 and slots > 0:
                    decision.starts.append(runtime_id)
                    short[runtime_id] -= 1
                    room, slots, given = room - 1, slots - 1, True
                elif room <= 0 and not view.draining and not decision.evictions:
                    self._evict_unused(view, max(_UNUSED * self.start_ms, _UNUSED_FOR_STOCK_MS), None, decision)

    def _divide(self, view: View) -> dict[str, int]:
        """The stock of each runtime. All together have a quarter of all workers, or what one runtime is to keep."""
        wanted = {runtime.id: self._stock(runtime, view.now) for runtime in view.runtimes}
        left = max([self.max_workers // 4, *(runtime.stock for runtime in view.runtimes)])
        stocks = dict.fromkeys(wanted, 0)
        while left > 0 and stocks != wanted:
            for runtime_id in stocks:
                if left > 0 and stocks[runtime_id] < wanted[runtime_id]:
                    stocks[runtime_id] += 1
                    left -= 1
        return stocks

    def _stock(self, runtime: RuntimeView, now: float) -> int:
        """How many warm workers the runtime keeps, by its first calls a second: quickly up, slowly down."""
        count, at, rate = self._rates.get(runtime.id, (runtime.first_calls, now, 0.0))
        passed_s = (now - at) / 1000
        if passed_s >= 1:
            present = max(0, runtime.first_calls - count) / passed_s
            rate += (0.5 if present > rate else 0.25) * (present - rate)
            count, at = runtime.first_calls, now
        self._rates[runtime.id] = count, at, rate
        if runtime.stock == 0:
            return 0
        # The rate never quite returns to 0.
        return max(runtime.stock, min(_MOST_STOCK, math.ceil(rate * _FIRST_CALLS_S - 0.1) + runtime.stock))

    def _evict_unused(self, view: View, least_ms: float, target: str | None, decision: Decision) -> bool:
        """The longest idle worker that was unused for long, and holds another target."""
        for worker in view.idle:
            if worker.id not in decision.evicted and worker.target != target and view.now - worker.used > least_ms:
                decision.evictions.append(Eviction(worker.id, least_ms, "unused"))
                return True
        return False

    def _make_room(self, view: View, queue: Growing, share: int, decision: Decision) -> bool:
        """Find a worker that makes room for the queue."""
        if self._evict_unused(view, _UNUSED * self.start_ms, queue.target, decision):
            return True
        waited_ms = view.now - queue.arrival - _HELD_WEIGHT * self.start_ms * queue.held
        if waited_ms < _HOT_WAIT * self.start_ms or view.now - self._hot_at < _HOT_GAP * self.start_ms:
            return False
        if not (
            self._evict_surplus(view, queue, decision)
            or self._evict_longest_idle(view, queue, share, decision)
            or self._take_from_largest(view, queue, decision)
        ):
            return False
        self._hot_at = view.now
        return True

    def _evict_surplus(self, view: View, queue: Growing, decision: Decision) -> bool:
        for runtime in view.runtimes:
            if runtime.id != queue.runtime and runtime.oldest_warm and runtime.warm > 1 and not runtime.escalated:
                decision.evictions.append(Eviction(runtime.oldest_warm, 0, "surplus warm worker"))
                return True
        return False

    def _evict_longest_idle(self, view: View, queue: Growing, share: int, decision: Decision) -> bool:
        has_share = share >= 2 and queue.held >= share
        for worker in view.idle:
            if worker.target == queue.target or (has_share and worker.held < 2) or worker.id in decision.evicted:
                continue
            if view.now - worker.used >= _HOT_AGE * self.start_ms:
                decision.evictions.append(Eviction(worker.id, _HOT_AGE * self.start_ms, "longest idle"))
                return True
        return False

    def _take_from_largest(self, view: View, queue: Growing, decision: Decision) -> bool:
        """A worker of the target with the most workers, or of the one that got its last worker the longest ago."""
        victims = [one for one in view.largest if one.worker and one.held - one.recalled >= queue.held + 2]
        victims = [one for one in victims if one.worker not in decision.evicted]
        victims.sort(key=lambda one: one.recalled - one.held)
        reason = "of the target with the most workers"
        if not victims and queue.held == 0:
            least_ms = _TENURE * self.start_ms
            victims = [
                one
                for one in view.longest
                if one.worker and one.held > one.recalled and one.since is not None and view.now - one.since > least_ms
            ]
            reason = "of the target that got its last worker longest ago"
        if not victims:
            return False
        victim = victims[0]
        assert victim.worker
        if victim.state == "idle":
            decision.evictions.append(Eviction(victim.worker, 0, reason))
        else:
            decision.recalls.append(Recall(victim.worker, _RECALL_MS, reason))
        return True
