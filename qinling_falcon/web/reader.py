"""Reads requests from a client's socket, and gives a client that is too slow a deadline.

A client may take `head_timeout_s` to send a request's head, counted from its first byte. For a body it gets
`body_grace_s` and one more second for each `body_min_rate` bytes that have arrived, but may never be silent for longer
than `body_grace_s`. Only the time in which the server waits for the client counts: a slow disk or a slow authentication
is not the client's fault. A client that sends too slowly is told so (408); one that has fallen silent is disconnected
without an answer.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from gunicorn.http.unreader import SocketUnreader

from qinling_falcon.errors import RequestTimeout


class Phase(enum.Enum):
    """What the server waits for when it waits for the client."""

    HEAD = enum.auto()
    BODY = enum.auto()
    DRAIN = enum.auto()
    """The rest of a body that the application did not read."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a client may take.

    Attributes:
        head_s: seconds for a request's head.
        body_grace_s: seconds for a body, whatever its size.
        body_min_rate: bytes of a body that buy one more second.
        drain_s: seconds for the rest of a body that nothing reads.
    """

    head_s: float
    body_grace_s: float
    body_min_rate: int
    drain_s: float = 5.0


Waiting = Callable[[Phase], AbstractContextManager[Any]]


class TimedReader(SocketUnreader):  # type: ignore[misc]  # Gunicorn has no types
    """What Gunicorn's parser reads from.

    Args:
        sock: the client's, a gevent socket.
        deadlines: how long the client may take.
        waiting: entered while the server waits for the client.
    """

    # What is read ahead of the application lies in memory that no budget counts.
    max_body_chunk = 256 * 1024

    def __init__(self, sock: socket.socket, deadlines: Deadlines, waiting: Waiting):
        super().__init__(sock)
        self._deadlines = deadlines
        self._waiting = waiting
        self._phase = Phase.HEAD
        self._waited_s = 0.0
        self._received = 0
        self._request: Any = None

    def begin(self, phase: Phase, request: Any = None) -> None:
        """Start the clock of a phase; `request` is Gunicorn's, once its head has been read."""
        self._phase = phase
        self._request = request
        self._waited_s = 0.0
        self._received = 0

    def has_read_ahead(self) -> bool:
        """Whether bytes of a next request have been read already."""
        return bool(self.buf.seek(0, 2))

    def chunk(self, size_hint: int | None = None) -> bytes:
        """The next bytes of the client; none at the end of what it sends.

        Raises:
            RequestTimeout: the client has taken too long.
            OSError: the connection broke.
        """
        size = self.mxchunk
        if size_hint and size_hint > size:
            size = min(size_hint, self.max_body_chunk)
        # Most requests arrive whole: they need neither a timer nor a place among those that wait.
        self.sock.settimeout(0)
        try:
            data: bytes = self.sock.recv(size)
        except BlockingIOError:
            data = self._wait(size)
        finally:
            self.sock.settimeout(None)
        self._received += len(data)
        return data

    def _wait(self, size: int) -> bytes:
        silence_s = self._longest_silence_s()
        left_s = min(silence_s, self._allowed_s() - self._waited_s)
        if left_s <= 0:
            raise self._too_slow()
        began = time.monotonic()
        try:
            with self._waiting(self._phase):
                self.sock.settimeout(left_s)
                data: bytes = self.sock.recv(size)
        except TimeoutError:
            if time.monotonic() - began >= silence_s / 2:
                # The client has fallen silent, and would not read an answer either.
                with contextlib.suppress(OSError):
                    self.sock.shutdown(socket.SHUT_RDWR)
            raise self._too_slow() from None
        finally:
            self._waited_s += time.monotonic() - began
        return data

    def _longest_silence_s(self) -> float:
        match self._phase:
            case Phase.HEAD:
                return self._deadlines.head_s
            case Phase.DRAIN:
                return self._deadlines.drain_s
            case Phase.BODY:
                return self._deadlines.body_grace_s

    def _allowed_s(self) -> float:
        """The time that the phase may take in all."""
        earned_s = self._received / self._deadlines.body_min_rate if self._phase is Phase.BODY else 0.0
        return self._longest_silence_s() + earned_s

    def _too_slow(self) -> RequestTimeout:
        if self._request is not None:
            self._request.force_close()  # where a next request would begin is unknown
        if self._phase is Phase.HEAD:
            return RequestTimeout(f"The head of the request did not arrive within {self._deadlines.head_s:g} s.")
        return RequestTimeout(
            f"The request body arrived too slowly: {self._received} bytes in {self._waited_s:.0f} s. Beyond"
            f" {self._deadlines.body_grace_s:g} s, {self._deadlines.body_min_rate} bytes a second are expected."
        )
