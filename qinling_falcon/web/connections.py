"""The open connections of a web process: which are idle, which wait for their client, and which are served.

A connection is always in one of these states:

1. *idle*: no byte of a next request has arrived. It costs its socket and a watcher of the event loop, no greenlet.
2. *ready*: bytes have arrived, but all places are taken. It waits its turn.
3. *served*: a greenlet reads its request, runs the application, and writes the answer. It holds one of the places.
4. *waiting*: as served, but the client has not sent the rest of a head or a body yet. It gives its place to others.

So clients that send slowly never take the places of those that are served. When as many connections are open as there
may be, the oldest idle one makes room for a new one, else the one that has waited longest for the rest of a head, else
of a body.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from gevent.event import Event
from gevent.hub import get_hub
from gunicorn.http.parser import RequestParser

from qinling_falcon.web.environ import Environments
from qinling_falcon.web.reader import Deadlines, Phase, TimedReader

logger = logging.getLogger(__name__)

Serve = Callable[["Connection"], bool]


class Connection:
    """One client's connection.

    Attributes:
        sock: the client's socket.
        address: where the client is.
        environments: makes the WSGI environments of its requests.
        reader: what the parser reads from.
        parser: Gunicorn's.
    """

    __slots__ = ("address", "environments", "greenlet", "parser", "reader", "sock", "watcher")

    def __init__(self, sock: Any, address: Any, environments: Environments, reader: TimedReader, parser: Any):
        self.sock = sock
        self.address = address
        self.environments = environments
        self.reader = reader
        self.parser = parser
        self.watcher = get_hub().loop.io(sock.fileno(), 1)
        self.greenlet: gevent.Greenlet | None = None

    def has_bytes(self) -> bool:
        """Whether bytes of the client have arrived that nothing has read."""
        self.sock.settimeout(0)
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False
        finally:
            self.sock.settimeout(None)

    def cut(self) -> None:
        """Have whatever waits for the client find that it is gone."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


class Connections:
    """All open connections of this process.

    Args:
        cfg: Gunicorn's configuration.
        serve: serves the request of a connection whose first bytes have arrived, and those that follow at once; returns
            whether the connection stays open. It must not raise.
        places: requests that are served at once.
        most: connections that are open at once.
        keep_alive_s: an idle connection is closed after so long.
        deadlines: of clients that send.
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
        self._idle: OrderedDict[Connection, float] = OrderedDict()  # since when, the oldest first
        self._ready: deque[Connection] = deque()
        self._waiting: dict[Phase, OrderedDict[Connection, None]] = {phase: OrderedDict() for phase in Phase}
        self._taken = 0
        self._stopping = False
        self._room = Event()
        self._room.set()

    def __len__(self) -> int:
        return len(self._open)

    def accept_forever(self, listener: Any) -> None:
        """Take the connections of a listening socket, until it is closed."""
        environments = Environments(self._cfg, listener.getsockname())
        while True:
            self._room.wait()
            try:
                sock, address = listener.accept()
            except OSError as error:
                if self._stopping or listener.fileno() < 0:
                    return
                # Out of file descriptors, or the client is gone already.
                logger.warning("a connection could not be accepted", extra={"reason": str(error)})
                gevent.sleep(0.1)
                continue
            self._add(sock, address, environments)
            gevent.sleep(0)  # a burst is shared with the other web processes, and others have their turn

    def expire_forever(self) -> None:
        """Close idle connections when their time is up."""
        while True:
            gevent.sleep(1.0)
            long_ago = time.monotonic() - self._keep_alive_s
            while self._idle:
                connection, since = next(iter(self._idle.items()))
                if since > long_ago:
                    break
                self._close_idle(connection)

    def stop(self) -> None:
        """Close idle connections, except those whose next request is here, and those with half a head.

        The others close when they are served.
        """
        self._stopping = True
        for connection in self._open:
            if connection.parser.mesg is not None:
                connection.parser.mesg.force_close()  # so that its answer tells the client
        for connection in list(self._idle):
            if not connection.has_bytes():
                self._close_idle(connection)
        for phase in (Phase.HEAD, Phase.DRAIN):
            for connection in self._waiting[phase]:
                connection.cut()

    def kill(self, timeout_s: float) -> None:
        """End what is still served."""
        greenlets = [connection.greenlet for connection in self._open if connection.greenlet is not None]
        gevent.killall(greenlets, timeout=timeout_s)

    def _add(self, sock: Any, address: Any, environments: Environments) -> None:
        connection: Connection
        reader = TimedReader(sock, self._deadlines, lambda phase: self._waits(connection, phase))
        parser = RequestParser(self._cfg, sock, address)
        parser.unreader = reader
        connection = Connection(sock, address, environments, reader, parser)
        self._open.add(connection)
        self._make_room()
        self._park(connection)

    def _make_room(self) -> None:
        if len(self._open) < self._most:
            return
        if self._idle:
            self._close_idle(next(iter(self._idle)))
            return
        for phase in (Phase.DRAIN, Phase.HEAD, Phase.BODY):
            if self._waiting[phase]:
                self._waiting[phase].popitem(last=False)[0].cut()
                return
        self._room.clear()

    def _has_room(self) -> None:
        """There is a place for a new connection, or a connection that can make room for one."""
        if not self._room.is_set():
            self._room.set()

    def _park(self, connection: Connection) -> None:
        self._idle[connection] = time.monotonic()
        self._has_room()
        connection.watcher.start(self._awake, connection)

    def _awake(self, connection: Connection) -> None:
        """Called by the event loop: bytes of an idle connection, or its end, have arrived."""
        connection.watcher.stop()
        del self._idle[connection]
        if self._taken < self._places:
            self._start(connection)
        else:
            self._ready.append(connection)

    def _start(self, connection: Connection) -> None:
        self._taken += 1
        connection.greenlet = gevent.spawn(self._run, connection)

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
        waiting = self._waiting[phase]
        waiting[connection] = None
        self._has_room()
        self._give_place()
        try:
            yield
        finally:
            waiting.pop(connection, None)
            # It goes on at once, above the bound if need be: what it holds already is of no use while it waits again.
            self._taken += 1

    def _close_idle(self, connection: Connection) -> None:
        connection.watcher.stop()
        del self._idle[connection]
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        connection.watcher.close()
        connection.sock.close()
        self._open.discard(connection)
        self._has_room()
