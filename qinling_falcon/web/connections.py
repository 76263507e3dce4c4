"""Tracks the open connections of a web process and decides which of them are served.

A connection is always in one of these states:

1. *idle*: no byte of the next request has arrived. It needs a socket and an event loop watcher, but no greenlet.
2. *ready*: bytes have arrived, but all places are taken. It is queued.
3. *served*: a greenlet reads the request, runs the application and writes the answer. It holds one place.
4. *waiting*: like served, but the rest of a head or a body has not arrived yet, or the client has not read the answer
   yet. It gives up its place meanwhile.

Slow clients therefore take no places. When the number of connections is at its limit, a new connection closes another
one: the oldest idle connection, or else the one that has waited longest for the rest of a head, to send an answer, or
for the rest of a body, in this order.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from gevent.event import Event
from gevent.hub import get_hub

from qinling_falcon.web.environ import Environments
from qinling_falcon.web.heads import HeadParser
from qinling_falcon.web.reader import Deadlines, Phase, TimedReader
from qinling_falcon.web.writer import TimedWriter

logger = logging.getLogger(__name__)

# Greenlets are kept for the next requests, because making and ending one takes 12 µs: Python gets memory for its frames
# from the system, and gives it back.
_MOST_RESTING = 64
# After it has accepted a connection, a process waits this long for each open one, before it accepts another.
_TURN_S = 0.00003
_LONGEST_TURN_S = 0.0005

Serve = Callable[["Connection"], bool]


class Connection:
    """One client's connection.

    Attributes:
        sock: the client's socket.
        address: the client's address.
        environments: makes the WSGI environments of its requests.
        reader: reads from the socket for the parser.
        writer: writes answers to the socket.
        parser: Gunicorn's request parser.
    """

    __slots__ = ("address", "environments", "greenlet", "parser", "reader", "sock", "watcher", "writer")

    def __init__(
        self, sock: Any, address: Any, environments: Environments, reader: TimedReader, writer: TimedWriter, parser: Any
    ) -> None:
        self.sock = sock
        self.address = address
        self.environments = environments
        self.reader = reader
        self.writer = writer
        self.parser = parser
        self.watcher = get_hub().loop.io(sock.fileno(), 1)
        self.greenlet: gevent.Greenlet | None = None

    def has_bytes(self) -> bool:
        """Whether unread bytes have arrived on the socket."""
        self.sock.settimeout(0)
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False
        finally:
            self.sock.settimeout(None)

    def cut(self) -> None:
        """Shut the socket down, so that any greenlet that waits for it gets an error or the end of the stream."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


class Connections:
    """All open connections of this process.

    Args:
        cfg: Gunicorn's configuration.
        serve: serves the next request of a connection, and the requests pipelined after it; returns whether the
            connection stays open. It must not raise.
        places: the number of requests that are served at once.
        most: the number of connections that are open at once.
        keep_alive_s: seconds until an idle connection is closed.
        deadlines: the time limits for requests.
    """

    def __init__(
        self, cfg: Any, serve: Serve, *, places: int, most: int, keep_alive_s: float, deadlines: Deadlines
    ) -> None:
        self._cfg = cfg
        self._serve = serve
        self._places = places
        self._most = most
        self._keep_alive_s = keep_alive_s
        self._deadlines = deadlines
        self._open: set[Connection] = set()
        self._idle: OrderedDict[Connection, float] = OrderedDict()  # time at which each became idle, oldest first
        self._arrived: list[Connection] = []  # those whose bytes have arrived in this turn of the event loop
        self._ready: deque[Connection] = deque()
        self._waiting: dict[Phase, OrderedDict[Connection, None]] = {phase: OrderedDict() for phase in Phase}
        self._taken = 0
        self._resting: list[gevent.Greenlet] = []
        self._for_new: dict[gevent.Greenlet, Connection] = {}  # the connection of each greenlet that has not begun
        self._stopping = False
        self._room = Event()
        self._room.set()

    def __len__(self) -> int:
        return len(self._open)

    def accept_forever(self, listener: Any) -> None:
        """Accept connections on a listening socket until the socket is closed."""
        environments = Environments(self._cfg, listener.getsockname())
        while True:
            self._room.wait()
            try:
                sock, address = listener.accept()
            except OSError as error:
                if self._stopping or listener.fileno() < 0:
                    return
                # The process is out of file descriptors, or the client has already disconnected.
                logger.warning("a connection could not be accepted", extra={"reason": str(error)})
                gevent.sleep(0.1)
                continue
            self._add(sock, address, environments)
            # Other greenlets run, and other web processes, which have fewer connections, get a share of a burst.
            gevent.sleep(min(_LONGEST_TURN_S, _TURN_S * len(self._open)))

    def expire_forever(self) -> None:
        """Close connections that were idle for `keep_alive_s`.

        A connection with unread bytes stays: its request has arrived while this process was busy or did not run.
        """
        while True:
            gevent.sleep(1.0)
            long_ago = time.monotonic() - self._keep_alive_s
            for connection, since in list(self._idle.items()):
                if since > long_ago:
                    break
                if not connection.has_bytes():
                    self._close_idle(connection)

    def stop(self) -> None:
        """Close idle connections without unread bytes, and connections that have sent half a head.

        All other connections close after their current request.
        """
        self._stopping = True
        for connection in self._open:
            if connection.parser.mesg is not None:
                connection.parser.mesg.force_close()  # the answer then has `Connection: close`
        for connection in list(self._idle):
            if not connection.has_bytes():
                self._close_idle(connection)
        for phase in (Phase.HEAD, Phase.DRAIN):
            for connection in self._waiting[phase]:
                connection.cut()

    def kill(self, timeout_s: float) -> None:
        """Kill the greenlets of all open connections, waiting up to `timeout_s` for them to end."""
        greenlets = [connection.greenlet for connection in self._open if connection.greenlet is not None]
        gevent.killall(greenlets, timeout=timeout_s)
        while self._for_new:  # a greenlet that is killed before it begins does not close its connection
            self._close(self._for_new.popitem()[1])

    def _add(self, sock: Any, address: Any, environments: Environments) -> None:
        connection: Connection
        reader = TimedReader(sock, self._deadlines, lambda phase: self._waits(connection, phase))
        parser = HeadParser(self._cfg, sock, address)
        parser.unreader = reader
        writer = TimedWriter(
            sock,
            self._deadlines.send_grace_s,
            self._deadlines.send_min_rate,
            lambda: self._waits(connection, Phase.SEND),
        )
        connection = Connection(sock, address, environments, reader, writer, parser)
        self._open.add(connection)
        self._make_room()
        self._park(connection)

    def _make_room(self) -> None:
        if len(self._open) < self._most:
            return
        if self._idle:
            self._close_idle(next(iter(self._idle)))
            return
        for phase in (Phase.DRAIN, Phase.HEAD, Phase.SEND, Phase.BODY):
            if self._waiting[phase]:
                self._waiting[phase].popitem(last=False)[0].cut()
                return
        self._room.clear()

    def _has_room(self) -> None:
        """Let `accept_forever` go on: there is room for a connection, or one that can be closed to make room."""
        if not self._room.is_set():
            self._room.set()

    def _park(self, connection: Connection) -> None:
        self._idle[connection] = time.monotonic()
        self._has_room()
        connection.watcher.start(self._has_arrived, connection)

    def _has_arrived(self, connection: Connection) -> None:
        """Called by the event loop when bytes, or the end of the stream, arrive on an idle connection."""
        connection.watcher.stop()
        del self._idle[connection]
        if not self._arrived:
            get_hub().loop.run_callback(self._start_arrived)
        self._arrived.append(connection)

    def _start_arrived(self) -> None:
        """Serve the requests of this turn in the order of arrival.

        libev, gevent's event loop on Linux, calls the handlers of one turn in the reverse order.
        """
        arrived, self._arrived = self._arrived, []
        for connection in reversed(arrived):
            if self._taken < self._places:
                self._start(connection)
            else:
                self._ready.append(connection)

    def _start(self, connection: Connection) -> None:
        self._taken += 1
        if self._resting:
            connection.greenlet = self._resting.pop()
            get_hub().loop.run_callback(connection.greenlet.switch, connection)
        else:
            connection.greenlet = gevent.spawn(self._run_forever)
            self._for_new[connection.greenlet] = connection  # as an argument, it would live as long as the greenlet

    def _run_forever(self) -> None:
        """Serve one connection after another, and rest between them, unless enough greenlets rest."""
        self._run(self._for_new.pop(gevent.getcurrent()))
        while len(self._resting) < _MOST_RESTING and not self._stopping:
            self._resting.append(gevent.getcurrent())
            self._run(get_hub().switch())

    def _run(self, connection: Connection) -> None:
        stays = False
        try:
            stays = self._serve(connection) and not self._stopping
        finally:
            connection.greenlet = None
            if stays:
                self._park(connection)
            else:
                self._close(connection)
            self._give_place()

    def _give_place(self) -> None:
        self._taken -= 1
        if self._ready and self._taken < self._places:
            self._start(self._ready.popleft())

    @contextlib.contextmanager
    def _waits(self, connection: Connection, phase: Phase) -> Iterator[None]:
        if self._stopping and phase is Phase.HEAD:
            # `stop` did not find it waiting, because it came just before.
            raise ConnectionResetError(errno.ECONNRESET, "the process stops")
        waiting = self._waiting[phase]
        waiting[connection] = None
        self._has_room()
        self._give_place()
        try:
            yield
        finally:
            waiting.pop(connection, None)
            # The request goes on at once, even above the number of places. If it queued for a place, it would keep
            # its memory all the while and make no progress.
            self._taken += 1

    def _close_idle(self, connection: Connection) -> None:
        connection.watcher.stop()
        del self._idle[connection]
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        connection.watcher.close()
        connection.sock.close()
        connection.parser.mesg = None
        self._open.discard(connection)
        self._has_room()
