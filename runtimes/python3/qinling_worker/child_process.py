"""The supervisor's side of one child: its channel and its log."""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
from collections.abc import Callable
from select import EPOLLHUP

from . import frames
from .logs import LogCapture
from .loop import Loop, Stream

_RECEIVE = 64 * 1024
_HEADER_SIZE = frames.ANSWER.size
_SLACK = 8 * frames.MAX_MESSAGE_SIZE


class ChildProcess:
    """A child that the template has forked, or is about to.

    Args:
        loop: the event loop that watches the channel and the log.
        max_frame_size: a longer frame means that the channel is corrupted.
        max_log_size: the most bytes of output that are kept.
        on_frame: called with kind, duration and payload of each frame.
        on_gone: called once, when the channel is closed (True: the child is ending) or corrupted (False).
        keeps_log: returns whether the current output belongs to a call or a load.
    """

    def __init__(
        self,
        loop: Loop,
        max_frame_size: int,
        max_log_size: int,
        on_frame: Callable[[int, float, bytes], None],
        on_gone: Callable[[bool], None],
        keeps_log: Callable[[], bool],
    ) -> None:
        ours, theirs = socket.socketpair()
        log, log_end = os.pipe()
        os.fchmod(log_end, 0o666)  # the function may open /dev/stdout by name under another uid, also to read and write
        self.pid: int | None = None  # once the template has forked it
        self.exit_code: int | None = None  # set when the child has ended by itself or by a signal that we did not send
        self.calls = 0
        self.log = LogCapture(log, max_log_size)
        self.ends = (theirs.detach(), log_end)  # for the template, which hands them to the child
        self._loop = loop
        self._max_frame_size = max_frame_size + _SLACK
        self.on_frame = on_frame
        self._on_gone = on_gone
        self._keeps_log = keeps_log
        self._data = b""
        self._left_unread = False
        self._channel = Stream(loop, ours, self.read)
        loop.watch(log, self._read_log)

    def send_ends(self, ends: tuple[int, int]) -> None:
        """Send a loaded process the child's ends of a channel and a log, which ask it to fork a process with them."""
        with contextlib.suppress(OSError):  # if the process has ended, `on_gone` reports it
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", ends))]
            self._channel.sock.sendmsg([b"\0"], rights)

    def await_frame(self, timeout_s: float) -> None:
        """Wait until the channel has data or the time is over, and read it."""
        select.select([self._channel.sock], [], [], timeout_s)
        self.read()

    def close_ends(self) -> None:
        """Close our copies of the child's descriptors, once the template has them."""
        for fd in self.ends:
            os.close(fd)

    def send(self, body: bytes) -> None:
        """Send a request. If the child has ended, `on_gone` reports it."""
        try:
            self._channel.send(frames.REQUEST.pack(len(body)) + body)
        except OSError:
            self._left_unread = True

    def read(self) -> None:
        """Read from the channel, and hand complete frames to `on_frame`."""
        try:
            data = self._channel.sock.recv(_RECEIVE)
        except BlockingIOError:
            return
        except ConnectionResetError:  # it ended without having read our request
            self._left_unread = True
            data = b""
        except OSError:
            data = b""
        if not data:
            self._loop.forget(self._channel.sock.fileno())
            self._on_gone(True)
            return
        if self._data:
            data = self._data + data
        while len(data) >= _HEADER_SIZE:
            length, kind, duration = frames.ANSWER.unpack_from(data)
            if length > self._max_frame_size or kind > frames.ENDED:
                self._loop.forget(self._channel.sock.fileno())
                self._on_gone(False)
                return
            end = _HEADER_SIZE + length
            if len(data) < end:
                break
            payload, data = data[_HEADER_SIZE:end], data[end:]
            self.on_frame(kind, duration, payload)
        self._data = data

    def never_began(self) -> bool:
        """Whether the last request was left unread. The child and all its forks must have ended."""
        while not self._left_unread:
            try:
                if not self._channel.sock.recv(_RECEIVE):
                    break
            except ConnectionResetError:
                return True
            except OSError:
                break
        return self._left_unread or self._channel.unsent

    def close(self) -> None:
        """Close everything; the processes must be gone."""
        self._loop.forget(self.log.fd)
        self.log.close()
        self._channel.close()

    def _read_log(self, mask: int) -> None:
        if not self.log.read_some(keep=self._keeps_log()) and mask & EPOLLHUP:
            self._loop.forget(self.log.fd)
