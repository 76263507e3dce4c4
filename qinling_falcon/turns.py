"""Lets other greenlets run while a request keeps its own greenlet busy, and limits what runs at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import gevent
from gevent.lock import Semaphore

from qinling_falcon.errors import Unavailable

_AT_ONCE_S = 1e-9


def let_others_run() -> None:
    """Let other greenlets run, including those for which bytes have just arrived.

    `gevent.sleep(0)` is not enough: the event loop runs up to 100 such callbacks before it looks at the sockets again.
    When each one is busy for 4 ms, a request of another client waits for 0.4 s, and several times longer on a busy
    host. A timer runs after the event loop has looked at the sockets.
    """
    gevent.sleep(_AT_ONCE_S)


class OneAtATime:
    """Lets long pieces of work run one at a time. Other greenlets run between two of them.

    A piece may keep the process busy for a few tenths of a second. Many pieces at once do not keep the process from its
    heartbeats.
    """

    def __init__(self) -> None:
        self._free = Semaphore(1)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Do a piece of work in the `with` block."""
        with self._free:
            let_others_run()
            yield


class ConcurrencyLimit:
    """Lets at most `count` greenlets do a kind of work at once. The others wait.

    Args:
        count: how many greenlets.
        wait_s: how long a greenlet waits for a place.
        refused: the message of the error after that.
    """

    def __init__(self, count: int, wait_s: float, refused: str):
        self._free = Semaphore(count)
        self._wait_s = wait_s
        self._refused = refused

    @contextlib.contextmanager
    def place(self, *, waits: bool = True) -> Iterator[None]:
        """Hold a place in the `with` block.

        Args:
            waits: whether to wait if none is free.

        Raises:
            Unavailable: none was free, or became free in time.
        """
        if not self._free.acquire(timeout=self._wait_s if waits else 0):
            raise Unavailable(self._refused, retry_after_s=1)
        try:
            yield
        finally:
            self._free.release()
