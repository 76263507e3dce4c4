"""Writes answers to a client's socket and enforces a deadline on clients that read slowly.

A client has `silence_s`, and one more second for each `min_rate` bytes that it has read. It may never pause for longer
than `silence_s`. While the server waits for a client to read, the connection holds no place.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any


class TimedWriter:
    """Sends the bytes of one connection's answers. Gunicorn's `Response` uses it in place of the socket.

    Args:
        sock: the client's gevent socket.
        silence_s: the longest pause of the client, in seconds.
        min_rate: bytes of an answer that add one second to its time.
        waiting: makes a context manager that is entered while the server waits for the client.
    """

    def __init__(
        self, sock: Any, silence_s: float, min_rate: int, waiting: Callable[[], AbstractContextManager[Any]]
    ) -> None:
        self._sock = sock
        self._silence_s = silence_s
        self._min_rate = min_rate
        self._waiting = waiting
        self._waited_s = 0.0
        self._sent = 0

    def begin(self) -> None:
        """Start the clock of an answer."""
        self._waited_s = 0.0
        self._sent = 0

    def sendall(self, data: bytes) -> None:
        """Send all bytes.

        Raises:
            TimeoutError: the client reads too slowly.
            OSError: the connection broke.
        """
        # Most answers fit into the kernel's buffer, so the first attempt uses no timer. gevent's `sendall` would make
        # an extra system call to ask for the size of that buffer.
        self._sock.settimeout(0)
        try:
            sent: int = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        finally:
            self._sock.settimeout(None)
        self._sent += sent
        if sent < len(data):
            self._wait(memoryview(data)[sent:])

    def _wait(self, rest: memoryview) -> None:
        began = time.monotonic()
        try:
            with self._waiting():
                while rest:
                    waited_s = self._waited_s + time.monotonic() - began
                    left_s = self._silence_s + self._sent / self._min_rate - waited_s
                    if left_s <= 0:
                        raise TimeoutError("the client reads too slowly")
                    self._sock.settimeout(min(left_s, self._silence_s))
                    sent = self._sock.send(rest)
                    self._sent += sent
                    rest = rest[sent:]
        finally:
            self._sock.settimeout(None)
            self._waited_s += time.monotonic() - began
