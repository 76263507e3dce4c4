"""Request bodies that are still arriving: how many there may be, and how many bytes of them a web process holds.

A client that sends half a body holds a connection, memory, and for an upload a file. The bounds are those of one web
process; one project may have half of each, so that it never keeps others from sending theirs. Where a bound is reached,
the body whose client has been silent for longest makes room, if that is a second or more: a crowd of stalled clients
does not keep out those that send. If none has stalled, the new body is refused.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import OrderedDict
from types import TracebackType
from typing import Any

from qinling_falcon.errors import Unavailable
from qinling_falcon.settings import Settings

_STALLED_S = 1.0


class UnfinishedBody:
    """One body that is received in the `with` block of this.

    Entering raises `Unavailable`: there are too many, and none has stalled.

    Attributes:
        project_id: whose it is.
        size: bytes that have arrived and are still held.
        counted: it is one of those that are being received.
        cut: it has made room for others.
    """

    __slots__ = ("_bodies", "_sock", "counted", "cut", "project_id", "size")

    def __init__(self, bodies: UnfinishedBodies, project_id: str, sock: Any):
        self._bodies = bodies
        self._sock = sock
        self.project_id = project_id
        self.size = 0
        self.counted = False
        self.cut = False

    def __enter__(self) -> UnfinishedBody:
        self._bodies.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bodies.remove(self)

    def expects(self) -> None:
        """Say that the client's next bytes are waited for."""
        self._bodies.expects(self)

    def received(self, size: int) -> None:
        """Count the bytes that have arrived.

        Raises:
            Unavailable: there are too many unfinished bodies, or they hold too much, and none has stalled; or this one
                has been cut.
        """
        self._bodies.received(self, size)

    def stop(self) -> None:
        """Disconnect the client."""
        self.cut = True
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)


class _Held:
    """What the bodies of one project, or of all, hold.

    Attributes:
        count: bodies.
        size: bytes of them.
        silent: those whose clients are waited for, and since when; the longest first.
    """

    __slots__ = ("count", "silent", "size")

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self.silent: OrderedDict[UnfinishedBody, float] = OrderedDict()


class UnfinishedBodies:
    """The bodies of one kind that a process is receiving.

    Args:
        kind: what they are, for messages.
        most: bodies at once.
        most_bytes: bytes of them at once.
    """

    def __init__(self, kind: str, most: int, most_bytes: int):
        self._kind = kind
        self._most = most
        self._most_bytes = most_bytes
        self._all = _Held()
        self._projects: dict[str, _Held] = {}

    @property
    def count(self) -> int:
        """Bodies that are being received."""
        return self._all.count

    @property
    def size(self) -> int:
        """Bytes of them that are held."""
        return self._all.size

    def receiving(self, project_id: str, sock: Any) -> UnfinishedBody:
        """A body, to be received in its `with` block.

        Args:
            project_id: whose it is.
            sock: the client's; None where it can't be disconnected.
        """
        return UnfinishedBody(self, project_id, sock)

    def add(self, body: UnfinishedBody) -> None:
        """Count a body; raises as entering it does."""
        project = self._projects.get(body.project_id)
        if project is None:
            project = self._projects[body.project_id] = _Held()
        project.count += 1
        self._all.count += 1
        body.counted = True
        try:
            self._make_room(project)
        except Unavailable:
            self.remove(body)
            raise

    def remove(self, body: UnfinishedBody) -> None:
        """Count a body no longer."""
        if not body.counted:
            return
        body.counted = False
        project = self._projects[body.project_id]
        for held in (project, self._all):
            held.count -= 1
            held.size -= body.size
            held.silent.pop(body, None)
        if not project.count:
            del self._projects[body.project_id]

    def expects(self, body: UnfinishedBody) -> None:
        """See `UnfinishedBody.expects`."""
        if body.counted:
            now = time.monotonic()
            self._all.silent[body] = now
            self._projects[body.project_id].silent[body] = now

    def received(self, body: UnfinishedBody, size: int) -> None:
        """See `UnfinishedBody.received`."""
        if body.cut:
            raise self._too_many()
        if not body.counted:
            return
        project = self._projects[body.project_id]
        body.size += size
        for held in (project, self._all):
            held.size += size
            held.silent.pop(body, None)
        self._make_room(project)

    def _make_room(self, project: _Held) -> None:
        for held, share in ((project, 2), (self._all, 1)):
            while held.count > max(1, self._most // share) or held.size > self._most_bytes // share:
                stalled, since = next(iter(held.silent.items()), (None, 0.0))
                if stalled is None or time.monotonic() - since < _STALLED_S:
                    raise self._too_many()
                self.remove(stalled)
                stalled.stop()

    def _too_many(self) -> Unavailable:
        return Unavailable(f"Too many {self._kind} are arriving at the moment; send this one again.", retry_after_s=1)


class Arriving:
    """All bodies that a process is receiving.

    Attributes:
        bodies: JSON and forms without a file; they arrive in memory.
        uploads: forms with a package, which goes to a file as it arrives.
    """

    __slots__ = ("bodies", "uploads")

    def __init__(self, settings: Settings):
        self.bodies = UnfinishedBodies(
            "request bodies", settings.max_unfinished_bodies, settings.max_unfinished_body_bytes
        )
        self.uploads = UnfinishedBodies(
            "uploads", settings.max_unfinished_uploads, settings.max_unfinished_upload_bytes
        )
