"""The event loop, and sockets that never wait.

`epoll` is used without `selectors`, whose key objects cost more than everything else in this loop.
"""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeAlias

Handler: TypeAlias = "Callable[[int], None]"
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT


class Loop:
    """Calls each descriptor's handler with its event mask; handlers take a call for nothing calmly."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        # A signal that arrives just before a wait would otherwise be handled only after the next event.
        self._signaled, self._signaling = socket.socketpair()
        self._signaled.setblocking(False)
        self._signaling.setblocking(False)
        signal.set_wakeup_fd(self._signaling.fileno(), warn_on_full_buffer=False)
        self.watch(self._signaled.fileno(), self._drain)

    def _drain(self, _mask: int) -> None:
        self._signaled.recv(64)

    def watch(self, fd: int, handler: Handler) -> None:
        """Call `handler` whenever `fd` is readable."""
        self._handlers[fd] = handler
        self._epoll.register(fd, _IN)

    def want_output(self, fd: int, wanted: bool) -> None:
        """Call the handler of `fd` when it is writable too, or no longer."""
        self._epoll.modify(fd, _IN | _OUT if wanted else _IN)

    def forget(self, fd: int) -> None:
        """Stop watching `fd`; it must still be open, for a copy elsewhere would keep the event alive."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def run_once(self, timeout_s: float | None) -> None:
        """Wait for events, at most `timeout_s`, and handle them."""
        handlers = self._handlers
        for fd, mask in self._epoll.poll(timeout_s):
            handler = handlers.get(fd)
            if handler is not None:
                handler(mask)


class Stream:
    """A connected socket in a loop. `on_input` is called when it may be read, and at its end."""

    __slots__ = ("_loop", "_on_input", "_out", "sock")

    def __init__(self, loop: Loop, sock: socket.socket, on_input: Callable[[], None]) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._loop = loop
        self._on_input = on_input
        self._out = b""
        loop.watch(sock.fileno(), self._on_event)

    @property
    def unsent(self) -> bool:
        """Whether something waits for room in the socket."""
        return bool(self._out)

    def send(self, data: bytes) -> None:
        """Send at once what fits, and the rest when there is room.

        Raises:
            OSError: the other end is gone.
        """
        if self._out:
            self._out += data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._out = data[sent:]
            self._loop.want_output(self.sock.fileno(), True)

    def close(self) -> None:
        """Stop watching, and close."""
        if self.sock.fileno() >= 0:
            self._loop.forget(self.sock.fileno())
            self.sock.close()

    def _on_event(self, mask: int) -> None:
        if mask & _OUT and self._out:
            try:
                self._out = self._out[self.sock.send(self._out) :]
            except BlockingIOError:
                return
            except OSError:
                self._out = b""
            if not self._out:
                self._loop.want_output(self.sock.fileno(), False)
        if mask & ~_OUT:
            self._on_input()
