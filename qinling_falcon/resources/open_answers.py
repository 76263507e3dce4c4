"""Limits the memory and disk that slow readers hold in a web process.

Until the client has read an answer, the answer holds a connection, and memory (a
chunk of a list, a large result) or disk space (a package from Swift). This module
counts all answers above `SMALL`, by project and in total, from before they are
sent until they are closed. If a new answer exceeds a limit, it waits for up to
`WAIT_S`. There are three cases:

1. An answer has made no progress for `STALLED_S`: it is cut off. If there are
   several, the project that holds most loses one.
2. An answer is closed meanwhile: the new answer takes its place.
3. All answers make progress: the new one is refused.

Progress means that the client's socket has accepted a piece. `middleware` counts
answers with large bodies, `lists` counts lists, and `downloads` counts packages.

The state is shared by the greenlets of one thread. No method switches greenlets
while it is inconsistent, so it needs no lock.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import struct
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qinling_falcon.errors import Unavailable
from qinling_falcon.models.cooperation import native
from qinling_falcon.resources.request import Request
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

# An answer up to this size is not counted, because it fits into the socket's buffer.
SMALL = 16 * 1024
# An answer is sent in pieces of this size.
PIECE = 64 * 1024
STALLED_S = 1.0
WAIT_S = 1.5
_POLL_S = 0.05
# SO_LINGER with a time of 0: when the socket is closed, the kernel drops the unsent rest of the answer.
_DROP = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Cost:
    """The resources that one answer holds, or a limit for several answers.

    Attributes:
        memory: bytes in memory.
        disk: bytes on disk.
        answers: the number of answers.
    """

    memory: int
    disk: int = 0
    answers: int = 1

    def by_kind(self) -> Mapping[str, int]:
        """The amounts that are not zero, by kind."""
        kinds = {"memory": self.memory, "disk": self.disk, "answers": self.answers}
        return {kind: amount for kind, amount in kinds.items() if amount}


class Room:
    """The resources that one answer has reserved, until `give_back`.

    Args:
        owner: counts the reservation.
        req: the request that is answered.
        cost: the reserved resources.
    """

    def __init__(self, owner: OpenAnswers, req: Request, cost: Cost) -> None:
        self.project_id = req.caller.project_id
        self.request_id = req.request_id
        self.cost = cost
        self.counted = True
        self._owner = owner
        # Only Gunicorn provides the socket. On another server, `cut_off` ends the answer at its next piece.
        self._connection: socket.socket | None = req.env.get("gunicorn.socket")
        self._handed_out: float | None = None

    def hold(self, *, memory: int | None = None, disk: int | None = None) -> None:
        """Change the reservation; None leaves an amount unchanged.

        Raises:
            Unavailable: a limit is reached, or the answer was cut off.
        """
        if not self.counted:
            raise _refused()
        memory = self.cost.memory if memory is None else max(PIECE, memory)
        cost = Cost(memory, self.cost.disk if disk is None else disk)
        if cost != self.cost:
            self._owner.change(self, cost)

    def handed_out(self, piece: bytes | None) -> None:
        """Record that the server is about to send `piece`; None: it has sent the last one and asks for the next."""
        self._handed_out = None if piece is None else time.monotonic()

    def stalled_s(self, now: float) -> float:
        """Seconds for which the client's socket has not accepted the current piece; 0 if there is none."""
        return 0.0 if self._handed_out is None else now - self._handed_out

    def cut_off(self) -> None:
        """End the answer: the server's blocked write fails, or else the next piece does."""
        idle_s = round(self.stalled_s(time.monotonic()), 3)
        about = {"request_id": self.request_id, "project_id": self.project_id, "idle_s": idle_s}
        logger.info("an answer that was not read in time was cut off", extra=about)
        self.give_back()
        if self._connection is not None:
            _shut_down(self._connection)

    def give_back(self) -> None:
        """Release the reservation."""
        if self.counted:
            self.counted = False
            self._owner.gone(self)

    def __del__(self) -> None:
        # If the request fails after the reservation, the answer never reaches the server and is not closed.
        self.give_back()


class OpenAnswer:
    """The body of an answer. The server iterates over its pieces and closes it.

    Args:
        room: the reservation of the answer.
        parts: the parts of the body, of any size but not empty. One is in memory at a time.
        close: called once, when the answer is closed.
    """

    def __init__(self, room: Room, parts: Iterator[bytes], close: Callable[[], Any] | None = None) -> None:
        self._room = room
        self._parts = parts
        self._close = close
        self._part = b""
        self._sent = 0

    def close(self) -> None:
        """Release the reservation. The server always calls this, also after an error."""
        parts, close, self._parts, self._close = self._parts, self._close, iter(()), None
        self._part = b""
        try:
            if hasattr(parts, "close"):
                parts.close()
            if close is not None:
                close()
        finally:
            self._room.give_back()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._room.handed_out(None)
        if self._sent >= len(self._part):
            self._part, self._sent = b"", 0
            self._part = next(self._parts)
            if self._room.counted:
                with contextlib.suppress(Unavailable):
                    self._room.hold(memory=len(self._part))
                    return self._piece()
                self._room.cut_off()
        if not self._room.counted:
            raise BrokenPipeError(errno.EPIPE, "the answer was cut off")
        return self._piece()

    def _piece(self) -> bytes:
        piece = self._part if len(self._part) <= PIECE else self._part[self._sent : self._sent + PIECE]
        self._sent += len(piece)
        self._room.handed_out(piece)
        return piece

    def __del__(self) -> None:
        self.close()


class OpenAnswers:
    """The open answers of this process.

    Args:
        most: the limits for all answers together. The answers of one project may hold half.
    """

    def __init__(self, most: Cost) -> None:
        self._most = most.by_kind()
        # Weak references, so that an answer that never reaches the server is collected, which releases its room.
        self._open: weakref.WeakSet[Room] = weakref.WeakSet()
        self._held = _Held()
        self._awaited = _Held()

    @classmethod
    def from_settings(cls, settings: Settings) -> OpenAnswers:
        """Make it with the limits from the settings."""
        return cls(Cost(settings.max_open_answer_bytes, settings.max_open_answer_files, settings.max_open_answers))

    def open(self, req: Request, *, memory: int = PIECE, disk: int = 0) -> Room:
        """Reserve room for an answer. The caller releases it, or makes an `OpenAnswer` that does.

        Args:
            req: the request that is answered.
            memory: bytes in memory that wait for the client.
            disk: bytes on disk that only this answer uses.

        Raises:
            Unavailable: a limit is reached.
        """
        cost = Cost(memory, disk)
        self._make_room(req.caller.project_id, cost)
        self._held.count(req.caller.project_id, cost)
        room = Room(self, req, cost)
        self._open.add(room)
        return room

    def change(self, room: Room, cost: Cost) -> None:
        """Change the cost of an open answer; see `Room.hold`."""
        more = Cost(max(0, cost.memory - room.cost.memory), max(0, cost.disk - room.cost.disk), answers=0)
        self._make_room(room.project_id, more)
        self._held.count(room.project_id, room.cost, -1)
        room.cost = cost
        self._held.count(room.project_id, cost)

    def gone(self, room: Room) -> None:
        """Stop counting an answer; see `Room.give_back`."""
        self._held.count(room.project_id, room.cost, -1)

    def held(self) -> Cost:
        """The resources that all open answers hold."""
        return Cost(*(self._held.total(kind) for kind in ("memory", "disk", "answers")))

    def _make_room(self, project_id: str, cost: Cost) -> None:
        """Wait and cut off stalled answers until `cost` fits within the limits."""
        if self._lacks(self._held, project_id, cost) is None:
            return
        # Answers that wait for room are already in memory, so the same limits apply to them.
        if self._lacks(self._awaited, project_id, cost) is not None:
            raise _refused()
        self._awaited.count(project_id, cost)
        try:
            end = time.monotonic() + WAIT_S
            while (lack := self._lacks(self._held, project_id, cost)) is not None:
                now = time.monotonic()
                stalled = self._stalled(*lack, project_id, now)
                if stalled is not None:
                    stalled.cut_off()
                elif now < end:
                    time.sleep(_POLL_S)
                else:
                    raise _refused()
        finally:
            self._awaited.count(project_id, cost, -1)

    def _lacks(self, held: _Held, project_id: str, cost: Cost) -> tuple[str, bool] | None:
        """Find the limit that `cost` would exceed; None if it fits.

        A cost above the limit fits if nothing else of that kind is held.

        Returns:
            The kind, and whether the limit is that of the project (else that of all projects).
        """
        for kind, amount in cost.by_kind().items():
            own, total, most = held.of(project_id, kind), held.total(kind), self._most.get(kind, 0)
            if own and own + amount > most // 2:
                return kind, True
            if total and total + amount > most:
                return kind, False
        return None

    def _stalled(self, kind: str, own: bool, project_id: str, now: float) -> Room | None:
        """The stalled answer to cut off; None if there is none.

        An answer is cut off for another project only while its own project holds at least as much as that one.
        """
        least = self._held.of(project_id, kind)
        stalled = [
            room
            for room in self._open
            if room.counted
            and room.stalled_s(now) > STALLED_S
            and kind in room.cost.by_kind()
            and (room.project_id == project_id if own else self._held.of(room.project_id, kind) >= least)
        ]
        return max(
            stalled, key=lambda room: (self._held.of(room.project_id, kind), room.stalled_s(now)), default=None
        )


class _Held:
    """Counts the held amounts by kind and project."""

    def __init__(self) -> None:
        self._amounts: Counter[tuple[str, str]] = Counter()
        self._totals: Counter[str] = Counter()

    def of(self, project_id: str, kind: str) -> int:
        return self._amounts[project_id, kind]

    def total(self, kind: str) -> int:
        return self._totals[kind]

    def count(self, project_id: str, cost: Cost, sign: int = 1) -> None:
        for kind, amount in cost.by_kind().items():
            self._totals[kind] += sign * amount
            self._amounts[project_id, kind] += sign * amount
            if not self._amounts[project_id, kind]:
                del self._amounts[project_id, kind]


def _shut_down(connection: socket.socket) -> None:
    """Shut down a connection while another greenlet may wait for its socket.

    This uses a native socket. With gevent's, the waiting greenlet would get an error that Gunicorn treats as its own.
    """
    with contextlib.suppress(OSError):  # the client may already have disconnected
        other = native("socket", "socket")(fileno=os.dup(connection.fileno()))
        with other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DROP)
            other.shutdown(socket.SHUT_RDWR)


def _refused() -> Unavailable:
    return Unavailable(
        "Too many large answers are being read. Finish reading your other answers, then try again.",
        retry_after_s=1,
    )
