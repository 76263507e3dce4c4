"""The one writer of a process: collects the writes of all callers and commits them in batches.

A call of SQLite blocks its thread. So the writer for SQLite is a native thread, and no greenlet opens a write
transaction. The writer for PostgreSQL is a greenlet under gevent, else a native thread. Each caller sleeps until its
change is durable. While one batch is committed, the next one gathers.
"""

from __future__ import annotations

import time
from typing import Any

from qinling_falcon.errors import Unavailable
from qinling_falcon.models.batches import Batch, Group, Write
from qinling_falcon.models.engines.base import Engine
from qinling_falcon.models.lanes import STOP, make_lane


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
        self._lane = make_lane(engine)

    def submit(self, payload: Any, group: Group | None = None, *, in_halves: bool = False, size: int = 0) -> Any:
        """Have `payload` written; returns when that is durable.

        Args:
            payload: a function without arguments, or what `group` writes.
            group: see `Write`. It answers with one result for each payload, in order.
            in_halves: see `Write`.
            size: see `Write`.

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
        deadline = time.monotonic() + self._timeout_s
        write = Write(payload, group, deadline, self._lane.make_waiter(), in_halves, size)
        if not self._started:
            self._started = True
            self._lane.start(self._serve)
        self._lane.put(write)
        self._await(write)
        if write.error is not None:
            raise write.error
        return write.result

    def expect(self, count: int) -> None:
        """Let batches wait for `count` writes, for some milliseconds at most."""
        self._lane.expected = count

    def close(self) -> None:
        """Write what is waiting, then end."""
        self._closed = True
        if self._started:
            self._lane.put(STOP)
            self._lane.join(2 * self._timeout_s)

    def _await(self, write: Write) -> None:
        if write.waiter.wait(self._timeout_s):
            return
        if write.take():
            raise Unavailable("The database did not answer in time: nothing was changed.", retry_after_s=1)
        # The writer has taken it, and answers by the deadline unless the database hangs.
        if not write.waiter.wait(2 * self._timeout_s):
            raise Unavailable("The database does not answer: whether the change was made is unknown.")

    def _serve(self) -> None:
        batch = Batch(self._engine, self._lane.pause)
        stopping = False
        try:
            while not stopping:
                gathered = self._lane.take()
                stopping = STOP in gathered
                writes = [write for write in gathered if write is not None and write.take()]
                failure: BaseException = Unavailable("The writer of this process was ended: nothing was changed.")
                try:
                    batch.run(writes)
                except Exception as error:
                    # An error in this program. Each caller gets it, and the writer goes on.
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
