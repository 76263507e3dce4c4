"""Lets other greenlets run while a request keeps its own greenlet busy."""

from __future__ import annotations

import gevent

_AT_ONCE_S = 1e-9


def let_others_run() -> None:
    """Let other greenlets run, including those for which bytes have just arrived.

    `gevent.sleep(0)` is not enough: the event loop runs up to 100 such callbacks before it looks at the sockets again.
    When each one is busy for 4 ms, a request of another client waits for 0.4 s, and several times longer on a busy
    host. A timer runs after the event loop has looked at the sockets.
    """
    gevent.sleep(_AT_ONCE_S)
