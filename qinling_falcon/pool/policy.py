"""The pool's policy: decides which runtimes get a new worker now, and which workers are evicted or recalled for it.

The manager reads a `View` of bounded size from Redis, calls `Policy.decide`, and carries out the decision. Most times
are multiples of S, the measured cost of a start. So the pool changes quickly if starts are cheap, and slowly if they
are expensive. docs/pool.md explains the rules.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Set
from dataclasses import dataclass, field

from qinling_falcon.pool.view import Growing, RuntimeView, TargetView, View

# Multiples of S:
_UNUSED = 20  # An idle worker that was unused for this long is evicted at once.
_FORCED_WAIT = 5  # A queue that has waited this long may take a worker that was used recently.
_FORCED_GAP = 2  # The time between two such forced evictions or recalls.
_FORCED_UNUSED = 1  # The longest idle worker is taken if it was unused for this long.
_TENURE = 10  # A target without a worker takes one of a target that got its last worker this long ago.
_SOON = 50  # Waiting calls get as many workers at once as are needed to serve them within this time.
_HELD_WEIGHT = 2  # For each worker of its target, a queue counts as having waited this much less.

# Other values:
_FIRST_CALLS_S = 0.4  # The stock covers the first calls of this time.
_MOST_STOCK = 8  # The largest stock to which first calls can raise it.
_UNUSED_FOR_STOCK_MS = 2000.0  # For a stock, only workers that were unused for this long are evicted.
_RECALL_MS = 10_000.0  # How long a recall is valid.
_RECALL_GAP_MS = 250.0  # If enough workers are recalled, but none ends its call, one more is after this.
_MOST_RECALLS = 64  # How many recalls are pending at most. A view has all of them.
_LOOK_MS = 100.0  # When to look again for a worker that may be taken.
_LEAST_START_MS = 5.0  # The least value of S.
_NEW_START_WEIGHT = 0.2  # The weight of a new cost in the moving mean S.


@dataclass(frozen=True, slots=True)
class Eviction:
    """An idle or warm worker to evict, unless it was used within the last `unused_ms`."""

    worker: str
    unused_ms: float
    reason: str


@dataclass(frozen=True, slots=True)
class Recall:
    """A busy worker to recall, for `stands_ms`."""

    worker: str
    stands_ms: float
    reason: str


@dataclass(slots=True)
class Decision:
    """What the manager does now.

    Attributes:
        starts: the runtime of each worker to start, in order.
        evictions: the idle and warm workers to evict.
        recalls: the busy workers to recall.
        taken_back: the workers whose recall is taken back.
        look_again_ms: after this time, the manager decides again, even if nothing wakes it.
    """

    starts: list[str] = field(default_factory=list)
    evictions: list[Eviction] = field(default_factory=list)
    recalls: list[Recall] = field(default_factory=list)
    taken_back: list[str] = field(default_factory=list)
    look_again_ms: float = field(default=math.inf, compare=False)

    @property
    def evicted(self) -> set[str]:
        """The workers in `evictions`, which can't be evicted twice."""
        return {eviction.worker for eviction in self.evictions}

    def look_again_in(self, ms: float) -> None:
        """Make the manager decide again after this time or earlier."""
        self.look_again_ms = min(self.look_again_ms, ms)


class Policy:
    """Decides on starts, evictions and recalls.

    Attributes:
        start_ms: the mean cost of a start, `S`.
        stocks: the present stock of each runtime.

    Args:
        max_workers: the most workers in all states.
        concurrent_starts: how many starts may run at once.
        start_ms: the cost of a start until one was measured.
        clock: a clock in seconds that never steps. Redis's clock may step, so it does not measure the time between two
            decisions.
    """

    def __init__(
        self,
        max_workers: int,
        concurrent_starts: int,
        start_ms: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.max_workers = max_workers
        self.start_ms = start_ms
        self.stocks: dict[str, int] = {}
        self._concurrent_starts = concurrent_starts
        self._clock = clock
        # By the clock, in ms: the last forced eviction or recall, and the last recall.
        self._forced_at = -math.inf
        self._recalled_at = -math.inf
        self._rates: dict[str, tuple[int, float, float]] = {}

    def note_start(self, cost_ms: float) -> None:
        """Take the cost of one more start into the mean."""
        self.start_ms = max(_LEAST_START_MS, self.start_ms + _NEW_START_WEIGHT * (cost_ms - self.start_ms))

    def decide(self, view: View, slots: int, unable: Set[str] = frozenset()) -> Decision:
        """Which workers to start, evict and recall now.

        Args:
            view: the state of the pool.
            slots: how many more starts may begin now.
            unable: the runtimes whose workers can't be started now.
        """
        self.stocks = self._divide(view)
        decision = Decision()
        room = self.max_workers - view.workers
        share = self.max_workers // max(1, view.targets)
        starting = {runtime.id: runtime.starting for runtime in view.runtimes}
        growing = [one for one in view.growing if one.runtime not in unable]
        growing.sort(key=lambda one: (room <= 0 and share >= 2 and one.held >= share, one.rank))
        soon_free = max(0, view.draining + min(0, room))  # without an excess over `max_workers`
        freed, missing = 0, 0
        for queue in growing:
            for _ in range(_wanted(queue, self.start_ms)):
                if starting.get(queue.runtime, 0) > 0:
                    starting[queue.runtime] -= 1
                elif room > 0:
                    if slots == 0:
                        break
                    decision.starts.append(queue.runtime)
                    room, slots = room - 1, slots - 1
                elif soon_free > 0:
                    soon_free -= 1
                else:
                    missing += 1
                    if freed + view.draining < 2 * self._concurrent_starts - 1:
                        has_recall = missing <= len(view.recalled)
                        if self._free_worker(view, queue, share, decision, has_recall=has_recall):
                            freed += 1
                        elif not has_recall:
                            break
        if not missing:
            decision.taken_back = list(view.recalled)
        if not growing:
            self._fill_stocks(view, room, slots, starting, unable, decision)
        return decision

    def _fill_stocks(
        self, view: View, room: int, slots: int, starting: dict[str, int], unable: Set[str], decision: Decision
    ) -> None:
        """Start workers for the stocks. The runtimes take turns, so that none of them takes all the room."""
        short = {
            runtime.id: self.stocks[runtime.id] - runtime.warm - starting[runtime.id]
            for runtime in view.runtimes
            if runtime.id not in unable
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
        """The stock of each runtime. All stocks together are at most a quarter of `max_workers`, or one least stock."""
        wanted = {runtime.id: self._stock(runtime, self._now_ms()) for runtime in view.runtimes}
        left = max([self.max_workers // 4, *(runtime.stock for runtime in view.runtimes)])
        stocks = dict.fromkeys(wanted, 0)
        while left > 0 and stocks != wanted:
            for runtime_id in stocks:
                if left > 0 and stocks[runtime_id] < wanted[runtime_id]:
                    stocks[runtime_id] += 1
                    left -= 1
        return stocks

    def _now_ms(self) -> float:
        return self._clock() * 1000

    def _stock(self, runtime: RuntimeView, now: float) -> int:
        """The stock that a runtime needs for its first calls a second. It rises quickly and falls slowly."""
        count, at, rate = self._rates.get(runtime.id, (runtime.first_calls, now, 0.0))
        passed_s = (now - at) / 1000
        if passed_s >= 1:
            present = max(0, runtime.first_calls - count) / passed_s
            rate += (0.5 if present > rate else 0.25) * (present - rate)
            count, at = runtime.first_calls, now
        self._rates[runtime.id] = count, at, rate
        if runtime.stock == 0:
            return 0
        # 0.1 is subtracted, because the rate never quite returns to 0.
        return max(runtime.stock, min(_MOST_STOCK, math.ceil(rate * _FIRST_CALLS_S - 0.1) + runtime.stock))

    def _evict_unused(self, view: View, least_ms: float, target: str | None, decision: Decision) -> bool:
        """Evict the longest idle worker of another target, if it was unused for `least_ms`. Returns whether it was."""
        for worker in view.idle:
            if worker.id not in decision.evicted and worker.target != target and view.now - worker.used > least_ms:
                decision.evictions.append(Eviction(worker.id, least_ms, "unused"))
                return True
        return False

    def _free_worker(
        self, view: View, queue: Growing, share: int, decision: Decision, *, has_recall: bool
    ) -> bool:
        """Find a worker to evict or recall for the queue. Returns whether there is one.

        Args:
            view: the state of the pool.
            queue: the queue.
            share: the share of each target.
            decision: gets the eviction or recall, and the time after which to look again.
            has_recall: whether a recalled worker will serve the queue, when its call ends.
        """
        if self._evict_unused(view, _UNUSED * self.start_ms, queue.target, decision):
            return True
        now = self._now_ms()
        waited_ms = view.now - queue.arrival - _HELD_WEIGHT * self.start_ms * queue.held
        forced_in_ms = max(
            _FORCED_WAIT * self.start_ms - waited_ms, self._forced_at + _FORCED_GAP * self.start_ms - now
        )
        if forced_in_ms <= 0 and (
            self._evict_surplus(view, queue, decision)
            or self._evict_longest_idle(view, queue, share, decision)
            or self._take_from_largest(view, queue, decision, has_recall=has_recall)
        ):
            self._forced_at = now
            decision.look_again_in(max(_FORCED_GAP * self.start_ms, _LOOK_MS))
            return True
        unused_in_ms = (_UNUSED * self.start_ms - (view.now - one.used) for one in view.idle)
        next_ms = min([forced_in_ms if forced_in_ms > 0 else _LOOK_MS, *(ms for ms in unused_in_ms if ms > 0)])
        decision.look_again_in(max(self.start_ms, next_ms))
        return False

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
            if view.now - worker.used >= _FORCED_UNUSED * self.start_ms:
                decision.evictions.append(Eviction(worker.id, _FORCED_UNUSED * self.start_ms, "longest idle"))
                return True
        return False

    def _take_from_largest(self, view: View, queue: Growing, decision: Decision, *, has_recall: bool) -> bool:
        """Take a worker of the target with the most workers, or of the one that got its last worker the longest ago.

        If a recalled worker will serve the queue, another one is recalled only after `_RECALL_GAP_MS`, because the call
        of the recalled worker may be a long one.
        """
        may_recall = len(view.recalled) < _MOST_RECALLS and (
            not has_recall or self._now_ms() - self._recalled_at >= _RECALL_GAP_MS
        )

        def may_be_taken(one: TargetView) -> bool:
            return one.worker not in decision.evicted and (one.state == "idle" or may_recall)

        victims = [one for one in view.largest if may_be_taken(one) and one.held - one.recalled >= queue.held + 2]
        victims.sort(key=lambda one: one.recalled - one.held)
        reason = "of the target with the most workers"
        if not victims and queue.held == 0:
            least_ms = _TENURE * self.start_ms
            victims = [
                one for one in view.longest_without_growth if may_be_taken(one) and view.now - one.since > least_ms
            ]
            reason = "of the target that got its last worker longest ago"
        if not victims:
            return False
        victim = victims[0]
        if victim.state == "idle":
            decision.evictions.append(Eviction(victim.worker, 0, reason))
        else:
            decision.recalls.append(Recall(victim.worker, _RECALL_MS, reason))
            self._recalled_at = self._now_ms()
        return True


def _wanted(queue: Growing, start_ms: float) -> int:
    """How many more workers are useful for a queue now.

    A target without a worker wants only one at first. Other targets want enough workers to serve the waiting calls
    within `_SOON` starts. While the time that a call takes is unknown, they want at most as many as they have.

    Args:
        queue: the queue.
        start_ms: the cost of a start.
    """
    most = min(queue.waiting, queue.room)
    if queue.kind != "any":
        return most
    if queue.held == 0:
        return 1
    needed = 2.0 * queue.held
    if queue.busy_ms is not None:
        needed = math.ceil(queue.waiting * queue.busy_ms / (_SOON * start_ms))
    return min(most, max(1, int(needed) - queue.held))
