"""Lets other greenlets run while a request keeps its own greenlet busy, and limits what runs at once."""

from __future__ import annotations

import contextlib
import gc
import time
from collections import deque
from collections.abc import Iterator

import gevent
from gevent.event import Event
from gevent.hub import get_hub
from gevent.lock import Semaphore

from qinling_falcon.errors import Unavailable

_AT_ONCE_S = 1e-9
# The pause after a piece, as a multiple of its time. Capped, so that one slow piece does not stop the others for long.
_PAUSE = 2.0
_LONGEST_PAUSE_S = 1.0


def let_others_run() -> None:
    """Let other greenlets run, including those for which bytes have just arrived.

    `gevent.sleep(0)` is not enough: the event loop runs up to 100 such callbacks before it looks at the sockets again.
    When each one is busy for 4 ms, a request of another client waits for 0.4 s, and several times longer on a busy
    host. A timer runs after the event loop has looked at the sockets.
    """
    gevent.sleep(_AT_ONCE_S)


class OneAtATime:
    """Runs long pieces of work one at a time.

    After a piece, the next one waits for twice the time that it took, but at most 1 s. So pieces of up to 0.5 s get at
    most a third of the process's time, although strangers can ask for one after another. The greenlet that did the
    piece goes on at once.
    """

    def __init__(self) -> None:
        self._is_taken = False
        # The pieces that wait, by user, in the order in which the users get the next turns.
        self._waiting: dict[str, deque[Event]] = {}

    @contextlib.contextmanager
    def turn(self, user: str) -> Iterator[None]:
        """Do a piece of work in the `with` block. It must not wait for anything.

        Meanwhile Python collects no garbage. Work that makes 350,000 lists causes collections, which take two thirds of
        its time and find nothing.

        Args:
            user: for whom it is done. Users get turns in rotation, so that one with many pieces does not delay the
                others.
        """
        self._take(user)
        took_s = 0.0
        try:
            let_others_run()
            began = time.monotonic()
            try:
                with _no_collection():
                    yield
            finally:
                took_s = time.monotonic() - began
        finally:
            # Timers count from when the event loop last looked at the clock, which was before the work.
            get_hub().loop.update_now()
            gevent.spawn_later(min(_PAUSE * took_s, _LONGEST_PAUSE_S), self._give_to_next)

    def _take(self, user: str) -> None:
        if not self._is_taken:
            self._is_taken = True
            return
        begins = Event()
        waiting = self._waiting.setdefault(user, deque())
        waiting.append(begins)
        try:
            begins.wait()
        except BaseException:  # the greenlet is killed
            if begins.is_set():
                self._give_to_next()
            else:
                waiting.remove(begins)
                if not waiting:
                    del self._waiting[user]
            raise

    def _give_to_next(self) -> None:
        if not self._waiting:
            self._is_taken = False
            return
        user, waiting = next(iter(self._waiting.items()))
        del self._waiting[user]
        waiting.popleft().set()
        if waiting:
            self._waiting[user] = waiting


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class ConcurrencyLimit:
    """Lets at most `count` greenlets do a kind of work at once. The others wait.

    Args:
        count: how many greenlets.
        wait_s: how long a greenlet waits for a place.
        refused: the message of the error after that.
        most_waiting: how many greenlets may wait; None: any number.
    """

    def __init__(self, count: int, wait_s: float, refused: str, most_waiting: int | None = None):
        self._free = Semaphore(count)
        self._wait_s = wait_s
        self._refused = refused
        self._most_waiting = most_waiting
        self._waiting = 0

    @contextlib.contextmanager
    def place(self, *, waits: bool = True) -> Iterator[None]:
        """Hold a place in the `with` block.

        Args:
            waits: whether to wait if none is free.

        Raises:
            Unavailable: none was free, or became free in time.
        """
        if not (self._free.acquire(blocking=False) or (waits and self._wait())):
            raise Unavailable(self._refused, retry_after_s=1)
        try:
            yield
        finally:
            self._free.release()

    def _wait(self) -> bool:
        """Wait for a place. Returns whether it is taken."""
        if self._most_waiting is not None and self._waiting >= self._most_waiting:
            return False
        self._waiting += 1
        try:
            return bool(self._free.acquire(timeout=self._wait_s))
        finally:
            self._waiting -= 1
