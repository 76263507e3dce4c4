"""A bounded pool of reading connections, which stay open between reads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any


class TooManyReads(Exception):
    """No reading connection became free in time."""


class Readers:
    """A pool of connections for reads, used by an engine (`engines/base.py`).

    It replaces peewee's pool, which has two faults: it loses a place for ever when a greenlet is killed while it
    connects or waits for the pool's lock, and it holds that lock while it connects or waits for a silent server. In
    this pool only `make` waits while a place is held, and the place is returned however `make` ends.

    Args:
        make: opens a connection; it may wait.
        usable: returns whether a connection can serve another read; it must not wait.
        size: the most connections.
        timeout_s: the longest wait for a free connection.
    """

    def __init__(self, make: Callable[[], Any], usable: Callable[[Any], bool], *, size: int, timeout_s: float):
        self._make = make
        self._usable = usable
        self._timeout_s = timeout_s
        self._places = threading.BoundedSemaphore(size)
        self._idle: list[Any] = []

    def take(self) -> Any:
        """Take a connection for one read; the caller gives it back.

        Raises:
            TooManyReads: no connection became free in time.
            Exception: whatever `make` raises.
        """
        if not self._places.acquire(timeout=self._timeout_s):
            raise TooManyReads
        try:
            while True:
                try:
                    connection = self._idle.pop()
                except IndexError:
                    return self._make()
                if self._usable(connection):
                    return connection
                close_quietly(connection)
        except BaseException:
            self._places.release()
            raise

    def give_back(self, connection: Any) -> None:
        """Return a connection after a read. A connection that can't serve another read is closed."""
        if self._usable(connection):
            self._idle.append(connection)
        else:
            close_quietly(connection)
        self._places.release()

    def close_idle(self) -> None:
        """Close the idle connections."""
        while self._idle:
            close_quietly(self._idle.pop())


def close_quietly(connection: Any) -> None:
    """Close a connection in any state, and ignore errors."""
    with contextlib.suppress(Exception):
        connection.close()
