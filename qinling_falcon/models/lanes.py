"""How the callers of a writer hand their writes over, and how they wait: native threads, or greenlets.

The three classes have the same methods. Processes with a hub use `HubLane` for SQLite, so each call passes it.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable
from typing import Any

from qinling_falcon.models.batches import Waiter, Write
from qinling_falcon.models.cooperation import NativeEvent, cooperative, native
from qinling_falcon.models.engines.base import Engine
from qinling_falcon.models.engines.sqlite import Sqlite

_BATCH_SIZE = 500
# A commit of many writes costs little more than a commit of one, and callers whose writes shared a commit often send
# their next ones at the same time. So a batch that is smaller than the last one waits up to `_GATHER_S` for more
# writes. After a batch of one write, no write waits, unless more are expected. (`HubLane` has another rule for writes
# in halves: see `Write`.)
_GATHER_S = 0.004
# The callers come back later on a slow or busy host. There `HubLane` waits for up to the time between the last two
# batches, but at most this long.
_LONGEST_GATHER_S = 0.02
_BREAK_S = 0.1  # in `HubLane`, no write waits after a break this long: the callers of the last batch are gone
_POLL_S = 0.001  # how often a native thread looks whether more writes have come
STOP = None


class Lane:
    """How callers and the writer meet: here, native threads on both sides.

    Attributes:
        expected: a batch that is smaller than this waits for more writes, as one that is smaller than the last one.
    """

    def __init__(self) -> None:
        simple_queue: type[queue.SimpleQueue[Write | None]] = native("queue", "SimpleQueue")
        self._queue = simple_queue()
        self.expected = 0
        self._last_size = 0
        self._thread: int | None = None
        self._ended = NativeEvent()
        self._get_ident: Callable[[], int] = native("_thread", "get_ident")
        self.pause: Callable[[float], None] = native("time", "sleep")

    def start(self, serve: Callable[[], None]) -> None:
        """Start `serve` in the writer's thread or greenlet."""
        start_thread: Callable[..., int] = native("_thread", "start_new_thread")
        start_thread(self._run, (serve,))

    def _run(self, serve: Callable[[], None]) -> None:
        self._thread = self._get_ident()
        try:
            serve()
        finally:
            self._ended.set()

    def join(self, timeout_s: float) -> None:
        """Wait until `serve` has returned."""
        self._ended.wait(timeout_s)

    def is_writer(self) -> bool:
        """Whether the caller is the writer itself."""
        return self._thread == self._get_ident()

    def waiting(self) -> int:
        """How many writes wait."""
        return self._queue.qsize()

    def put(self, write: Write | None) -> None:
        """Hand a write, or the end, to the writer."""
        self._queue.put(write)

    def take(self) -> list[Write | None]:
        """Take the next batch; waits for one."""
        gathered = [self._queue.get()]
        until = time.monotonic() + _GATHER_S
        while self.waiting() + 1 < max(self._last_size, self.expected) and time.monotonic() < until:
            self.pause(_POLL_S)
        with contextlib.suppress(queue.Empty):
            while len(gathered) < _BATCH_SIZE:
                gathered.append(self._queue.get_nowait())
        self._last_size = len(gathered)
        return gathered

    def make_waiter(self) -> Waiter:
        """What the caller sleeps on."""
        return NativeEvent()

    def wake(self, writes: list[Write]) -> None:
        """Let the callers go on."""
        for write in writes:
            write.waiter.set()


class HubLane(Lane):
    """A native writer thread that serves the greenlets of a hub.

    The hub gathers the writes, and the thread wakes up only for a whole batch: each time that it does, it competes with
    the hub for the interpreter's lock.
    """

    def __init__(self) -> None:
        import gevent
        from gevent.hub import Waiter as GreenletWaiter

        from qinling_falcon.deadlines import Deadlines

        super().__init__()
        self._hub = gevent.get_hub()
        self.make_greenlet_waiter: type[GreenletWaiter] = GreenletWaiter
        self._hub_thread = self._get_ident()
        self._gathered: list[Write | None] = []
        self._timer: Any = None
        self._handed_over_at = 0.0
        self._interval_s = 0.0  # between the last two batches
        self._is_writing = False
        batches: type[queue.SimpleQueue[list[Write | None]]] = native("queue", "SimpleQueue")
        self._batches = batches()
        self._answered: list[Write] = []
        # The thread's only call into the hub. `Deadlines` keeps the loop alive while callers wait, so `ref` is false.
        self._signal = self._hub.loop.async_(ref=False)
        self._signal.start(self._on_written)
        self._deadlines: Deadlines[GreenletWaiter] = Deadlines(lambda waiter: waiter.switch(False))

    def join(self, timeout_s: float) -> None:
        """Wait until `serve` has returned."""
        self._hub.threadpool.apply(self._ended.wait, (timeout_s,))
        self._signal.close()

    def waiting(self) -> int:
        """How many writes wait."""
        return len(self._gathered)

    def put(self, write: Write | None) -> None:
        """Hand a write, or the end, to the writer."""
        if self._get_ident() == self._hub_thread:
            self._add(write)
        else:
            self._hub.loop.run_callback_threadsafe(self._add, write)

    def take(self) -> list[Write | None]:
        """Take the next batch; waits for one."""
        return self._batches.get()

    def make_waiter(self) -> Waiter:
        """What the caller sleeps on: a greenlet of the hub, or another native thread."""
        return _HubWaiter(self) if self._get_ident() == self._hub_thread else NativeEvent()

    def wait(self, waiter: Any, timeout_s: float) -> bool:
        """Let the current greenlet sleep until woken, at most about `timeout_s` seconds; whether it was woken."""
        self._deadlines.add(waiter, timeout_s)
        try:
            return bool(waiter.get())
        finally:
            self._deadlines.remove(waiter)

    def wake(self, writes: list[Write]) -> None:
        """Let the callers go on."""
        self._answered = writes
        self._signal.send()

    def _add(self, write: Write | None) -> None:
        self._gathered.append(write)
        if not self._is_writing:
            self._gather()

    def _gather(self) -> None:
        """Hand the gathered writes over, or wait for more."""
        if (
            len(self._gathered) >= max(self._last_size, self.expected)
            or self._gathered[-1] is STOP
            or time.monotonic() - self._handed_over_at > _BREAK_S
        ):
            self._hand_over()
        elif self._timer is None:
            wait_s = min(max(_GATHER_S, self._interval_s), _LONGEST_GATHER_S)
            self._timer = self._hub.loop.timer(wait_s)
            self._timer.start(self._hand_over)

    def _hand_over(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        batch, self._gathered = self._gathered[:_BATCH_SIZE], self._gathered[_BATCH_SIZE:]
        self._last_size = len(batch)
        now = time.monotonic()
        self._interval_s, self._handed_over_at = now - self._handed_over_at, now
        self._is_writing = True
        self._batches.put(batch)

    def _on_written(self) -> None:
        """Runs in the hub when the thread has written a batch: hands over the next one, and wakes the callers."""
        answered = self._answered
        self._is_writing = False
        if self._gathered:
            first = self._gathered[0]
            if first is not STOP and first.in_halves and len(self._gathered) >= self._last_size / 2:
                self._hand_over()
            else:
                self._gather()
        super().wake(answered)


class _HubWaiter:
    """What a greenlet of a hub sleeps on. It takes a third of the time of gevent's `Event` with a timeout."""

    __slots__ = ("_lane", "_waiter")

    def __init__(self, lane: HubLane) -> None:
        self._lane = lane
        self._waiter = lane.make_greenlet_waiter()

    def set(self) -> None:
        """Wake the greenlet. Runs in the hub."""
        self._waiter.switch(True)

    def wait(self, timeout: float) -> bool:
        """Sleep until woken, at most about `timeout` seconds."""
        return self._lane.wait(self._waiter, timeout)


class GreenLane(Lane):
    """A writer greenlet, for a driver that waits cooperatively."""

    def __init__(self) -> None:
        import gevent
        import gevent.event
        import gevent.queue

        super().__init__()
        self._queue = gevent.queue.SimpleQueue()
        self._gevent = gevent
        self._greenlet: Any = None
        self.pause = gevent.sleep

    def start(self, serve: Callable[[], None]) -> None:
        """Start `serve` in the writer's thread or greenlet."""
        self._greenlet = self._gevent.spawn(serve)

    def join(self, timeout_s: float) -> None:
        """Wait until `serve` has returned."""
        self._greenlet.join(timeout_s)

    def is_writer(self) -> bool:
        """Whether the caller is the writer itself."""
        return self._gevent.getcurrent() is self._greenlet

    def make_waiter(self) -> Waiter:
        """What the caller sleeps on."""
        waiter: Waiter = self._gevent.event.Event()
        return waiter


def make_lane(engine: Engine) -> Lane:
    """The lane for this process and database."""
    if not cooperative():
        return Lane()
    return HubLane() if isinstance(engine, Sqlite) else GreenLane()
