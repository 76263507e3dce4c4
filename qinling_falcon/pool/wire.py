"""One open connection to Redis that many greenlets use at the same time."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import gevent.socket
import hiredis
from gevent.hub import Waiter, get_hub

from qinling_falcon.errors import Unavailable

_READ_SIZE = 65536
_SWEEP_S = 0.1
_NOTHING = object()

Abandoned = Callable[[Any], None]
"""A function that gets the reply to a call for which no greenlet waits: its greenlet was killed or timed out, or the
call was a cast. The reply may be an error, or the `ReplyLost` with which the wire broke. The function runs in the
reader, so it must neither block nor raise."""


class PoolUnavailable(Unavailable):
    """Redis is away or did not answer in time. A call that was sent may have been carried out."""

    def __init__(self, message: str):
        super().__init__(message, retry_after_s=1)


class ReplyLost(PoolUnavailable):
    """A command was sent and its reply did not come: Redis may have executed it."""


class Wire:
    """Sends all queued commands in one write and hands out the replies in order.

    A call stays in the queue of replies even if its greenlet has ended, so no greenlet gets the reply of
    another one. The first error ends the whole wire: all waiting calls fail, and the wire is not used again.

    Args:
        connection: a connected redis-py connection. From here on, only the wire uses its socket.
    """

    def __init__(self, connection: Any):
        self._connection = connection
        self._socket = _cooperative(connection._sock)
        self._run_callback = get_hub().loop.run_callback
        self._unsent: list[bytes] = []
        self._to_send = gevent.event.Event()
        self._calls: deque[_Call] = deque()
        self._greenlets = [gevent.spawn(loop) for loop in (self._send, self._read, self._sweep)]
        self.broken = False

    def call(self, command: bytes, timeout_s: float, abandoned: Abandoned | None) -> Any:
        """Send a packed command and wait for its reply. An error reply is returned, not raised.

        Raises:
            ReplyLost: the wire broke, or there was no reply in time.
        """
        call = _Call(time.monotonic() + timeout_s, abandoned)
        self._queue(call, command)
        try:
            return call.waiter.get()
        except BaseException:
            call.left = True
            raise

    def cast(self, command: bytes, timeout_s: float, answered: Abandoned) -> None:
        """Send a packed command without waiting. `answered` gets the reply, or `ReplyLost` if the wire breaks."""
        call = _Call(time.monotonic() + timeout_s, answered)
        call.left = True
        self._queue(call, command)

    def end(self, reason: str) -> None:
        """Close the socket and fail every call that waits."""
        if self.broken:
            return
        self.broken = True
        current = gevent.getcurrent()
        gevent.killall([greenlet for greenlet in self._greenlets if greenlet is not current], block=False)
        self._socket.close()
        self._connection.disconnect()
        while self._calls:
            call = self._calls.popleft()
            if not call.left:
                self._run_callback(call.waiter.throw, ReplyLost(reason))
            elif call.abandoned is not None:
                call.abandoned(ReplyLost(reason))

    def _queue(self, call: _Call, command: bytes) -> None:
        self._calls.append(call)
        self._unsent.append(command)
        if len(self._unsent) == 1:
            self._to_send.set()

    def _send(self) -> None:
        try:
            while True:
                self._to_send.wait()
                self._to_send.clear()
                gathered, self._unsent = b"".join(self._unsent), []
                # gevent's `sendall` makes an extra system call each time, to ask for the size of the socket's buffer.
                sent = self._socket.send(gathered)
                if sent < len(gathered):
                    self._socket.sendall(gathered[sent:])
        except OSError as error:
            self.end(f"The connection to Redis broke: {error}")

    def _read(self) -> None:
        reader = hiredis.Reader(notEnoughData=_NOTHING)
        try:
            while data := self._socket.recv(_READ_SIZE):
                reader.feed(data)
                while (reply := reader.gets()) is not _NOTHING:
                    self._answer(self._calls.popleft(), reply)
            self.end("Redis closed the connection")
        except (OSError, hiredis.HiredisError, IndexError) as error:
            self.end(f"The connection to Redis broke: {error}")

    def _answer(self, call: _Call, reply: Any) -> None:
        if not call.left:
            self._run_callback(_deliver, call, reply)
        elif call.abandoned is not None:
            call.abandoned(reply)

    def _sweep(self) -> None:
        """End calls that have waited too long. One pass ten times a second is cheaper than a timer for each call."""
        while True:
            gevent.sleep(_SWEEP_S)
            now = time.monotonic()
            if self._calls and self._calls[0].deadline < now:  # replies come in order, so no later call has one either
                self.end("Redis did not answer in time")
                return
            for call in self._calls:
                if call.deadline < now and not call.left:
                    call.left = True
                    self._run_callback(call.waiter.throw, ReplyLost("Redis did not answer in time"))


class _Call:
    """A command whose reply has not come yet.

    Attributes:
        waiter: where its greenlet waits.
        deadline: on the monotonic clock.
        abandoned: gets the reply if no greenlet waits for it.
        left: whether no greenlet waits for the reply: it has ended, or never waited.
    """

    __slots__ = ("abandoned", "deadline", "left", "waiter")

    def __init__(self, deadline: float, abandoned: Abandoned | None):
        self.waiter = Waiter()
        self.deadline = deadline
        self.abandoned = abandoned
        self.left = False


def _deliver(call: _Call, reply: Any) -> None:
    """Runs in the hub. The greenlet may have been killed since the reply was read."""
    if not call.left:
        call.waiter.switch(reply)
    elif call.abandoned is not None:
        call.abandoned(reply)


def _cooperative(sock: Any) -> Any:
    """The socket as one that yields to other greenlets, also where the process is not monkey-patched."""
    if isinstance(sock, socket.socket) and not isinstance(sock, gevent.socket.socket):
        if type(sock) is not socket.socket:
            raise PoolUnavailable("TLS to Redis needs gevent's monkey-patching in this process")
        sock = gevent.socket.socket(sock.family, sock.type, fileno=os.dup(sock.fileno()))
    sock.settimeout(None)
    return sock
