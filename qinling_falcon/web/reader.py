"""Reads requests from a client's socket and enforces deadlines on slow clients.

1. Head: a client has `head_timeout_s`, counted from the first byte.
2. Body: a client has `body_grace_s`, and one more second for each `body_min_rate` bytes that have arrived. A pause may
   never be longer than `body_grace_s`.
3. The rest of a body that the application did not read: a client has `drain_s`.

Only the time in which the server waits for the client counts, so a slow disk or slow authentication costs the client
nothing. A client that sends too slowly gets a 408. A client that has stopped sending is disconnected without an answer.
Other greenlets run in between while a client sends without a pause.
"""

from __future__ import annotations

import contextlib
import enum
import math
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from gunicorn.http.unreader import SocketUnreader

from qinling_falcon.errors import RequestTimeout, TooLarge
from qinling_falcon.turns import let_others_run

# After so many bytes of a client that sends without a pause, other greenlets run. Parsing them takes up to 4 ms, when
# each chunk holds one byte.
_TURN = 16 * 1024


class Phase(enum.Enum):
    """The part of a request that the server currently reads, or its answer that it sends."""

    HEAD = enum.auto()
    BODY = enum.auto()
    DRAIN = enum.auto()
    """The rest of a body that the application did not read."""
    SEND = enum.auto()


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The time limits for one request.

    Attributes:
        head_s: seconds for the head.
        body_grace_s: base time for a body, in seconds.
        body_min_rate: bytes of a body that add one second to its time.
        send_grace_s: base time for an answer, in seconds.
        send_min_rate: bytes of an answer that add one second to its time.
        drain_s: seconds for the rest of a body that the application did not read.
    """

    head_s: float
    body_grace_s: float
    body_min_rate: int
    send_grace_s: float
    send_min_rate: int
    drain_s: float = 5.0


Waiting = Callable[[Phase], AbstractContextManager[Any]]


class TimedReader(SocketUnreader):  # type: ignore[misc]  # Gunicorn has no types
    """The source of bytes for Gunicorn's parser, with deadlines.

    Args:
        sock: the client's gevent socket.
        deadlines: the time limits.
        waiting: a context manager that is entered while the server waits for the client.

    Attributes:
        before_body: called once before the next bytes are received.
    """

    # Bounds the bytes that are read ahead of the application, because no memory limit counts them.
    max_body_chunk = 256 * 1024

    def __init__(self, sock: socket.socket, deadlines: Deadlines, waiting: Waiting):
        super().__init__(sock)
        self._deadlines = deadlines
        self._waiting = waiting
        self._phase = Phase.HEAD
        self._waited_s = 0.0
        self._received = 0
        self._request: Any = None
        self._since_pause = 0
        self._most_bytes = math.inf
        self.before_body: Callable[[], None] | None = None

    def begin(self, phase: Phase, request: Any = None, most_bytes: float = math.inf) -> None:
        """Start a phase and its clock.

        Args:
            phase: the phase.
            request: Gunicorn's request object; None until the head has been read.
            most_bytes: the most bytes that the client may send. A body in chunks of one byte each is several times
                larger on the wire than what it holds.
        """
        self._phase = phase
        self._request = request
        self._most_bytes = most_bytes
        self._waited_s = 0.0
        self._received = 0

    def buffered_size(self) -> int:
        """The number of bytes that have been received and not read."""
        size: int = self.buf.seek(0, 2)
        return size

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Receive the next bytes; empty at the end of the stream.

        Raises:
            RequestTimeout: the deadline of the phase has passed.
            OSError: the connection broke.
        """
        if self.before_body is not None:
            before, self.before_body = self.before_body, None
            before()
        size = self.mxchunk
        if size_hint and size_hint > size:
            size = min(size_hint, self.max_body_chunk)
        # Most requests arrive whole, so the first attempt uses no timer and does not enter the waiting state.
        self.sock.settimeout(0)
        try:
            data: bytes = self.sock.recv(size)
        except BlockingIOError:
            data = self._wait(size)
        finally:
            self.sock.settimeout(None)
        self._received += len(data)
        if self._received > self._most_bytes:
            self._end_request()
            raise TooLarge("The chunks of the request body are too many for what they hold.")
        self._since_pause += len(data)
        if self._since_pause > _TURN:
            self._since_pause = 0
            let_others_run()
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
                # The client has stopped sending and would not read an answer either.
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
            case _:
                return self._deadlines.body_grace_s

    def _allowed_s(self) -> float:
        """The total seconds that the phase may take."""
        earned_s = self._received / self._deadlines.body_min_rate if self._phase is Phase.BODY else 0.0
        return self._longest_silence_s() + earned_s

    def _end_request(self) -> None:
        if self._request is not None:
            self._request.force_close()  # the start of the next request is unknown

    def _too_slow(self) -> RequestTimeout:
        self._end_request()
        if self._phase is Phase.HEAD:
            return RequestTimeout("The head of the request did not arrive in time.")
        return RequestTimeout(
            f"The request body arrived too slowly: {self._received} bytes in {self._waited_s:.0f} s. Beyond"
            f" {self._deadlines.body_grace_s:g} s, send at least {self._deadlines.body_min_rate} bytes a second."
        )
