"""The reading connections of a process: bounded in number, and kept open between reads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any


class TooManyReads(Exception):
    """No reading connection became free in time."""


class Readers:
    """Lends connections to reads, for an engine (`engines.py`).

    It replaces peewee's pool, which loses a place for ever when a greenlet is killed while it connects or waits for the
    pool's lock, and holds that lock while it connects or asks a silent server. Here nothing but `make` waits while a
    place is held, and a place is given back however that ends.

    Args:
        make: opens a connection; it may wait.
        usable: whether a connection can serve another read. It must not wait.
        size: how many connections there are at most.
        timeout_s: longest wait for one of them to become free.
    """

    def __init__(self, make: Callable[[], Any], usable: Callable[[Any], bool], *, size: int, timeout_s: float):
        self._make = make
        self._usable = usable
        self._timeout_s = timeout_s
        self._places = threading.BoundedSemaphore(size)
        self._idle: list[Any] = []

    def take(self) -> Any:
        """A connection for one reader, to be given back.

        Raises:
            TooManyReads: none became free in time.
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
        """End a read. A connection that can't serve another one is closed."""
        if self._usable(connection):
            self._idle.append(connection)
        else:
            close_quietly(connection)
        self._places.release()

    def close_idle(self) -> None:
        """Close the connections that no read has."""
        while self._idle:
            close_quietly(self._idle.pop())


def close_quietly(connection: Any) -> None:
    """Close a connection of whatever state."""
    with contextlib.suppress(Exception):
        connection.close()
