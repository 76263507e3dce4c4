"""Limits the number and the bytes of the request bodies that a web process is receiving.

A client that sends half a body holds a connection, memory, and for an upload a file. The limits apply to one web
process. One project may use half of each limit, so that other projects can still send their bodies.

At a limit, the body whose client has been silent for longest is cut off, if it has been silent for a second or more.
Stalled clients therefore don't block clients that send. If no client has stalled, the new body is refused.
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
    """One request body, a context manager. The body is received inside the `with` block.

    Entering the block raises `Unavailable` if there are too many bodies and none has stalled.

    Attributes:
        project_id: the caller's project.
        size: bytes that have arrived and are still held.
        counted: whether the body is counted at the moment.
        cut: whether it was cut off to make room for others.
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
        """Record that the server now waits for the client's next bytes."""
        self._bodies.expects(self)

    def received(self, size: int) -> None:
        """Count the bytes that have arrived.

        Raises:
            Unavailable: a limit is reached and no body has stalled; or this body was cut off.
        """
        self._bodies.received(self, size)

    def stop(self) -> None:
        """Disconnect the client."""
        self.cut = True
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)


class _Held:
    """The unfinished bodies of one project or of all projects.

    Attributes:
        count: the number of bodies.
        size: their bytes.
        silent: the bodies whose next bytes the server waits for, with the start of the wait; the longest wait first.
    """

    __slots__ = ("count", "silent", "size")

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self.silent: OrderedDict[UnfinishedBody, float] = OrderedDict()


class UnfinishedBodies:
    """The bodies of one kind that this process is receiving.

    Args:
        kind: the name of the kind, for messages.
        most: the most bodies at once.
        most_bytes: the most bytes at once.
    """

    def __init__(self, kind: str, most: int, most_bytes: int):
        self._kind = kind
        self._most = most
        self._most_bytes = most_bytes
        self._all = _Held()
        self._projects: dict[str, _Held] = {}

    @property
    def count(self) -> int:
        """The number of bodies that are being received."""
        return self._all.count

    @property
    def size(self) -> int:
        """The bytes that these bodies hold."""
        return self._all.size

    def receiving(self, project_id: str, sock: Any) -> UnfinishedBody:
        """Make a body, to be received in its `with` block.

        Args:
            project_id: the caller's project.
            sock: the client's socket; None if the client can't be disconnected.
        """
        return UnfinishedBody(self, project_id, sock)

    def add(self, body: UnfinishedBody) -> None:
        """Count a body; see `UnfinishedBody` for the error."""
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
        """Stop counting a body."""
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
    """All bodies that this process is receiving.

    Attributes:
        bodies: JSON and forms without a file, which are held in memory.
        uploads: forms with a package, which is written to a file as it arrives.
    """

    __slots__ = ("bodies", "uploads")

    def __init__(self, settings: Settings):
        self.bodies = UnfinishedBodies(
            "request bodies", settings.max_unfinished_bodies, settings.max_unfinished_body_bytes
        )
        self.uploads = UnfinishedBodies(
            "uploads", settings.max_unfinished_uploads, settings.max_unfinished_upload_bytes
        )
