"""The entries of this process in the queues of Redis: how many of its calls wait for each target, and since when.

Messages to Redis have only the change of a count. After a connection was lost, the count may be wrong, so the next
message sets the whole count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from qinling_falcon.pool.local_queue import PATIENCE_S, LocalQueue
from qinling_falcon.pool.runner import ScriptRunner
from qinling_falcon.pool.timers import call_later
from qinling_falcon.pool.wire import PoolUnavailable


class Entries:
    """Tells Redis about the waiting calls of this process, without waiting for its replies.

    Args:
        scripts: runs scripts.
        holder: the name of this process.

    Attributes:
        start_s: the cost of a start, as of the last heartbeat.
    """

    def __init__(self, scripts: ScriptRunner, holder: str):
        self._scripts = scripts
        self._holder = holder
        self.start_s = PATIENCE_S

    def update(self, queue: LocalQueue) -> None:
        """Send how many calls still wait. If none has waited for `PATIENCE_S`, the queue is not escalated any more."""
        change = queue.change()
        if queue.waited_ms() < PATIENCE_S * 1000:
            queue.is_escalated = False
        self._cast(queue, "leave", change, queue.waited_ms())

    def escalate(self, queue: LocalQueue) -> None:
        """Ask for one more worker for the waiting calls."""
        queue.count_impatient()
        queue.reported_at = time.monotonic()
        change = queue.change()
        queue.is_escalated = True
        queue.waited_lately.clear()
        busy_ms = "" if queue.busy_s is None else max(1, round(queue.busy_s * 1000))
        self._cast(queue, "escalate", change, queue.waited_ms(), busy_ms)

    def repeat(self, queue: LocalQueue) -> None:
        """Send the entry again, because a message may be lost. If there is no entry, the calls ask again."""
        queue.is_unsure = True
        if queue.first_that_may_load() is not None:
            self.escalate(queue)
        elif queue.entry_count:
            queue.reported_at = time.monotonic()
            self.update(queue)
        else:
            queue.ask_again()

    def withdraw(self, queue: LocalQueue) -> None:
        """Withdraw the entry after Redis has offered a warm worker that no waiting call may load.

        Otherwise Redis would offer the worker to this process again at once. The calls stay in the queue of this
        process, and `repeat` enters them again.
        """
        if queue.waiters and queue.entry_count:
            queue.reported_at = time.monotonic()
            answered = _unsure_if_lost(queue)
            if not self._scripts.cast(
                "leave", self._holder, queue.name, f"{-queue.entry_count:+d}", 0, answered=answered
            ):
                queue.is_unsure = True
            queue.uncount()

    def watch(self, queue: LocalQueue) -> None:
        """Set a timer that escalates the queue when its oldest call has waited for `PATIENCE_S`."""
        oldest = queue.first_that_may_load()
        if oldest is not None and not queue.is_watched and not queue.is_escalated:
            self._check_in(queue, oldest.entered + PATIENCE_S - time.monotonic())

    def _check_in(self, queue: LocalQueue, wait_s: float) -> None:
        queue.is_watched = True
        call_later(wait_s, self._check, queue)

    def _check(self, queue: LocalQueue) -> None:
        queue.is_watched = False
        oldest = queue.first_that_may_load()
        if oldest is None or queue.is_escalated:
            return
        if time.monotonic() - oldest.entered < PATIENCE_S:
            self.watch(queue)
        elif queue.may_delay_escalation(self.start_s):
            self._check_in(queue, PATIENCE_S)
        else:
            self.escalate(queue)

    def _cast(self, queue: LocalQueue, name: str, *args: str | int) -> None:
        """Run a script that changes the entry. If the connection breaks, the waiting calls ask again."""
        answered = _ask_again_if_lost(queue)
        if not self._scripts.cast(name, self._holder, queue.name, *args, answered=answered):
            answered(PoolUnavailable("Redis can't be reached"))


def _unsure_if_lost(queue: LocalQueue) -> Callable[[Any], None]:
    def answered(reply: Any) -> None:
        queue.is_unsure = queue.is_unsure or isinstance(reply, PoolUnavailable)

    return answered


def _ask_again_if_lost(queue: LocalQueue) -> Callable[[Any], None]:
    def answered(reply: Any) -> None:
        if isinstance(reply, PoolUnavailable):
            queue.is_unsure = True
            queue.ask_again()

    return answered
