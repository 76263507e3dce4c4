"""A fake runtime worker that plays a script: a real one can't be made to answer oddly or at a chosen moment."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any

from gevent.event import Event
from gevent.server import StreamServer

from qinling_falcon.pool.leases import LeasedWorker
from tests.support.executions import answer_body

Step = Callable[[Any], bytes | None]
"""What the worker does with one request: given the connection, it returns the answer. None: it hangs up."""


def answers(code: int, /, **members: Any) -> Step:
    """Answer with a JSON object."""
    return answers_with(json.dumps(members).encode(), code)


def answers_with(body: bytes, code: int = 200) -> Step:
    """Answer with this body."""
    return lambda connection: b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (code, len(body), body)


def succeeds(output: str = "done") -> Step:
    """The function has returned."""
    return answers_with(answer_body(json.dumps(output)))


def fails(reason: str, status: str = "failed") -> Step:
    """The function has failed for this reason, as workers name it."""
    body = answer_body('"the output"', status=status, reason=reason, message="The function has failed.")
    return answers_with(body)


def sends(text: bytes) -> Step:
    """Send this instead of an HTTP answer."""
    return lambda connection: text


def hangs_up() -> Step:
    """Close the connection without an answer, as a worker that is killed does."""
    return lambda connection: None


def waits(event: Event, then: Step) -> Step:
    """Do nothing before the event."""

    def step(connection: Any) -> bytes | None:
        event.wait(30)
        return then(connection)

    return step


class ScriptedWorker:
    """A worker on a port of its own.

    Args:
        steps: what it does with each request to `/execute`, in order. `/load` is accepted, unless `load` is given.
        load: what it does with a request to `/load`.
        cancel: what it does with a request to `/cancel`.

    Attributes:
        asked: path and body of the requests, in order.
        connections: the connections that it has accepted.
    """

    def __init__(self, *steps: Step, load: Step | None = None, cancel: Step | None = None) -> None:
        self._steps = list(steps)
        self._load = answers(200, loaded=True) if load is None else load
        self._cancel = answers(404, error="not running") if cancel is None else cancel
        self.asked: list[tuple[str, bytes]] = []
        self.connections: list[Any] = []
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def leased(self, token: int = 1, *, needs_load: bool = False) -> LeasedWorker:
        """This worker under a lease, for tests without a pool."""
        return LeasedWorker("w", self.address, "s", token, needs_load)

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def close(self) -> None:
        """End, as a worker that was destroyed: nothing listens on its port any more."""
        self._server.stop(timeout=0)
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _serve(self, connection: Any, _address: object) -> None:
        self.connections.append(connection)
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as stream:  # one end has closed it
            while (request := self._read(stream)) is not None:
                self.asked.append(request)
                path = request[0]
                step = {"/load": self._load, "/cancel": self._cancel}.get(path) or self._steps.pop(0)
                answer = step(connection)
                if answer is None:
                    return
                connection.sendall(answer)

    def _read(self, stream: Any) -> tuple[str, bytes] | None:
        """Path and body of the next request; None: the client has closed the connection."""
        line = stream.readline()
        if not line:
            return None
        length = 0
        while (header := stream.readline()) not in (b"\r\n", b""):
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return line.split()[1].decode(), stream.read(length)
