"""Lets other greenlets run while a request keeps its own greenlet busy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import gevent
from gevent.lock import Semaphore

_AT_ONCE_S = 1e-9


def let_others_run() -> None:
    """Let other greenlets run, including those for which bytes have just arrived.

    `gevent.sleep(0)` is not enough: the event loop runs up to 100 such callbacks before it looks at the sockets again.
    When each one is busy for 4 ms, a request of another client waits for 0.4 s, and several times longer on a busy
    host. A timer runs after the event loop has looked at the sockets.
    """
    gevent.sleep(_AT_ONCE_S)


class LongTurns:
    """Pieces of work that keep the process busy for up to a few tenths of a second, one at a time.

    All other greenlets get a turn between two pieces, so many pieces at once do not keep the process from its
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
