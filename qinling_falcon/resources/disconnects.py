"""Notices clients that disconnect while their requests wait."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

from gevent.hub import get_hub


@contextlib.contextmanager
def on_disconnect(sock: Any, callback: Callable[[], None]) -> Iterator[None]:
    """Call `callback` if the client closes its end of the connection inside the `with` block.

    A client that has sent its next request already is not watched any more.

    Args:
        sock: the client's socket; None: it is not known, so nothing is noticed.
        callback: called in the event loop; must not wait.
    """
    if sock is None:
        yield
        return
    watcher = get_hub().loop.io(sock.fileno(), 1)

    def arrived() -> None:
        watcher.stop()
        if _is_closed(sock):
            callback()

    watcher.start(arrived)
    try:
        yield
    finally:
        watcher.stop()
        watcher.close()


def _is_closed(sock: Any) -> bool:
    timeout = sock.gettimeout()
    sock.settimeout(0)
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        sock.settimeout(timeout)
