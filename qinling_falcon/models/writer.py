"""The one writer of a process: collects the writes of all callers and commits them in batches.

SQLite blocks whoever calls it, so its writer is a native thread, also (and above
all) under gevent: no greenlet ever opens a write transaction. PostgreSQL's is a
greenlet under gevent, else a thread. Callers sleep until their own change is
durable; while one batch is committed, the next one gathers.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable
from typing import Any

from qinling_falcon.errors import Unavailable
from qinling_falcon.models.batches import Batch, Group, Waiter, Write
from qinling_falcon.models.cooperation import NativeEvent, cooperative, native
from qinling_falcon.models.engines import Engine, Sqlite

_BATCH_SIZE = 500
# A commit of many writes costs little more than a commit of one, and callers whose writes shared a commit often send
# their next ones at the same time. So a batch that is smaller than the last one waits up to `_GATHER_S` for more
# writes. After a batch of one write, no write waits.
_GATHER_S = 0.004
_POLL_S = 0.001  # how often a native thread looks whether more writes have come
_STOP = None


class Writer:
    """Takes writes from any greenlet or thread of the process that made it.

    Args:
        engine: the database; the writer has a connection of its own on it.
        timeout_s: a write that could not begin for so long is refused.
        queue_size: more waiting writes than that are refused at once.
    """

    def __init__(self, engine: Engine, *, timeout_s: float, queue_size: int) -> None:
        self._engine = engine
        self._timeout_s = timeout_s
        self._queue_size = queue_size
        self._started = False
        self._closed = False
        self._lane: _Lane = _make_lane(engine)

    def submit(self, payload: Any, group: Group | None = None) -> Any:
        """Have `payload` written; returns when that is durable.

        Args:
            payload: a function without arguments, or what `group` writes.
            group: see `Write`. It answers with one result for each payload, in order.

        Raises:
            Unavailable: the database could not be reached in time, too many writes are waiting already, or
                the connection went during the commit.
            Exception: whatever the payload raised; its changes alone are undone.
        """
        if self._closed:
            raise Unavailable("The database connection of this process is closed.")
        if self._lane.is_writer():
            raise RuntimeError("a write was begun inside another write: call the function itself")
        if self._lane.waiting() >= self._queue_size:
            raise Unavailable("Too many changes are waiting for the database.", retry_after_s=1)
        write = Write(payload, group, time.monotonic() + self._timeout_s, self._lane.make_waiter())
        if not self._started:
            self._started = True
            self._lane.start(self._serve)
        self._lane.put(write)
        self._await(write)
        if write.error is not None:
            raise write.error
        return write.result

    def close(self) -> None:
        """Write what is waiting, then end."""
        self._closed = True
        if self._started:
            self._lane.put(_STOP)
            self._lane.join(2 * self._timeout_s)

    def _await(self, write: Write) -> None:
        if write.waiter.wait(self._timeout_s):
            return
        if write.take():
            raise Unavailable("The database did not answer in time: nothing was changed.", retry_after_s=1)
        # It was begun: the writer refuses it itself, unless it is stuck inside the database.
        if not write.waiter.wait(2 * self._timeout_s):
            raise Unavailable("The database does not answer: whether the change was made is unknown.")

    def _serve(self) -> None:
        batch = Batch(self._engine, self._lane.pause)
        stopping = False
        try:
            while not stopping:
                gathered = self._lane.take()
                stopping = _STOP in gathered
                writes = [write for write in gathered if write is not None and write.take()]
                failure: BaseException = Unavailable("The writer of this process was ended: nothing was changed.")
                try:
                    batch.run(writes)
                except Exception as error:
                    # A fault of ours. The callers show it; the writer must live on.
                    self._engine.close_writer()
                    failure = error
                finally:
                    self._answer(writes, failure)
        finally:
            self._engine.close_writer()

    def _answer(self, writes: list[Write], failure: BaseException) -> None:
        for write in writes:
            if not write.settled:
                write.settle(error=failure)
        self._lane.wake(writes)


class _Lane:
    """How callers and the writer meet: here, native threads on both sides."""

    def __init__(self) -> None:
        simple_queue: type[queue.SimpleQueue[Write | None]] = native("queue", "SimpleQueue")
        self._queue = simple_queue()
        self._last_size = 0
        self._thread: int | None = None
        self._ended = NativeEvent()
        self._get_ident: Callable[[], int] = native("_thread", "get_ident")
        self.pause: Callable[[float], None] = native("time", "sleep")

    def start(self, serve: Callable[[], None]) -> None:
        """Run `serve` on the other side."""
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
        while self.waiting() + 1 < self._last_size and time.monotonic() < until:
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


class _HubLane(_Lane):
    """A native writer thread that serves the greenlets of a hub.

    The hub gathers the writes, and the thread wakes up only for a whole batch: each time that it does, it competes with
    the hub for the interpreter's lock.
    """

    def __init__(self) -> None:
        import gevent
        from gevent.event import Event

        super().__init__()
        self._make_event: type[Event] = Event
        self._hub = gevent.get_hub()
        self._hub_thread = self._get_ident()
        self._gathered: list[Write | None] = []
        self._timer: Any = None
        self._is_writing = False
        batches: type[queue.SimpleQueue[list[Write | None]]] = native("queue", "SimpleQueue")
        self._batches = batches()
        self._answered: list[Write] = []
        # The thread's one call into the hub. Callers wait with timers of their own, so this must not keep the loop
        # alive.
        self._signal = self._hub.loop.async_(ref=False)
        self._signal.start(self._on_written)

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
        waiter: Waiter = self._make_event() if self._get_ident() == self._hub_thread else NativeEvent()
        return waiter

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
        if len(self._gathered) >= self._last_size or self._gathered[-1] is _STOP:
            self._hand_over()
        elif self._timer is None:
            self._timer = self._hub.loop.timer(_GATHER_S)
            self._timer.start(self._hand_over)

    def _hand_over(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        batch, self._gathered = self._gathered[:_BATCH_SIZE], self._gathered[_BATCH_SIZE:]
        self._last_size = len(batch)
        self._is_writing = True
        self._batches.put(batch)

    def _on_written(self) -> None:
        """Runs in the hub when the thread has written a batch: wakes the callers, and hands over the next one."""
        super().wake(self._answered)
        self._is_writing = False
        if self._gathered:
            self._gather()


class _GreenLane(_Lane):
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
        """Run `serve` on the other side."""
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


def _make_lane(engine: Engine) -> _Lane:
    if not cooperative():
        return _Lane()
    return _HubLane() if isinstance(engine, Sqlite) else _GreenLane()
